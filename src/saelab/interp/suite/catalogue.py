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


def _entry(
    kind: str, file: str, *headlines: tuple[str, str, Literal["higher", "lower"], str], needs: str | None = None
) -> Entry:
    return Entry(kind, f"saelab.interp.suite.{file}", tuple(Headline(*h) for h in headlines), needs)


_DECODER = "decoder_fraction_variance_explained"
_ALL = (
    _entry(
        "core",
        "core",
        ("CE score", "ce_loss_score", "higher", "against zero"),
        ("KL score", "kl_div_score", "higher", "against zero"),
        ("Explained", "fraction_variance_explained", "higher", "share of variance"),
    ),
    _entry("autointerp", "autointerp", ("Auto-interp", "balanced_accuracy", "higher", "balanced")),
    _entry("sparse_probing", "sparse_probing", ("Probing", "sae_top_1_test_accuracy", "higher", "one latent")),
    _entry(
        "sparse_probing_sae_probes",
        "sae_probes",
        ("sae-probes", "sae_top_1_test_auc", "higher", "AUROC, one latent"),
    ),
    _entry("scr", "scr", ("SCR", "scr_metric_threshold_10", "higher", "ten latents")),
    _entry("tpp", "tpp", ("TPP", "tpp_threshold_10_total_metric", "higher", "ten latents")),
    _entry(
        "absorption_first_letter", "absorption", ("Absorption", "mean_absorption_fraction_score", "lower", "fraction")
    ),
    _entry("meta_structure_decoder_variance", "meta_structure", ("Meta-SAE", _DECODER, "lower", "share of variance")),
    _entry("ravel", "ravel", ("RAVEL", "disentanglement_score", "higher", "disentanglement"), needs="ravel"),
    _entry("fuzzing", "fuzzing", ("Fuzzing", "fuzzing_auroc", "higher", "AUROC")),
    _entry("intervention", "intervention", ("Intervention", "intervention_auroc", "higher", "AUROC")),
    _entry("unlearning_local", "unlearning", ("Unlearning", "unlearning_local_score", "higher", "local texts")),
)
CATALOGUE: dict[str, Entry] = {entry.kind: entry for entry in _ALL}


def headlines() -> Iterator[tuple[str, Headline]]:
    """(kind, figure) of every figure that is quoted, in the order in which they are shown."""
    return ((entry.kind, headline) for entry in CATALOGUE.values() for headline in entry.headlines)
