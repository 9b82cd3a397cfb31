"""What selecting features buys: scores of the features of each arm, against those of another set.

Two quantities that are easily confused are kept apart:

- `score`: the mean steering score of the selected features; `difference`: the paired difference from the other set's.
- `steering gain` = selected / base - 1 of one SAE, and its mean over SAEs; `relative gain` = the same of the means
  over SAEs, which is what arXiv 2510.03659 Table 2 gives (in %). A ratio needs a base: where one SAE's base is 0 or the
  mean base is not told from 0 it is undefined for all, since dropping those SAEs would select on the outcome.

Two scopes (column `scope`). "like these": SAEs are drawn, or the language models they share (`units.py`); an SAE's
features are averaged first. "these": of these SAEs, only features are drawn; interval by Welch's t, p by permuting
within every SAE which features were selected, which is the test of an arm. Features chosen on the same prompts
that score them would flatter the arm: give scores of held-out prompts.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

from saelab.core.errors import UserError, nearest
from saelab.stats.association import Draws
from saelab.stats.estimate import Estimate, frame
from saelab.stats.inputs import labels, numbers, require
from saelab.stats.kendall import RAREST
from saelab.stats.multiplicity import corrected
from saelab.stats.units import Units, over_units, units_of

LABELS: dict[str, Any] = dict.fromkeys(["group", "arm", "against", "scope"], pl.String)
Labelled = tuple[tuple[str, str, str | None, str], Estimate]
Values = Float[np.ndarray, "_"]
EXACT_SIGNS = 12  # SAEs up to which all sign flips are tried
SURE = 5.0  # standard errors of an SAE's base that the mean base is at least, where ratios are averaged
THESE, LIKE = "these", "like these"
RELATIVE = "relative gain"


def steering_gains(
    table: pl.DataFrame,
    *,
    score: str = "utility",
    arm: str = "arm",
    sae: str = "sae",
    baseline: str = "random",
) -> pl.DataFrame:
    """Per SAE and arm: base, selected, difference, gain (null where the base is 0 or absent), and counts.

    table: one row per (SAE, arm, feature) with its score; missing scores are left out and counted in `dropped`.
    The input of the paper's Table 3: join `gain` to a table of SAEs and give it to `agreement`; where a base is 0
    (state "undefined") give `difference`, which every SAE has.
    """
    means = _means(table, score, arm, sae)
    if baseline not in (known := means["arm"].unique(maintain_order=True).to_list()):
        raise UserError(f"No row has {arm} = {baseline!r}.", hint=nearest(baseline, known))
    base = means.filter(pl.col("arm") == baseline).select("sae", base="mean", n_base="n")
    joined = means.filter(pl.col("arm") != baseline).join(base, on="sae", how="left", maintain_order="left")
    gain = pl.when(pl.col("base") != 0).then(pl.col("mean") / pl.col("base") - 1)
    state = (
        pl.when(pl.col("base").is_null() | pl.col("mean").is_null()).then(pl.lit("missing"))
        .when(pl.col("base") == 0).then(pl.lit("undefined")).otherwise(pl.lit("ok"))
    )  # fmt: skip
    return joined.select(
        "sae", "arm", "base", selected="mean", difference=pl.col("mean") - pl.col("base"), gain=gain,
        n_base="n_base", n_selected="n", dropped="dropped", state=state,
    )  # fmt: skip


def selection_gain(
    table: pl.DataFrame,
    *,
    score: str = "utility",
    arm: str = "arm",
    sae: str = "sae",
    baseline: str = "random",
    by: str | None = None,
    cluster: str | None = None,
    seed: int = 0,
    draws: int = 10_000,
) -> pl.DataFrame:
    """Score of every arm, and of every pair the difference, relative gain and mean steering gain (see the head).

    by: a column (the LM, as in Table 2) whose values are analysed apart, after a group "all". cluster: the column (the
    LM) whose values are the units where there are at least two. The baseline stands second in its pairs; p_holm and
    p_bh are over the differences of one `family`: those of a group and scope from the baseline, and the other pairs.
    Columns: group, arm, against (null for a score), scope, the estimate, the corrections. n counts SAEs,
    `dropped` SAEs without the quantity. draws: permutations, and sign flips above 12 SAEs.
    """
    require(table, [score, arm, sae, *([by] if by else []), *([cluster] if cluster else [])])
    steering_gains(table, score=score, arm=arm, sae=sae, baseline=baseline)  # refuses an unknown baseline
    parts = {"all": table}
    if by:
        groups = labels(table, by)
        parts |= {g: table.filter(pl.Series(groups == g)) for g in sorted(set(groups.tolist()))}
    rows: list[Labelled] = []
    families: list[str | None] = []
    for group, part in parts.items():
        found = _features(part, score, arm, sae)
        own = _clusters(part, sae, cluster)
        saes = sorted({name for name, _ in found})
        units = units_of(len(saes), None if own is None else np.array([own[s] for s in saes]), cluster or "")
        names = [
            *sorted({c for _, c in found} - {baseline}),
            *([baseline] if any(c == baseline for _, c in found) else []),
        ]
        wide = {c: [found.get((s, c), np.array([])) for s in saes] for c in names}
        rows += [((group, c, None, LIKE), _score(_column(wide[c]), units, seed)) for c in names]
        families += [None] * len(names)
        for a, b in combinations(names, 2):
            some = gains_of(wide[a], wide[b], units, Draws(seed, draws, ("lift", group, a, b)))
            rows += [((group, a, b, scope), e) for scope, e in some]
            against = f"differences from {b}" if b == baseline else "differences of arms"
            families += [f"{against} ({group}, {scope})" if e.statistic == "difference" else None for scope, e in some]
    return corrected(frame(LABELS, rows), families)


def _features(table: pl.DataFrame, score: str, arm: str, sae: str) -> dict[tuple[str, str], Values]:
    """By SAE and arm the finite scores of its features, ascending."""
    names, chosen, values = labels(table, sae), labels(table, arm), numbers(table, score)
    found: dict[tuple[str, str], list[float]] = {}
    for s, c, v in zip(names.tolist(), chosen.tolist(), values.tolist(), strict=True):
        found.setdefault((s, c), []).extend([v] if np.isfinite(v) else [])
    return {key: np.sort(np.array(v, dtype=float)) for key, v in found.items()}


def _clusters(table: pl.DataFrame, sae: str, cluster: str | None) -> dict[str, str] | None:
    """The cluster of every SAE; one SAE in two clusters is a `UserError`."""
    if cluster is None:
        return None
    found: dict[str, str] = {}
    for name, own in zip(labels(table, sae).tolist(), labels(table, cluster).tolist(), strict=True):
        if found.setdefault(name, own) != own:
            raise UserError(f"{sae} {name!r} has two values of {cluster}: {found[name]!r} and {own!r}.")
    return found


def _means(table: pl.DataFrame, score: str, arm: str, sae: str) -> pl.DataFrame:
    """One row per (SAE, arm): mean, n, dropped; mean is null where no score is there."""
    plain = pl.DataFrame(
        {"sae": labels(table, sae), "arm": labels(table, arm), "score": numbers(table, score)},
        schema={"sae": pl.String, "arm": pl.String, "score": pl.Float64},
    ).with_columns(pl.col("score").fill_nan(None))
    grouped = plain.sort("sae", "arm", "score").group_by("sae", "arm", maintain_order=True)
    return grouped.agg(mean=pl.col("score").mean(), n=pl.col("score").count(), dropped=pl.col("score").null_count())


def _column(features: list[Values]) -> Float[np.ndarray, "N"]:
    """The mean of each SAE's features, NaN where it has none."""
    return np.array([f.mean() if f.size else np.nan for f in features])


