"""Ratios of sums over documents, and their differences, with BCa intervals over the documents.

A share of variance, a mean cross-entropy or a matching score of a text is the ratio of two sums over its tokens. Tokens
of one document are alike, so whole documents are drawn (a ratio estimator over clusters; Cochran 1977, chapter 6).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

import saelab.stats.resample as resample
from saelab.stats.association import Draws
from saelab.stats.estimate import Estimate

FEWEST_DOCUMENTS = 8  # below which no interval is drawn
METHOD = "BCa bootstrap over documents"


@dataclass(frozen=True)
class Sums:
    """What each of K documents adds to the two halves of a ratio."""

    top: Float[np.ndarray, " K"]
    bottom: Float[np.ndarray, " K"]

    @property
    def ratio(self) -> float:
        """The ratio of the whole text; NaN where its lower half is zero."""
        return float(self.top.sum() / self.bottom.sum()) if self.bottom.sum() else float("nan")


def ratio_estimate(first: Sums, less: Sums | None = None, *, name: str, seed: int = 0, draws: int = 2000) -> Estimate:
    """A ratio, or (with `less`) how far it lies above another of the same documents, with its 95 % interval.

    name: of the draws. Documents that add nothing to either half are left out; fewer than `FEWEST_DOCUMENTS` leave a
    value without an interval, a lower half of zero no value.
    """
    parts = [first] if less is None else [first, less]
    own = Draws(seed, draws, ("ratio", name))
    told = np.any([part.bottom != 0 for part in parts], axis=0)
    start = Estimate(statistic="ratio", state="undefined", n=int(told.sum()), seed=seed)
    if not all(np.isfinite(part.ratio) for part in parts):
        return start
    kept = [Sums(part.top[told], part.bottom[told]) for part in parts]
    value = kept[0].ratio - (kept[1].ratio if less is not None else 0.0)
    start = replace(start, state="ok", value=value)
    if start.n < FEWEST_DOCUMENTS:
        return replace(start, note=f"too few documents ({start.n}) for an interval")
    weights = resample.bootstrap(start.n, draws, own.generator("bootstrap")).weights.astype(float)
    found = resample.bca(
        _signed([_drawn(part, weights) for part in kept]), value, _signed([_influence(p) for p in kept])
    )
    if found is None:
        return replace(start, note="the documents do not vary enough for an interval")
    return replace(start, low=found[0], high=found[1], interval_method=METHOD)


def _signed(parts: Sequence[Float[np.ndarray, " N"]]) -> Float[np.ndarray, " N"]:
    return parts[0] if len(parts) == 1 else parts[0] - parts[1]


def _drawn(part: Sums, weights: Float[np.ndarray, "R K"]) -> Float[np.ndarray, " R"]:
    bottom = weights @ part.bottom
    return np.divide(weights @ part.top, bottom, out=np.full_like(bottom, np.nan), where=bottom != 0)


def _influence(part: Sums) -> Float[np.ndarray, " K"]:
    return (part.top - part.ratio * part.bottom) / part.bottom.sum()
