"""Rank agreement of two columns of a table of SAEs, overall and along the axes of the grid.

Rows (see `COLUMNS`): overall (BCa interval over rows; where there are clusters, the cluster interval and twice the mean
of the clusters' own taus, `within.py`), then per mode every group's tau, every axis's psi, and Psi. p of groups are
corrected over all groups of a mode (one family), those of psi over the axes of a mode; `family` names it. The result
does not depend on the order of the table's rows.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import polars as pl

import saelab.stats.axes as grid
from saelab.core.errors import UserError
from saelab.stats.association import Draws, cluster_tau, naive_tau, sample_of
from saelab.stats.estimate import Estimate, frame
from saelab.stats.inputs import labels, numbers, one_row_each, require
from saelab.stats.multiplicity import corrected
from saelab.stats.table_files import open_table
from saelab.stats.within import permuted, within_taus

MOST_ROWS = 3000  # all pairs are held in memory
USUAL_AXES = ("architecture", "level", "lm")
COLUMNS = (
    "x", "y", "mode", "axis", "group", "statistic", "value", "low", "high", "n", "pairs", "p", "p_holm", "p_bh",
    "null_low", "null_high", "interval_method", "seed", "state", "se", "p_method", "family", "dropped", "note",
)  # fmt: skip
LABELS: dict[str, Any] = dict.fromkeys(["x", "y", "mode", "axis", "group"], pl.String)
Labelled = tuple[tuple[str, str, str, str | None, str | None], Estimate]


def agreement(
    table: pl.DataFrame,
    *,
    x: str,
    y: str,
    axes: Mapping[str, str] | None = None,
    cluster: str | None = None,
    seed: int = 0,
    draws: int = 10_000,
) -> pl.DataFrame:
    """tau_b of columns x and y over the rows (SAEs) of a table, with intervals, p and the axis statistics.

    axes: name -> column, such as {"architecture": "architecture", "level": "level", "lm": "lm"}; none: overall only.
    cluster: the column whose values are resampled together; by default the axis called "lm", where there is one.
    draws: bootstrap resamples and permutations. Returns the columns `COLUMNS`; `value` is null exactly where `state` is
    not "ok". Equations: arXiv 2510.03659 section 5 (tau_b, psi, Psi). Raises `UserError` for a missing or non-numeric
    column, a row without an axis value, or more than 3,000 rows.
    """
    axes = dict(axes or {})
    cluster = cluster or axes.get("lm")
    require(table, [x, y, *axes.values(), *([cluster] if cluster else [])])
    if table.height > MOST_ROWS:
        raise UserError(
            f"The table has {table.height} rows; agreement compares all pairs of up to {MOST_ROWS}.",
            hint="Aggregate it to one row per SAE, or use feature_agreement for rows that are features.",
        )
    for column in axes.values():
        labels(table, column)
    keys = list(dict.fromkeys([*axes.values(), *([cluster] if cluster else []), x, y]))
    table = table.sort(keys, nulls_last=True, maintain_order=True)
    base = Draws(seed, draws, (x, y))
    rows = _overall(table, x, y, cluster, base.named("overall"))
    families: list[str | None] = [None] * len(rows)
    for mode in get_args(grid.Mode) if axes else ():
        for row in _mode_rows(table, x, y, (mode, axes), base.named(mode)):
            rows.append(row)
            families.append(_family(mode, row[1]))
    return corrected(frame(LABELS, rows), families).select(COLUMNS)


def read_and_agree(
    path: str | Path,
    *,
    x: str,
    y: str,
    axes: Mapping[str, str] | None = None,
    cluster: str | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """`agreement` of a file (`table_files.open_table`); without `axes`, those of architecture, level, lm it has."""
    return agree_by_usual_axes(open_table(Path(path)), x=x, y=y, axes=axes, cluster=cluster, seed=seed)


def agree_by_usual_axes(
    table: pl.DataFrame,
    *,
    x: str,
    y: str,
    axes: Mapping[str, str] | None = None,
    cluster: str | None = None,
    seed: int = 0,
) -> pl.DataFrame:
    """`agreement` of a table that somebody made: an SAE named twice is refused, and axes are found by name."""
    one_row_each(table)
    if axes is None:
        axes = {name: name for name in USUAL_AXES if name in table.columns}
    return agreement(table, x=x, y=y, axes=axes, cluster=cluster, seed=seed)


def _overall(table: pl.DataFrame, x: str, y: str, cluster: str | None, draws: Draws) -> list[Labelled]:
    xs, ys = numbers(table, x), numbers(table, y)
    sample = sample_of(xs, ys)
    label = (x, y, "overall", None, "all")
    rows: list[Labelled] = [(label, naive_tau(sample, draws))]
    if cluster:
        complete = labels(table, cluster)[(xs == xs) & (ys == ys)]  # NaN is not equal to itself
        rows.append((label, cluster_tau(sample, complete, cluster, draws)))
        rows += [(label, e) for e in within_taus(sample, complete, cluster, draws)]
    return rows


def _mode_rows(
    table: pl.DataFrame, x: str, y: str, design: tuple[grid.Mode, dict[str, str]], draws: Draws
) -> list[Labelled]:
    mode, axes = design
    groups = grid.groups_of(table, axes, mode)
    xs, ys = numbers(table, x), numbers(table, y)
    rows: list[Labelled] = []
    psis: dict[str, float | None] = {}
    for axis in dict.fromkeys(g.axis for g in groups):
        own = [g for g in groups if g.axis == axis]
        samples = [sample_of(xs[g.rows], ys[g.rows]) for g in own]
        taus = [naive_tau(s, draws.named(axis, g.label)) for s, g in zip(samples, own, strict=True)]
        rows += [((x, y, mode, axis, g.label), tau) for g, tau in zip(own, taus, strict=True)]
        mean = grid.psi([t.value for t in taus], draws.named(axis), mode)
        mean = replace(mean, pairs=sum(t.pairs or 0 for t in taus if t.state == "ok"))
        if null := permuted(samples, draws.named(axis)):
            p, low, high = null
            mean = replace(mean, p=p, null_low=low, null_high=high)
            mean = replace(mean, p_method=None if p is None else "permutation within groups")
        psis[axis] = mean.value
        rows.append(((x, y, mode, axis, None), mean))
    if psis:
        rows.append(((x, y, mode, None, None), grid.grand_psi(psis, groups, (xs, ys), draws)))
    return rows


def _family(mode: str, estimate: Estimate) -> str | None:
    return {"tau": f"groups ({mode})", "psi": f"axes ({mode})"}.get(estimate.statistic)