def _score(values: Float[np.ndarray, "N"], units: Units, seed: int) -> Estimate:
    keep = np.isfinite(values)
    kept = values[keep]
    start = Estimate(statistic="score", state="too_few", n=kept.size, dropped=values.size - kept.size, seed=seed)
    found = over_units(start, lambda w: w @ kept / w.sum(axis=1), units.take(keep))
    return replace(found, p=None, p_method=None)  # a score of 0 is no hypothesis


def gains_of(first: list[Values], second: list[Values], units: Units, draws: Draws) -> list[tuple[str, Estimate]]:
    """Difference in both scopes, relative gain and steering gain of two sets of features: by scope, the estimate.

    first, second: by SAE the finite scores of its features; an SAE that lacks one of them is dropped and counted.
    """
    x, y = _column(first), _column(second)
    keep = np.isfinite(x) & np.isfinite(y)
    a, b, own = x[keep], y[keep], units.take(keep)
    size: dict[str, Any] = {"state": "too_few", "n": a.size, "dropped": int((~keep).sum()), "seed": draws.seed}
    apart = over_units(Estimate(statistic="difference", **size), lambda w: w @ (a - b) / w.sum(axis=1), own)
    if apart.state == "ok" and own.name == "SAEs":
        p, method = _sign_flips(a - b, draws)
        few = f"{a.size} SAEs: too few sign flips for a p" if p is None else None
        apart = replace(apart, p=p, p_method=method, note=apart.note or few)
    pairs = [(f, s) for f, s, k in zip(first, second, keep, strict=True) if k]
    found = [(LIKE, apart), (THESE, _of_these(replace(apart, **NOTHING), pairs, draws))]
    base = over_units(Estimate(statistic="score", **size), lambda w: w @ b / w.sum(axis=1), own)
    for name in (RELATIVE, "steering gain"):
        start = Estimate(statistic=name, **size)
        if apart.state == "ok" and (why := _no_ratio([other for _, other in pairs], base, name)):
            found.append((LIKE, replace(start, state="undefined", note=why)))
        elif name == RELATIVE:
            found.append((LIKE, over_units(start, lambda w: _ratio(w @ a, w @ b), own, logarithm=True)))
        elif apart.state == "ok":
            gains = a / b - 1
            found.append((LIKE, over_units(start, lambda w, g=gains: w @ g / w.sum(axis=1), own)))
        else:
            found.append((LIKE, start))
    return found


