"""Every evaluation of the suite by name: the one place that lists them. A new one is a file and one entry here.

An entry holds what others may ask without loading the evaluation: the file that computes it and the figures that are
quoted of it. The order is that of runs, tables and pages. The report reads this list, so nothing heavy is imported.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Headline:
    """A figure that is quoted: its title in tables, its metric, which way is better, and what it is in a few words."""

    title: str
    metric: str
    better: Literal["higher", "lower"]
    hint: str


@dataclass(frozen=True)
class Entry:
    """One evaluation. kind: SAEBench's id, or a name of ours where it has none.

    module: where its `EVALUATION` is. needs: the setting of `SuiteConfig` without which it is left out.
    """

    kind: str
    module: str
    headlines: tuple[Headline, ...] = ()
    needs: str | None = None


_HERE = "saelab.interp.suite"
CATALOGUE: dict[str, Entry] = {
    entry.kind: entry
    for entry in (
        Entry(
            "core",
            f"{_HERE}.core",
            (
                Headline("CE score", "ce_loss_score", "higher", "against zero"),
                Headline("KL score", "kl_div_score", "higher", "against zero"),
                Headline("Explained", "fraction_variance_explained", "higher", "share of variance"),
            ),
        ),
        Entry(
            "autointerp",
            f"{_HERE}.autointerp",
            (Headline("Auto-interp", "balanced_accuracy", "higher", "balanced"),),
        ),
        Entry(
            "sparse_probing",
            f"{_HERE}.sparse_probing",
            (Headline("Probing", "sae_top_1_test_accuracy", "higher", "one latent"),),
        ),
        Entry(
            "sparse_probing_sae_probes",
            f"{_HERE}.sae_probes",
            (Headline("sae-probes", "sae_top_1_test_auc", "higher", "AUROC, one latent"),),
        ),
        Entry("scr", f"{_HERE}.scr", (Headline("SCR", "scr_metric_threshold_10", "higher", "ten latents"),)),
        Entry("tpp", f"{_HERE}.tpp", (Headline("TPP", "tpp_threshold_10_total_metric", "higher", "ten latents"),)),
        Entry(
            "absorption_first_letter",
            f"{_HERE}.absorption",
            (Headline("Absorption", "mean_absorption_fraction_score", "lower", "fraction"),),
        ),
        Entry(
            "meta_structure_decoder_variance",
            f"{_HERE}.meta_structure",
            (Headline("Meta-SAE", "decoder_fraction_variance_explained", "lower", "share of variance"),),
        ),
        Entry(
            "ravel",
            f"{_HERE}.ravel",
            (Headline("RAVEL", "disentanglement_score", "higher", "disentanglement"),),
            needs="ravel",
        ),
        Entry("fuzzing", f"{_HERE}.fuzzing", (Headline("Fuzzing", "fuzzing_auroc", "higher", "AUROC"),)),
        Entry(
            "intervention",
            f"{_HERE}.intervention",
            (Headline("Intervention", "intervention_auroc", "higher", "AUROC"),),
        ),
        Entry(
            "unlearning_local",
            f"{_HERE}.unlearning",
            (Headline("Unlearning", "unlearning_local_score", "higher", "local texts"),),
        ),
    )
}


def headlines() -> Iterator[tuple[str, Headline]]:
    """(kind, figure) of every figure that is quoted, in the order in which they are shown."""
    return ((entry.kind, headline) for entry in CATALOGUE.values() for headline in entry.headlines)
