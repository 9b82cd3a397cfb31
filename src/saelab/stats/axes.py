"""The axes of a grid: groups of SAEs, psi (mean tau of an axis's groups) and Psi (mean of the psi).

arXiv 2510.03659, section 5, in two modes:

- reported: one group per value of the axis, all else pooled. A = architecture, B = sparsity level, C = LM. This is what
  the paper's Table 1 holds.
- matched: what its text says, all axes fixed but one. `axis` is then the one that *varies*: A' level (LM and
  architecture fixed), B' architecture (LM and level fixed), C' LM (architecture and level fixed).

psi is the plain mean, its standard error sd(taus) / sqrt(groups). Nothing here knows what x and y are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float, Int

import saelab.stats.kendall as kendall
import saelab.stats.resample as resample
from saelab.stats.association import Draws
from saelab.stats.estimate import Estimate
from saelab.stats.inputs import label

Mode = Literal["reported", "matched"]
FEW_GROUPS = 10  # groups below which a percentile interval over them is said to be too narrow


@dataclass(frozen=True)
class Group:
    """The rows of one group of one axis."""

    axis: str
    label: str
    rows: Int[np.ndarray, "n"]


def groups_of(table: pl.DataFrame, axes: Mapping[str, str], mode: Mode) -> list[Group]:
    """The groups of every axis (name -> column), sorted by their values; matched mode needs two axes or more."""
    found: list[Group] = []
    indexed = table.with_row_index("_row")
    for axis, column in axes.items():
        keys = [column] if mode == "reported" else [c for c in axes.values() if c != column]
        if not keys:
            continue
        grouped = indexed.sort(keys, maintain_order=True).group_by(keys, maintain_order=True).agg("_row")
        for *values, rows in grouped.iter_rows():
            found.append(Group(axis, " / ".join(label(v) for v in values), np.array(rows, dtype=np.int64)))
    return found


def psi(taus: Sequence[float | None], draws: Draws, mode: Mode = "reported") -> Estimate:
    """Mean of the groups' taus with se = sd / sqrt(groups); groups without a tau are left out and noted.

    Interval over groups: in `reported` mode the percentile bootstrap over groups, as published, which over three to six
    groups covers too seldom (noted); in `matched` mode Student's t. Neither knows that the groups share LMs.
    """
    known = np.array([t for t in taus if t is not None], dtype=float)
    absent = len(taus) - known.size
    notes = [f"{absent} of {len(taus)} groups have no tau"] if absent else []
    if known.size == 1:
        notes.append("one group: no interval")
    elif 0 < known.size < FEW_GROUPS and mode == "reported":
        notes.append(f"{known.size} groups: a percentile interval over so few is too narrow")
    note = "; ".join(notes) or None
    if known.size == 0:
        return Estimate(statistic="psi", state="too_few", note=note, seed=draws.seed)
    value = float(known.mean())
    if known.size < 2:
        return Estimate(statistic="psi", value=value, n=known.size, note=note, seed=draws.seed)
    se = float(known.std(ddof=1) / np.sqrt(known.size))
    if mode == "reported":
        picks = draws.generator("groups").integers(0, known.size, (draws.count, known.size))
        interval, method = resample.percentile(known[picks].mean(axis=1)), "percentile bootstrap over groups"
    else:
        reach = float(scipy.stats.t.ppf(0.975, known.size - 1)) * se
        ends = (max(-1.0, value - reach), min(1.0, value + reach))
        interval, method = (ends if se > 0 else None), "t over groups"
    low, high = interval or (None, None)
    return Estimate(
        statistic="psi", value=value, low=low, high=high, se=se, n=known.size, note=note, seed=draws.seed,
        interval_method=method if interval else None,
    )  # fmt: skip


def grand_psi(
    psis: Mapping[str, float | None], groups: Sequence[Group], sample: tuple[np.ndarray, np.ndarray], draws: Draws
) -> Estimate:
    """Psi, the mean of the axes' psi, with a BCa interval that resamples rows and computes all groups again.

    sample: x and y of the whole table, NaN where missing. No interval where groups are so small that many resamples
    leave one without a tau (matched mode).
    """
    known = [v for v in psis.values() if v is not None]
    absent = len(psis) - len(known)
    note = f"{absent} of {len(psis)} axes have no psi" if absent else None
    if not known:
        return Estimate(statistic="Psi", state="too_few", note=note, seed=draws.seed)
    value = float(np.mean(known))
    x, y = sample
    keep = np.isfinite(x) & np.isfinite(y)
    place = np.cumsum(keep) - 1
    trimmed = [Group(g.axis, g.label, place[g.rows[keep[g.rows]]]) for g in groups if psis[g.axis] is not None]
    x, y = x[keep], y[keep]
    trimmed = [g for g in trimmed if kendall.tau_b(x[g.rows], y[g.rows]) is not None and g.rows.size > 2]
    values = _psi_of(resample.bootstrap(x.size, draws.count, draws.generator("bootstrap")), trimmed, x, y)
    found = resample.bca(values, value, value - _psi_of(resample.leave_one_out(x.size), trimmed, x, y))
    low, high = found or (None, None)
    return Estimate(
        statistic="Psi", value=value, low=low, high=high, n=len(known), seed=draws.seed,
        interval_method="BCa bootstrap" if found else None,
        note=note if found else "; ".join(filter(None, [note, "the groups are too small to resample rows"])),
    )  # fmt: skip


def _psi_of(
    rows: resample.Rows, groups: Sequence[Group], x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "R"]:
    """Psi in each resample; NaN where a group has no tau."""
    by_axis: dict[str, list[np.ndarray]] = {}
    for group in groups:
        drawn = resample.Rows(rows.weights[:, group.rows])
        taus = resample.tau_of(drawn, kendall.signs(x[group.rows]), kendall.signs(y[group.rows]))
        by_axis.setdefault(group.axis, []).append(taus)
    return np.mean([np.mean(taus, axis=0) for taus in by_axis.values()], axis=0)
