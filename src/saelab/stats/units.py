"""What an interval draws: SAEs, or the language models that SAEs share. One jackknife for every mean and ratio of them.

SAEs of one LM share it, so their noise is not theirs alone: what a selection gains in one LM and not in another would
otherwise be counted once per SAE. Where rows carry a cluster (the LM) with two values or more, whole clusters are left
out in turn, and Student's t has one degree of freedom less than there are clusters. For clusters of one size this is
the t interval of the clusters' means, exact for normal ones whatever an LM's own effect is. Below three clusters there
is no interval: a note says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy
from jaxtyping import Float, Int, Shaped

from saelab.stats.estimate import FEWEST, Estimate

Weighted = Callable[[Float[np.ndarray, "R N"]], Float[np.ndarray, "R"]]


@dataclass(frozen=True)
class Units:
    """The units of N rows: `index` says which unit a row belongs to, `name` what they are ("SAEs", "lm")."""

    name: str
    index: Int[np.ndarray, "N"]

    @property
    def count(self) -> int:
        return np.unique(self.index).size

    def take(self, keep: Shaped[np.ndarray, "N"]) -> "Units":
        """The units of the rows that are kept."""
        return Units(self.name, self.index[keep])

    def means(self, values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "C"]:
        """The mean of each unit's rows."""
        return np.array([values[self.index == i].mean() for i in np.unique(self.index)])


def units_of(rows: int, clusters: Shaped[np.ndarray, "N"] | None = None, name: str = "cluster") -> Units:
    """The rows themselves (SAEs), or their clusters where there are at least two."""
    if clusters is None or len(set(clusters.tolist())) < 2:
        return Units("SAEs", np.arange(rows))
    return Units(name, np.unique(clusters.astype(str), return_inverse=True)[1])


def over_units(
    start: Estimate, statistic: Weighted, units: Units, *, logarithm: bool = False, bound: float | None = None
) -> Estimate:
    """A statistic of row weights with the jackknife's t interval and p over units; log(1 + value) where asked.

    start: an estimate whose size is known. bound: the interval is held in [-bound, bound]. The p is that of a true
    value of 0.
    """
    n, m = units.index.size, units.count
    if n < FEWEST:
        return start
    value = float(statistic(np.ones((1, n)))[0])
    if not np.isfinite(value):
        return replace(start, note="the base is 0 in every SAE")
    start = replace(start, state="ok", value=value)
    if m < FEWEST:
        return replace(start, note=f"{m} values of {units.name}: no interval below {FEWEST}")
    left = (units.index[None, :] != np.unique(units.index)[:, None]).astype(float)
    others = statistic(left)
    if logarithm and not (value > -1 and (others > -1).all()):
        return replace(start, note="no interval: the selected features of nearly all SAEs score 0")
    scaled, centre = (np.log1p(others), np.log1p(value)) if logarithm else (others, value)
    se = float(np.sqrt((m - 1) / m * ((scaled - scaled.mean()) ** 2).sum()))
    if not np.isfinite(se) or se < 1e-12:
        return replace(start, note=f"the {units.name} do not vary enough for an interval")
    reach = float(scipy.stats.t.ppf(0.975, m - 1)) * se
    low, high = (float(np.expm1(e) if logarithm else e) for e in (centre - reach, centre + reach))
    low, high = (low, high) if bound is None else (max(-bound, low), min(bound, high))
    p = 2 * float(scipy.stats.t.sf(abs(centre) / se, m - 1))
    method = f"t over {units.name}" + (", log scale" if logarithm else "")
    note = f"{m} values of {units.name}" if units.name != "SAEs" else None
    return replace(
        start, low=low, high=high, se=None if logarithm else se, interval_method=method, p=p, p_method=method, note=note
    )
