"""Means over features that a judge was asked about: the result of `fuzzing` and of `intervention`."""

from collections.abc import Mapping, Sequence
from typing import Any

from saelab.interp.features.detection import Detection
from saelab.interp.suite.result import Metrics, Result, averaged


def judged(kind: str, found: Sequence[Detection], config: Mapping[str, Any]) -> Result:
    """`{kind}_balanced_accuracy` and `{kind}_auroc` of the features that could be scored, and counts."""
    scored = [{"balanced_accuracy": d.balanced_accuracy, "auroc": d.auroc} for d in found if d.auroc is not None]
    means = averaged(scored)
    metrics: Metrics = {f"{kind}_{name}": means.get(name) for name in ("balanced_accuracy", "auroc")}
    metrics |= {"n_latents": len(scored), "n_missing": sum(d.n_missing for d in found)}
    rows = {str(d.feature): {"auroc": d.auroc, "balanced_accuracy": d.balanced_accuracy} for d in found}
    reason = None if scored else "no latent could be tested"
    return Result(kind, {kind: metrics}, config, unstructured=rows, reason=reason)
