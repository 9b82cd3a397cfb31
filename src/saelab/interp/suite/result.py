"""What an evaluation yields: its metrics by category, rows of detail, and the settings and deviations that made it.

Every evaluation of this package gives one `Evaluation` per SAE; `saebench_json` writes it in SAEBench's own layout.
A metric that could not be measured is None and never a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

Preset = Literal["paper", "small", "tiny"]
Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one SAE. kind: SAEBench's id, such as "tpp"; config: settings, preset and deviations.

    reason: why metrics are missing, where they are.
    """

    kind: str
    metrics: Mapping[str, Metrics]
    config: Mapping[str, Any]
    details: Sequence[Mapping[str, Any]] = ()
    unstructured: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class Headline:
    """The figure of an evaluation that is quoted: its kind and metric, and which way is better."""

    kind: str
    metric: str
    better: Literal["higher", "lower"]
    hint: str = ""


# By title, in the order in which they are shown.
HEADLINES: Mapping[str, Headline] = {
    "CE score": Headline("core", "ce_loss_score", "higher", "against zero"),
    "KL score": Headline("core", "kl_div_score", "higher", "against zero"),
    "Explained": Headline("core", "fraction_variance_explained", "higher", "share of variance"),
    "Auto-interp": Headline("autointerp", "balanced_accuracy", "higher", "balanced"),
    "Probing": Headline("sparse_probing", "sae_top_1_test_accuracy", "higher", "one latent"),
    "sae-probes": Headline("sparse_probing_sae_probes", "sae_top_1_test_auc", "higher", "AUROC, one latent"),
    "SCR": Headline("scr", "scr_metric_threshold_10", "higher", "ten latents"),
    "TPP": Headline("tpp", "tpp_threshold_10_total_metric", "higher", "ten latents"),
    "Absorption": Headline("absorption_first_letter", "mean_absorption_fraction_score", "lower", "fraction"),
    "RAVEL": Headline("ravel", "disentanglement_score", "higher", "disentanglement"),
    "Fuzzing": Headline("fuzzing", "fuzzing_auroc", "higher", "AUROC"),
    "Intervention": Headline("intervention", "intervention_auroc", "higher", "AUROC"),
    "Unlearning": Headline("unlearning_local", "unlearning_local_score", "higher", "local texts"),
    "Meta-SAE": Headline(
        "meta_structure_decoder_variance", "decoder_fraction_variance_explained", "lower", "share of variance"
    ),
}


def averaged(rows: Sequence[Mapping[str, float | int | None]]) -> Metrics:
    """The mean of each key over the rows that have a value for it, keys in order of first appearance."""
    keys = {key: None for row in rows for key in row}
    found: Metrics = {}
    for key in keys:
        values = [float(v) for row in rows if (v := row.get(key)) is not None]
        found[key] = fmean(values) if values else None
    return found
