"""A statistic of rows taken inside every cluster (LM) and averaged: what is left when the clusters' own levels do not
count.

tau over all rows mixes pairs inside an LM with pairs of two LMs, and with three LMs the second kind can hardly be
estimated: the cluster bootstrap is given from ten on (`association.FEW_CLUSTERS`). The mean of the LMs' own taus can
be, in two scopes. "These" LMs: rows are drawn inside each, BCa, and the p permutes inside each. LMs "like these":
Student's t over the LMs' own values, which needs three and says how little three are.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int, Shaped

import saelab.stats.kendall as kendall
import saelab.stats.resample as resample
from saelab.stats.association import FEWEST_FOR_INTERVAL, SAME, Draws, Sample
from saelab.stats.estimate import FEWEST, Estimate
from saelab.stats.units import Units, over_units

Statistic = Callable[[resample.Rows], Float[np.ndarray, "R"]]


def within_taus(sample: Sample, clusters: Shaped[np.ndarray, "N"], name: str, draws: Draws) -> list[Estimate]:
    """The mean of the clusters' own taus, of these clusters and of clusters like these; nothing for one cluster."""
    parts = [Sample(sample.x[rows], sample.y[rows]) for rows in members(clusters)]
    if len(parts) < 2 or sample.state != "ok":
        return []
    start = Estimate(
        statistic="tau within", n=sample.n, pairs=sum(p.pairs for p in parts), dropped=sample.dropped, seed=draws.seed,
        state="too_few",
    )  # fmt: skip
    these, like = mean_within(start, [_tau_of(p) for p in parts], [p.n for p in parts], name, draws)
    if these.state == "ok":
        p, low, high = permuted(parts, draws) or (None, None, None)
        method = None if p is None else f"permutation within {name}"
        these = replace(these, p=p, null_low=low, null_high=high, p_method=method)
    return [these, like]


def mean_within(
    start: Estimate,
    statistics: Sequence[Statistic],
    sizes: Sequence[int],
    name: str,
    draws: Draws,
    *,
    bound: float = 1.0,
) -> tuple[Estimate, Estimate]:
    """The mean over clusters of a statistic of each, in both scopes. statistics, sizes: by cluster; a statistic lies
    in [-bound, bound].

    A cluster where the statistic is not defined is left out and counted in the note.
    """
    found = [
        float(s(resample.original(n))[0]) if n >= FEWEST else np.nan for s, n in zip(statistics, sizes, strict=True)
    ]
    keep = np.isfinite(found)
    values, lost = np.array(found)[keep], int((~keep).sum())
    note = f"{lost} of {len(found)} values of {name} have no value" if lost else None
    if values.size == 0:
        return replace(start, note=note), replace(start, note=note)
    start = replace(start, state="ok", value=float(values.mean()), note=note)
    usable = [(s, n) for s, n, k in zip(statistics, sizes, keep, strict=True) if k]
    units = Units(name, np.arange(values.size))
    like = over_units(
        replace(start, state="too_few", value=None), lambda w: w @ values / w.sum(axis=1), units, bound=bound
    )
    if like.state != "ok":
        like = replace(start, note=f"{values.size} values of {name}: no interval below {FEWEST}")
    like = replace(like, note="; ".join(filter(None, [note, like.note])) or None)
    if min(n for _, n in usable) < FEWEST_FOR_INTERVAL:
        few = f"no bootstrap interval below {FEWEST_FOR_INTERVAL} rows in every {name}"
        return replace(start, note="; ".join(filter(None, [note, few]))), like
    drawn = np.mean(
        [s(resample.bootstrap(n, draws.count, draws.generator(f"within {i}"))) for i, (s, n) in enumerate(usable)],
        axis=0,
    )
    influence = [(v - s(resample.leave_one_out(n))) * (n - 1) / n for v, (s, n) in zip(values, usable, strict=True)]
    interval = resample.bca(drawn, float(values.mean()), np.concatenate(influence))
    if interval is None:
        return replace(start, note="; ".join(filter(None, [note, SAME]))), like
    method = f"BCa bootstrap within {name}"
    p = resample.two_sided(drawn)
    return replace(
        start, low=interval[0], high=interval[1], interval_method=method, p=p, p_method="bootstrap" if p else None
    ), like


def permuted(samples: Sequence[Sample], draws: Draws) -> tuple[float | None, float, float] | None:
    """p of the mean of several taus and its null interval: y permuted inside every sample at once.

    None without a usable sample. The p is None where too few orders exist for a finding.
    """
    usable = [s for s in samples if s.state == "ok"]
    if not usable:
        return None
    generator = draws.generator("permutation")
    null = np.mean([kendall.null_taus(s.x, s.y, draws.count, generator) for s in usable], axis=0)
    observed = float(np.mean([kendall.tau_b(s.x, s.y) or 0.0 for s in usable]))  # usable: never None
    extreme = int((np.abs(null) >= abs(observed) - kendall.SLACK).sum())
    low, high = np.quantile(null, [0.025, 0.975])
    enough = sum(kendall.log_orders(s.y) for s in usable) >= -np.log(kendall.RAREST / 2)
    return (1 + extreme) / (1 + draws.count) if enough else None, float(low), float(high)


def members(clusters: Shaped[np.ndarray, "N"]) -> list[Int[np.ndarray, "n"]]:
    """The rows of each cluster, clusters in sorted order."""
    return [np.flatnonzero(clusters == c) for c in sorted(set(clusters.tolist()))]


def _tau_of(part: Sample) -> Statistic:
    sx, sy = kendall.signs(part.x), kendall.signs(part.y)
    return lambda drawn: resample.tau_of(drawn, sx, sy)
