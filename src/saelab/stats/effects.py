"""What tau alone does not say: whether two taus differ, and what is left of one when covariates are taken out.

Every effect is a function of pair sums, so one set of resamples serves all its parts: differences of two taus over the
same rows are *paired*. Each comes with a BCa interval over rows and, where `cluster` names a column, with a cluster
interval. The p is that of "the truth is 0", from the same resamples.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int, Shaped

import saelab.stats.kendall as kendall
import saelab.stats.resample as resample
from saelab.core.errors import UserError
from saelab.stats.association import FEW_CLUSTERS, FEWEST_FOR_INTERVAL, SAME, Draws, cluster_note, sample_of
from saelab.stats.estimate import FEWEST, Estimate, frame
from saelab.stats.inputs import complete, labels, numbers, require
from saelab.stats.multiplicity import corrected
from saelab.stats.within import Statistic, mean_within, members

PairStatistic = Callable[[resample.Resample], Float[np.ndarray, "R"]]


def tau_difference(
    table: pl.DataFrame,
    *,
    first: tuple[str, str],
    second: tuple[str, ...],
    cluster: str | None = None,
    seed: int = 0,
    draws: int = 10_000,
) -> pl.DataFrame:
    """tau_b(first) - tau_b(second) over the rows where all columns are there, by the paired bootstrap.

    first, second: pairs of columns, for instance ("interpretability", "utility") and ("interpretability",
    "utility_selected"): did selection change the agreement? Of more columns in `second` the mean of tau_b of its first
    with each other. One row per interval method; with `cluster` also the mean of the clusters' own differences, of
    these clusters and of clusters like these (`within.py`).
    """
    columns = [*first, *second]
    require(table, columns)
    kept, dropped = complete(table, columns, sort=[cluster] if cluster else [])
    arrays = [numbers(kept, c) for c in columns]
    start = Estimate(statistic="tau difference", state="too_few", n=kept.height, dropped=dropped, seed=seed)
    start = replace(start, pairs=kept.height * (kept.height - 1) // 2)
    own = Draws(seed, draws, ("tau difference", *columns))
    rows = [start]
    if kept.height >= FEWEST and any(np.ptp(a) == 0 for a in arrays):
        rows = [replace(start, state="constant")]
    elif kept.height >= FEWEST:

        def difference(chosen: Int[np.ndarray, "n"] | slice) -> PairStatistic:
            x, y, other, *others = (kendall.signs(a[chosen]) for a in arrays)
            return lambda d: resample.tau_of(d, x, y) - np.mean([resample.tau_of(d, other, o) for o in others], axis=0)

        rows = _estimates(start, difference(slice(None)), _clusters(kept, cluster), own, bound=2.0)
        if cluster:

            def inside(chosen: Int[np.ndarray, "n"]) -> Statistic:
                return difference(chosen)

            rows += _within(start, inside, labels(kept, cluster), cluster, own, bound=2.0)
    label = (" ~ ".join(first), " ~ ".join(second))
    return frame({"first": pl.String, "second": pl.String}, [(label, row) for row in rows])


def partial_tau(
    table: pl.DataFrame,
    *,
    x: str,
    y: str,
    given: Sequence[str] = (),
    within: Sequence[str] = (),
    cluster: str | None = None,
    seed: int = 0,
    draws: int = 10_000,
) -> pl.DataFrame:
    """Kendall's partial tau of x and y given numeric columns, from pairs inside the same values of `within`.

        partial = -P_xy / sqrt(P_xx P_yy),  P the inverse of the matrix of tau_b  (Kendall 1942; Hettmansperger)

    For one covariate this is (t_xy - t_xz t_yz) / sqrt((1 - t_xz^2)(1 - t_yz^2)). `within` takes labels out exactly:
    only pairs that share them are compared. Independence given z makes partial tau small, not zero: a Gaussian z that
    correlates 0.8 with both leaves a partial tau of 0.14 (and a plain one of 0.44). With `cluster` also the mean of the
    clusters' own partial taus, of these clusters and of clusters like these (`within.py`).
    """
    columns = [x, y, *given]
    require(table, [*columns, *within])
    kept, dropped = complete(table, columns, sort=[*within, *([cluster] if cluster else [])])
    n = kept.height
    same = np.ones((n, n), dtype=np.float32)
    for column in within:
        values = labels(kept, column)
        same *= values[:, None] == values[None, :]
    start = Estimate(statistic="partial tau", state="too_few", n=n, dropped=dropped, seed=seed)
    start = replace(start, pairs=int(same.sum() - n) // 2)
    matrices = [kendall.signs(numbers(kept, c)) * same for c in columns]

    def partial(drawn: resample.Resample) -> Float[np.ndarray, "R"]:
        return _partial(drawn, matrices)

    own = Draws(seed, draws, ("partial tau", *columns, *within))
    rows = [start]
    if n >= FEWEST and any(not m.any() for m in matrices):
        rows = [replace(start, state="constant")]
    elif n >= FEWEST:
        rows = _estimates(start, partial, _clusters(kept, cluster), own, bound=1.0)
        if cluster:

            def inside(chosen: Int[np.ndarray, "n"]) -> Statistic:
                own_matrices = [m[np.ix_(chosen, chosen)] for m in matrices]
                return lambda d: _partial(d, own_matrices)

            rows += _within(start, inside, labels(kept, cluster), cluster, own, bound=1.0)
    label = (x, y, ", ".join(given), ", ".join(within))
    names: dict[str, Any] = dict.fromkeys(["x", "y", "given", "within"], pl.String)
    return frame(names, [(label, row) for row in rows])


def group_differences(
    table: pl.DataFrame, *, x: str, y: str, by: str, seed: int = 0, draws: int = 10_000
) -> pl.DataFrame:
    """tau_b of one group minus tau_b of another, for all pairs of values of `by`: do the architectures differ?

    The groups are resampled independently (BCa); p_holm and p_bh are over all pairs of groups.
    """
    require(table, [x, y, by])
    table = table.sort([by, x, y], nulls_last=True)
    names, xs, ys = labels(table, by), numbers(table, x), numbers(table, y)
    found: list[tuple[tuple[str, str], Estimate]] = []
    for a, b in combinations(sorted(set(names.tolist())), 2):
        first, second = (sample_of(xs[names == g], ys[names == g]) for g in (a, b))
        start = Estimate(
            statistic="tau difference", state="too_few", n=first.n + second.n, pairs=first.pairs + second.pairs,
            dropped=first.dropped + second.dropped, seed=seed,
        )  # fmt: skip
        worst = next((s.state for s in (first, second) if s.state != "ok"), None)
        if worst:
            found.append(((a, b), replace(start, state=worst)))
            continue
        cut, n = first.n, first.n + second.n
        matrices = [kendall.signs(v) for v in (first.x, first.y, second.x, second.y)]

        def difference(drawn: resample.Rows, matrices: list[Any] = matrices, cut: int = cut) -> np.ndarray:
            left, right = resample.Rows(drawn.weights[:, :cut]), resample.Rows(drawn.weights[:, cut:])
            return resample.tau_of(left, *matrices[:2]) - resample.tau_of(right, *matrices[2:])

        own = Draws(seed, draws, ("group difference", x, y, by, a, b))
        parts = [resample.bootstrap(s.n, draws, own.generator(g)) for s, g in ((first, "first"), (second, "second"))]
        drawn = resample.Rows(np.concatenate([p.weights for p in parts], axis=1))
        value = float(difference(resample.original(n))[0])
        influence = value - difference(resample.leave_one_out(n))
        few = min(first.n, second.n) < FEWEST_FOR_INTERVAL
        found.append(((a, b), _with_bca(replace(start, state="ok", value=value), difference(drawn), influence, few)))
    return corrected(frame({"first": pl.String, "second": pl.String}, found), [f"pairs of values of {by}"] * len(found))


def _within(
    start: Estimate,
    of: Callable[[Int[np.ndarray, "n"]], Statistic],
    clusters: Shaped[np.ndarray, "N"],
    name: str,
    draws: Draws,
    *,
    bound: float,
) -> list[Estimate]:
    """The rows of `mean_within`; nothing for one cluster. of: the statistic of some rows."""
    parts = members(clusters)
    if len(parts) < 2:
        return []
    pairs = sum(r.size * (r.size - 1) // 2 for r in parts)
    start = replace(start, statistic=f"{start.statistic} within", pairs=pairs)
    return list(mean_within(start, [of(r) for r in parts], [r.size for r in parts], name, draws, bound=bound))


def _estimates(
    start: Estimate,
    statistic: PairStatistic,
    clusters: tuple[str, Shaped[np.ndarray, "N"]] | None,
    draws: Draws,
    *,
    bound: float,
) -> list[Estimate]:
    """The BCa row and, with clusters, the cluster row of a statistic that lies in [-bound, bound]."""
    value = float(statistic(resample.original(start.n))[0])
    if not np.isfinite(value):
        return [replace(start, state="undefined", note="the covariates determine x or y")]
    start = replace(start, state="ok", value=value)
    values = statistic(resample.bootstrap(start.n, draws.count, draws.generator("bootstrap")))
    influence = value - statistic(resample.leave_one_out(start.n))
    rows = [_with_bca(start, values, influence, start.n < FEWEST_FOR_INTERVAL)]
    if clusters:
        name, index = clusters
        m = len(set(index.tolist()))
        found = None
        if m >= FEW_CLUSTERS:
            drawn = resample.cluster_bootstrap(index, draws.count, draws.generator("clusters"))
            found = resample.cluster_t(statistic(drawn), value, m, bound=bound)
        row = replace(start, note=cluster_note(m, name))
        if found:
            method = f"cluster bootstrap over {name}"
            row = replace(start, low=found.low, high=found.high, se=found.se, p=found.p, interval_method=method)
        rows.append(replace(row, p_method=row.interval_method))
    return rows


def _with_bca(
    start: Estimate, values: Float[np.ndarray, "R"], influence: Float[np.ndarray, "N"], few: bool
) -> Estimate:
    if few:
        return replace(start, note=f"no bootstrap interval below {FEWEST_FOR_INTERVAL} rows")
    found = resample.bca(values, start.value or 0.0, influence)
    if found is None:
        return replace(start, note=SAME)
    p = resample.two_sided(values)
    return replace(
        start, low=found[0], high=found[1], interval_method="BCa bootstrap", p=p, p_method="bootstrap" if p else None
    )


def _partial(drawn: resample.Resample, matrices: Sequence[Float[np.ndarray, "N N"]]) -> Float[np.ndarray, "R"]:
    """Partial tau of the first two given the rest, per resample; NaN where the covariates determine x or y."""
    k = len(matrices)
    first = resample.tau_of(drawn, matrices[0], matrices[1])
    taus = np.broadcast_to(np.eye(k), (first.size, k, k)).copy()
    for i, j in combinations(range(k), 2):
        taus[:, i, j] = taus[:, j, i] = resample.tau_of(drawn, matrices[i], matrices[j])
    sound = np.isfinite(taus).all(axis=(1, 2))
    taus[~sound] = np.eye(k)
    sound &= np.linalg.eigvalsh(taus)[:, 0] > 1e-6
    taus[~sound] = np.eye(k)
    precision = np.linalg.inv(taus)
    partial = -precision[:, 0, 1] / np.sqrt(precision[:, 0, 0] * precision[:, 1, 1])
    return np.where(sound, partial, np.nan)


def _clusters(table: pl.DataFrame, column: str | None) -> tuple[str, Shaped[np.ndarray, "N"]] | None:
    if column is None:
        return None
    found = labels(table, column)
    if found.size == 0:
        raise UserError(f"No row is left to cluster by {column!r}.", hint="Every row lacks one of the columns.")
    return column, found