NOTHING: Mapping[str, Any] = dict.fromkeys(["low", "high", "se", "p", "interval_method", "p_method", "note"])


def _no_ratio(bases: list[Values], mean: Estimate, name: str) -> str | None:
    """Why these bases carry no ratio, if they do not. A mean of ratios needs every SAE's base."""
    if name == "steering gain":
        if near := sum(b.mean() <= 0 for b in bases):
            return f"the base of {near} of {len(bases)} SAEs is 0: no ratio, read the difference"
        noise = float(np.sqrt(np.mean([b.var(ddof=1) / b.size for b in bases if b.size > 1] or [0.0])))
        if (mean.value or 0.0) < SURE * noise:
            return "the SAEs' bases are mostly noise: no mean of ratios, read the difference or the relative gain"
        return None
    if (mean.value or 0.0) <= 0 or (mean.low is not None and mean.low <= 0):
        return "the mean base is not told from 0: no ratio, read the difference"
    return None


def _of_these(start: Estimate, pairs: list[tuple[Values, Values]], draws: Draws) -> Estimate:
    """Of these SAEs: Welch's t over features, and the p of permuting within every SAE which features were selected."""
    if start.state != "ok":
        return start
    generator, null = draws.generator("permutation"), np.zeros(draws.count)
    shares: list[tuple[float, int]] = []
    for chosen, other in pairs:
        both = np.concatenate([chosen, other])
        orders = generator.permuted(np.tile(both, (draws.count, 1)), axis=1)
        total, n = both.sum(), chosen.size
        picked = orders[:, :n].sum(axis=1)
        null += picked / n - (total - picked) / other.size
        shares += [(v.var(ddof=1) / v.size / len(pairs) ** 2, v.size - 1) for v in (chosen, other) if v.size > 1]
    extreme = int((np.abs(null / len(pairs)) >= abs(start.value or 0.0) - 1e-12).sum())
    start = replace(start, p=(1 + extreme) / (1 + draws.count), p_method="permutation within SAEs")
    if any(min(c.size, o.size) < 2 for c, o in pairs):
        return replace(start, note="an SAE with one feature only: no interval over features")
    variances = np.array([v for v, _ in shares])
    se = float(np.sqrt(variances.sum()))
    if se < 1e-12:
        return replace(start, note="the features do not vary enough for an interval")
    freedom = se**4 / float((variances**2 / np.array([d for _, d in shares])).sum())
    reach, value = float(scipy.stats.t.ppf(0.975, freedom)) * se, start.value or 0.0
    return replace(start, low=value - reach, high=value + reach, se=se, interval_method="Welch t over features")


def _ratio(top: Float[np.ndarray, "R"], bottom: Float[np.ndarray, "R"]) -> Float[np.ndarray, "R"]:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0) - 1


def _sign_flips(differences: Float[np.ndarray, "N"], draws: Draws) -> tuple[float | None, str | None]:
    """Two-sided p of a zero mean difference: as likely with each SAE's sign turned (Fisher's randomisation).

    None where even the most extreme signs are not rare enough for any finding.
    """
    n, observed = differences.size, abs(float(differences.sum()))
    if 2 / 2**n > RAREST:
        return None, None
    exact = n <= EXACT_SIGNS
    if exact:
        signs = 1 - 2 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = 1 - 2 * draws.generator("signs").integers(0, 2, (draws.count, n))
    extreme = int((np.abs(signs @ differences) >= observed - 1e-12).sum())
    if exact:
        return extreme / signs.shape[0], "exact sign flips"
    return (1 + extreme) / (1 + draws.count), "sign flips"
