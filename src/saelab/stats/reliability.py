"""Judge noise: how reliable a score is, and what its noise does to tau.

Reliability is the share of a score's variance that is not noise: from repeated judgements of the same items, the
one-way intraclass correlation (Shrout & Fleiss 1979). The same formula serves an SAE's mean over sampled features:
item = SAE, repeats = features. Noise shrinks a correlation by sqrt(reliability of x times that of y) (Spearman 1904);
for tau it does so on the scale rho = sin(pi tau / 2) (Greiner 1909), exact for a Gaussian copula and an approximation
otherwise.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

from saelab.core.errors import UserError
from saelab.stats.association import Draws, Sample, naive_tau, sample_of
from saelab.stats.estimate import FEWEST, Estimate, frame
from saelab.stats.inputs import complete, labels, numbers, require
from saelab.stats.within import within_taus


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


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares between and within groups, their degrees of freedom, and the mean repeats that go with them."""

    between: float
    within: float
    freedom: tuple[int, int]
    repeats: float


def mean_squares(groups: Sequence[Float[np.ndarray, "_"]], clusters: Sequence[Hashable] = ()) -> MeanSquares | None:
    """Of groups of finite values; with clusters, of groups inside their own. None where no two groups share one."""
    own: dict[Hashable, list[np.ndarray]] = {}
    for group, cluster in zip(groups, clusters or [None] * len(groups), strict=True):
        own.setdefault(cluster, []).append(group)
    between, within, repeats = 0.0, 0.0, 0.0
    for parts in own.values():
        sizes = np.array([g.size for g in parts], dtype=float)
        means = np.array([g.mean() for g in parts])
        between += float((sizes * (means - np.concatenate(parts).mean()) ** 2).sum())
        within += float(sum(((g - g.mean()) ** 2).sum() for g in parts))
        repeats += float(sizes.sum() - (sizes**2).sum() / sizes.sum())
    freedom = (len(groups) - len(own), sum(g.size for g in groups) - len(groups))
    if min(freedom) < 1:
        return None
    return MeanSquares(between / freedom[0], within / freedom[1], freedom, repeats / freedom[0])


def _reliabilities(groups: Sequence[Float[np.ndarray, "_"]], start: Estimate) -> list[Estimate]:
    found = mean_squares(groups)
    if found is None or found.between == 0:
        return [replace(start, state="constant")] * 2
    if found.within == 0:
        return [replace(start, state="ok", value=1.0, note="the repeats agree exactly")] * 2
    ratio, freedom, k = found.between / found.within, found.freedom, found.repeats
    low, high = ratio / scipy.stats.f.ppf(0.975, *freedom), ratio * scipy.stats.f.ppf(0.975, *freedom[::-1])
    rows: list[Estimate] = []
    for single in (True, False):
        a, b, c = (float((q - 1) / (q - 1 + k) if single else 1 - 1 / q) for q in (ratio, low, high))
        rows.append(replace(start, state="ok", value=a, low=b, high=c, interval_method="F, one-way"))
    return rows


def corrected_tau(
    table: pl.DataFrame,
    *,
    x: str,
    y: str,
    reliability_x: float = 1.0,
    reliability_y: float = 1.0,
    cluster: str | None = None,
    seed: int = 0,
    draws: int = 10_000,
) -> pl.DataFrame:
    """tau_b as it would be without noise in x and y: rows "as observed" and "without noise".

    cluster: a column (the LM) with two values or more, inside which tau is taken; then both stand twice, of these
    clusters and of clusters like these (`within.py`), and the reliabilities should be of SAEs inside clusters too. The
    interval's ends are corrected alike (held at -1 and 1); it does not hold the uncertainty of the reliabilities. A
    correction beyond 1 has state "undefined": the reliability is lower than the data allow. Reliabilities lie in
    (0, 1].
    """
    require(table, [x, y, *([cluster] if cluster else [])])
    own = Draws(seed, draws, (x, y, "overall"))
    observed = [naive_tau(sample_of(numbers(table, x), numbers(table, y)), own)]
    if cluster:
        kept, dropped = complete(table, [x, y], sort=[cluster])
        sample = Sample(numbers(kept, x), numbers(kept, y), dropped)
        observed = within_taus(sample, labels(kept, cluster), cluster, own) or observed
    rows = [(("as observed",), e) for e in observed]
    rows += [(("without noise",), _corrected(e, reliability_x, reliability_y)) for e in observed]
    return frame({"tau": pl.String}, rows)


def _corrected(observed: Estimate, reliability_x: float, reliability_y: float) -> Estimate:
    plain = replace(observed, statistic="corrected tau", p=None, p_method=None, null_low=None, null_high=None, se=None)
    if observed.value is None:
        return plain
    value = without_noise(observed.value, reliability_x, reliability_y)
    if value is None:
        note = "the correction leaves [-1, 1]"
        return replace(plain, value=None, low=None, high=None, interval_method=None, state="undefined", note=note)
    low, high = (
        None if e is None else (without_noise(e, reliability_x, reliability_y) or float(np.sign(e)))
        for e in (observed.low, observed.high)
    )
    return replace(plain, value=value, low=low, high=high)


def without_noise(tau: float, reliability_x: float = 1.0, reliability_y: float = 1.0) -> float | None:
    """tau corrected for attenuation; None where the corrected correlation would leave [-1, 1]."""
    rho = np.sin(np.pi * tau / 2) / attenuation(reliability_x, reliability_y)
    return float(2 / np.pi * np.arcsin(rho)) if abs(rho) <= 1 else None


def with_noise(tau: float, reliability_x: float = 1.0, reliability_y: float = 1.0) -> float:
    """tau as noise of the given reliabilities leaves it: the inverse of `without_noise`, for planning."""
    return float(2 / np.pi * np.arcsin(np.sin(np.pi * tau / 2) * attenuation(reliability_x, reliability_y)))


def attenuation(reliability_x: float, reliability_y: float) -> float:
    """What noise of both scores leaves of their correlation, as a share of it (Spearman 1904)."""
    for value in (reliability_x, reliability_y):
        if not 0 < value <= 1:
            raise UserError(f"A reliability of {value:g} cannot be corrected for.", hint="It must lie in (0, 1].")
    return float(np.sqrt(reliability_x * reliability_y))
