"""Judge noise: how reliable a score is, and what its noise does to tau.

Reliability is the share of a score's variance that is not noise: from repeated judgements of the same items, the
one-way intraclass correlation (Shrout & Fleiss 1979). The same formula serves an SAE's mean over sampled features:
item = SAE, repeats = features. Noise shrinks a correlation by sqrt(reliability of x times that of y) (Spearman 1904);
for tau it does so on the scale rho = sin(pi tau / 2) (Greiner 1909), exact for a Gaussian copula and an approximation
otherwise.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

from saelab.core.errors import UserError
from saelab.stats.association import Draws, naive_tau, sample_of
from saelab.stats.estimate import FEWEST, Estimate, frame
from saelab.stats.inputs import complete, labels, numbers, require


def reliability(table: pl.DataFrame, *, item: str, value: str) -> pl.DataFrame:
    """Reliability of one judgement and of an item's mean, from a long table with one row per (item, repeat).

        single = (B - W) / (B + (k - 1) W),   mean = (B - W) / B

    with B and W the mean squares between and within items and k repeats (its usual average where items differ).
    Intervals from the F distribution (normal noise). Items with one repeat are left out and counted.
    """
    require(table, [item, value])
    kept, missing = complete(table, [value])
    names, values = labels(kept, item), numbers(kept, value)
    groups = [values[names == g] for g in sorted(set(names.tolist()))]
    repeated = [g for g in groups if g.size > 1]
    dropped = missing + len(groups) - len(repeated)
    start = Estimate(statistic="reliability", state="too_few", n=len(repeated), dropped=dropped)
    found = _reliabilities(repeated, start) if len(repeated) >= FEWEST else [start, start]
    label = [("one judgement",), ("mean of the repeats",)]
    return frame({"of": pl.String}, list(zip(label, found, strict=True)))


def mean_squares(groups: Sequence[Float[np.ndarray, "_"]]) -> tuple[float, float, float]:
    """Mean squares between and within groups of finite values, and the mean number of repeats that goes with them."""
    sizes = np.array([g.size for g in groups], dtype=float)
    total, items = sizes.sum(), len(groups)
    means = np.array([g.mean() for g in groups])
    between = float((sizes * (means - np.concatenate(groups).mean()) ** 2).sum() / (items - 1))
    within = float(sum(((g - g.mean()) ** 2).sum() for g in groups) / (total - items))
    return between, within, float((total - (sizes**2).sum() / total) / (items - 1))


def _reliabilities(groups: Sequence[Float[np.ndarray, "_"]], start: Estimate) -> list[Estimate]:
    items, total = len(groups), sum(g.size for g in groups)
    between, within, k = mean_squares(groups)
    if between == 0:
        return [replace(start, state="constant")] * 2
    if within == 0:
        return [replace(start, state="ok", value=1.0, note="the repeats agree exactly")] * 2
    ratio, freedom = between / within, (items - 1, total - items)
    low, high = ratio / scipy.stats.f.ppf(0.975, *freedom), ratio * scipy.stats.f.ppf(0.975, *freedom[::-1])
    found: list[Estimate] = []
    for single in (True, False):
        a, b, c = (float((q - 1) / (q - 1 + k) if single else 1 - 1 / q) for q in (ratio, low, high))
        found.append(replace(start, state="ok", value=a, low=b, high=c, interval_method="F, one-way"))
    return found


def corrected_tau(
    table: pl.DataFrame,
    *,
    x: str,
    y: str,
    reliability_x: float = 1.0,
    reliability_y: float = 1.0,
    seed: int = 0,
    draws: int = 10_000,
) -> pl.DataFrame:
    """tau_b as it would be without noise in x and y: two rows, "as observed" and "without noise".

    The interval's ends are corrected alike (held at -1 and 1); it does not hold the uncertainty of the reliabilities.
    A correction beyond 1 has state "undefined": the reliability is lower than the data allow. Reliabilities lie in
    (0, 1].
    """
    require(table, [x, y])
    observed = naive_tau(sample_of(numbers(table, x), numbers(table, y)), Draws(seed, draws, (x, y, "overall")))
    corrected = replace(observed, statistic="corrected tau", p=None, p_method=None, null_low=None, null_high=None)
    if observed.value is not None:
        value = without_noise(observed.value, reliability_x, reliability_y)
        if value is None:
            note = "the correction leaves [-1, 1]"
            corrected = replace(
                corrected, value=None, state="undefined", low=None, high=None, interval_method=None, note=note
            )
        else:
            ends = [
                None if e is None else (without_noise(e, reliability_x, reliability_y) or float(np.sign(e)))
                for e in (observed.low, observed.high)
            ]
            corrected = replace(corrected, value=value, low=ends[0], high=ends[1])
    rows = [(("as observed",), observed), (("without noise",), corrected)]
    return frame({"tau": pl.String}, rows)


def without_noise(tau: float, reliability_x: float = 1.0, reliability_y: float = 1.0) -> float | None:
    """tau corrected for attenuation; None where the corrected correlation would leave [-1, 1]."""
    rho = np.sin(np.pi * tau / 2) / _loss(reliability_x, reliability_y)
    return float(2 / np.pi * np.arcsin(rho)) if abs(rho) <= 1 else None


def with_noise(tau: float, reliability_x: float = 1.0, reliability_y: float = 1.0) -> float:
    """tau as noise of the given reliabilities leaves it: the inverse of `without_noise`, for planning."""
    return float(2 / np.pi * np.arcsin(np.sin(np.pi * tau / 2) * _loss(reliability_x, reliability_y)))


def _loss(reliability_x: float, reliability_y: float) -> float:
    for value in (reliability_x, reliability_y):
        if not 0 < value <= 1:
            raise UserError(f"A reliability of {value:g} cannot be corrected for.", hint="It must lie in (0, 1].")
    return float(np.sqrt(reliability_x * reliability_y))
