"""What selecting features buys: scores of the features each criterion selected, against those of another set.

Two quantities that are easily confused are kept apart:

- `score`: the mean steering score of the selected features; `difference`: the paired difference from the other set's.
- `steering gain` L(SAE) = selected / base - 1 of one SAE, and its mean over SAEs; `lift` = the same of the means
  over SAEs, which is what arXiv 2510.03659 Table 2 gives (in %). An SAE whose base is 0 has no gain: it is counted.

An SAE is one unit: its features are averaged first. Intervals are Student's t over SAEs with the jackknife's standard
error, of a lift on the scale of its logarithm (measured: the bootstrap's are far too narrow for five to fifteen SAEs);
the p of a difference flips signs of SAEs. Features chosen on the same prompts that score them would flatter the
criterion: give scores of held-out prompts.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

from saelab.core.errors import UserError, nearest
from saelab.stats.association import Draws
from saelab.stats.estimate import FEWEST, Estimate, frame
from saelab.stats.inputs import labels, numbers, require
from saelab.stats.multiplicity import benjamini_hochberg, holm

LABELS: dict[str, Any] = dict.fromkeys(["group", "criterion", "against"], pl.String)
Row = tuple[tuple[str, str, str | None], Estimate]
Means = Callable[[Float[np.ndarray, "R N"]], Float[np.ndarray, "R"]]
EXACT_SIGNS = 12  # SAEs up to which all sign flips are tried


def steering_gains(
    table: pl.DataFrame,
    *,
    score: str = "test_score",
    criterion: str = "reason_chosen",
    sae: str = "sae",
    baseline: str = "random",
) -> pl.DataFrame:
    """Per SAE and criterion: base, selected, difference, gain (null where the base is 0 or absent), and counts.

    table: one row per (SAE, criterion, feature) with its score; missing scores are left out and counted in `dropped`.
    The input of the paper's Table 3: join `gain` to a table of SAEs and give it to `agreement`.
    """
    means = _means(table, score, criterion, sae)
    if baseline not in (known := means["criterion"].unique(maintain_order=True).to_list()):
        raise UserError(f"No row has {criterion} = {baseline!r}.", hint=nearest(baseline, known))
    base = means.filter(pl.col("criterion") == baseline).select("sae", base="mean", n_base="n")
    joined = means.filter(pl.col("criterion") != baseline).join(base, on="sae", how="left", maintain_order="left")
    gain = pl.when(pl.col("base") != 0).then(pl.col("mean") / pl.col("base") - 1)
    state = (
        pl.when(pl.col("base").is_null() | pl.col("mean").is_null()).then(pl.lit("missing"))
        .when(pl.col("base") == 0).then(pl.lit("undefined")).otherwise(pl.lit("ok"))
    )  # fmt: skip
    return joined.select(
        "sae", "criterion", "base", selected="mean", difference=pl.col("mean") - pl.col("base"), gain=gain,
        n_base="n_base", n_selected="n", dropped="dropped", state=state,
    )  # fmt: skip


def selection_lift(
    table: pl.DataFrame,
    *,
    score: str = "test_score",
    criterion: str = "reason_chosen",
    sae: str = "sae",
    baseline: str = "random",
    by: str | None = None,
    seed: int = 0,
    draws: int = 10_000,
) -> pl.DataFrame:
    """Score of every criterion, and of every pair the difference, lift and mean steering gain, intervals over SAEs.

    by: a column (the LM, as in Table 2) whose values are analysed apart, after a group "all". The baseline stands
    second in its pairs. p_holm and p_bh are over the differences of one group. Columns: group, criterion, against
    (null for a score), then the estimate; n counts SAEs, `dropped` SAEs without the quantity. draws: sign flips
    above 12 SAEs.
    """
    require(table, [score, criterion, sae, *([by] if by else [])])
    steering_gains(table, score=score, criterion=criterion, sae=sae, baseline=baseline)  # refuses an unknown baseline
    parts = {"all": table}
    if by:
        groups = labels(table, by)
        parts |= {g: table.filter(pl.Series(groups == g)) for g in sorted(set(groups.tolist()))}
    rows: list[Row] = []
    for group, part in parts.items():
        wide = _means(part, score, criterion, sae).pivot("criterion", index="sae", values="mean")
        names = sorted(set(wide.columns) - {"sae", baseline})
        own = Draws(seed, draws, ("lift", group))
        every = [*names, baseline] if baseline in wide.columns else names
        columns = {name: numbers(wide, name) for name in every}
        rows += [((group, name, None), _score(columns[name], seed)) for name in every]
        for a, b in combinations(every, 2):
            rows += [((group, a, b), e) for e in _paired(columns[a], columns[b], own.named(a, b))]
    return _corrected(frame(LABELS, rows))


def _means(table: pl.DataFrame, score: str, criterion: str, sae: str) -> pl.DataFrame:
    """One row per (SAE, criterion): mean, n, dropped; mean is null where no score is there."""
    plain = pl.DataFrame(
        {"sae": labels(table, sae), "criterion": labels(table, criterion), "score": numbers(table, score)},
        schema={"sae": pl.String, "criterion": pl.String, "score": pl.Float64},
    ).with_columns(pl.col("score").fill_nan(None))
    grouped = plain.sort("sae", "criterion", "score").group_by("sae", "criterion", maintain_order=True)
    return grouped.agg(mean=pl.col("score").mean(), n=pl.col("score").count(), dropped=pl.col("score").null_count())


def _score(values: Float[np.ndarray, "N"], seed: int) -> Estimate:
    kept = values[np.isfinite(values)]
    return _over_saes("score", lambda w: w @ kept / w.sum(axis=1), kept.size, values.size - kept.size, seed)


def _paired(first: Float[np.ndarray, "N"], second: Float[np.ndarray, "N"], draws: Draws) -> list[Estimate]:
    keep = np.isfinite(first) & np.isfinite(second)
    a, b, absent = first[keep], second[keep], int((~keep).sum())
    apart = _over_saes("difference", lambda w: w @ (a - b) / w.sum(axis=1), a.size, absent, draws.seed)
    if apart.state == "ok":
        p, method = _sign_flips(a - b, draws)
        apart = replace(apart, p=p, p_method=method)
    lift = _over_saes("lift", lambda w: _ratio(w @ a, w @ b), a.size, absent, draws.seed, logarithm=True)
    based = b != 0
    gains = a[based] / b[based] - 1
    absent += int((~based).sum())
    gain = _over_saes("steering gain", lambda w: w @ gains / w.sum(axis=1), gains.size, absent, draws.seed)
    return [apart, lift, gain]


def _over_saes(name: str, statistic: Means, n: int, absent: int, seed: int, *, logarithm: bool = False) -> Estimate:
    """A statistic of SAE weights with its jackknife t interval, taken on log(1 + value) where asked."""
    start = Estimate(statistic=name, state="too_few", n=n, dropped=absent, seed=seed)
    if n < FEWEST:
        return start
    value = float(statistic(np.ones((1, n)))[0])
    if not np.isfinite(value):
        return replace(start, state="undefined", note="the base is 0 in every SAE")
    start = replace(start, state="ok", value=value)
    others = statistic(1 - np.eye(n))
    if logarithm and not (value > -1 and (others > -1).all()):
        return replace(start, note="no interval: the selected features of nearly all SAEs score 0")
    scaled, centre = (np.log1p(others), np.log1p(value)) if logarithm else (others, value)
    se = float(np.sqrt((n - 1) / n * ((scaled - scaled.mean()) ** 2).sum()))
    if not np.isfinite(se) or se < 1e-12:
        return replace(start, note="the SAEs do not vary enough for an interval")
    reach = float(scipy.stats.t.ppf(0.975, n - 1)) * se
    ends = [float(np.expm1(e) if logarithm else e) for e in (centre - reach, centre + reach)]
    method = "t over SAEs, log scale" if logarithm else "t over SAEs"
    return replace(start, low=ends[0], high=ends[1], interval_method=method)


def _ratio(top: Float[np.ndarray, "R"], bottom: Float[np.ndarray, "R"]) -> Float[np.ndarray, "R"]:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0) - 1


def _sign_flips(differences: Float[np.ndarray, "N"], draws: Draws) -> tuple[float, str]:
    """Two-sided p of a zero mean difference: as likely with each SAE's sign turned (Fisher's randomisation)."""
    n, observed = differences.size, abs(float(differences.sum()))
    exact = n <= EXACT_SIGNS
    if exact:
        signs = 1 - 2 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = 1 - 2 * draws.generator("signs").integers(0, 2, (draws.count, n))
    extreme = int((np.abs(signs @ differences) >= observed - 1e-12).sum())
    if exact:
        return extreme / signs.shape[0], "exact sign flips"
    return (1 + extreme) / (1 + draws.count), "sign flips"


def _corrected(rows: pl.DataFrame) -> pl.DataFrame:
    adjusted: dict[str, list[float | None]] = {"p_holm": [None] * rows.height, "p_bh": [None] * rows.height}
    for group in rows["group"].unique(maintain_order=True):
        chosen = rows.with_row_index("_row").filter((pl.col("group") == group) & (pl.col("statistic") == "difference"))
        for name, correct in (("p_holm", holm), ("p_bh", benjamini_hochberg)):
            for place, value in zip(chosen["_row"], correct(chosen["p"].to_list()), strict=True):
                adjusted[name][place] = value
    return rows.with_columns(*(pl.Series(k, v, dtype=pl.Float64) for k, v in adjusted.items()))
