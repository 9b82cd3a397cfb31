"""Which of the SAEs that a study adopts is better at what: differences of pairs with intervals, and the sentence.

- fidelity          FVU of each held-out context, paired: BCa interval of the mean difference over contexts
- interpretability  balanced accuracy of features: Welch's t over features
- steering          lift of the randomly drawn features, where the gate passed: Welch's t over features

Nothing is called better than what it does not differ from by its 95 % interval; intervals are of single pairs. Only
reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saelab.instrument.readers import HEADLINE
from saelab.stats.estimate import Estimate
from saelab.stats.less import less_than
from saelab.stats.means import mean_estimate
from saelab.steering.arms import RANDOM
from saelab.store.layout import RunFolder
from saelab.study.adopt import standing
from saelab.study.collect import outcomes_of
from saelab.study.names import INTERPRETABILITY
from saelab.study.spec import SaeSpec, StudyConfig
from saelab.study.steering import gates_of

DEAD = 0.05  # share of features that never fire, from which it is said
Values = Float[np.ndarray, "_"]


@dataclass(frozen=True)
class Aspect:
    """Something that SAEs are better or worse at. paired: the values of all SAEs are of the same contexts, in order."""

    name: str
    said: str
    paired: bool = False
    lower_is_better: bool = False


ASPECTS = (
    Aspect("fidelity", "FVU on held-out text", paired=True, lower_is_better=True),
    Aspect("interpretability", "interpretability of features that fire"),
    Aspect("steering", "how features steer (lift)"),
)
COLUMNS: dict[str, Any] = {
    "lm": pl.String, "site": pl.String, "aspect": pl.String, "first": pl.String, "second": pl.String,
    "first_mean": pl.Float64, "second_mean": pl.Float64, "difference": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "first_l0": pl.Float64, "second_l0": pl.Float64, "first_dead": pl.Float64,
    "second_dead": pl.Float64, "n": pl.Int64, "better": pl.String,
    "state": pl.String, "method": pl.String,
}  # fmt: skip


def compared(study: StudyConfig, run: RunFolder) -> pl.DataFrame:
    """A row per aspect and pair of adopted SAEs of one LM and site (columns `COLUMNS`).

    difference: the first less the second. better: the name of the one that is, null where the interval includes 0 or
    does not exist.
    """
    saes = [s for s in standing(study, run) if s.adopted is not None]
    seen = any(s.steer for s in saes) and gates_of(study, run)["state"] == "passed"
    rows = []
    asked = {"interpretability": study.interp.n_scored > 0, "steering": seen}
    for aspect in (a for a in ASPECTS if asked.get(a.name, True)):
        values = {s.name: _values(aspect, run, s) for s in saes}
        for first, second in combinations(saes, 2):
            if (first.model, first.site) == (second.model, second.site):
                pair = (values[first.name], values[second.name])
                about = _about(run, first, "first") | _about(run, second, "second")
                rows.append(_row(aspect, (first, second), pair, study.seed) | about)
    return pl.DataFrame(rows, schema=COLUMNS)


def _about(run: RunFolder, sae: SaeSpec, side: str) -> dict[str, float | None]:
    """What a comparison must not hide: how many features are on at once, and the share that is never on."""
    scored = run.interp(sae.name).fidelity
    dead = scored.read().get("dead_share") if scored.exists else None
    return {f"{side}_l0": run.adopted(sae.name).read()["proof"]["l0"], f"{side}_dead": dead}


def _values(aspect: Aspect, run: RunFolder, sae: SaeSpec) -> Values:
    if aspect.name == "fidelity":
        return np.array(run.adopted(sae.name).read()["fvu_of_contexts"], dtype=float)
    if aspect.name == "interpretability":
        scored = run.interp(sae.name).features.read(["state", INTERPRETABILITY]).filter(pl.col("state") == "ok")
        return scored[INTERPRETABILITY].cast(pl.Float64).fill_null(np.nan).to_numpy().astype(float)
    if not sae.steer:
        return np.array([])
    drawn = outcomes_of(run, sae).filter((pl.col("arm") == RANDOM) & (pl.col("outcome") == HEADLINE))
    return drawn["lift"].cast(pl.Float64).fill_null(np.nan).to_numpy().astype(float)


def _row(aspect: Aspect, saes: tuple[SaeSpec, SaeSpec], values: tuple[Values, Values], seed: int) -> dict[str, Any]:
    (first, second), (a, b) = saes, values
    found = _difference(aspect, a, b, f"{first.name}/{second.name}", seed)
    better = None
    if found.low is not None and found.high is not None and (found.low > 0 or found.high < 0):
        better = (first if (found.low > 0) != aspect.lower_is_better else second).name
    means = [float(np.nanmean(v)) if np.isfinite(v).any() else None for v in values]
    return {
        "lm": first.model.key, "site": first.site, "aspect": aspect.name, "first": first.name, "second": second.name,
        "first_mean": means[0], "second_mean": means[1], "difference": found.value, "low": found.low,
        "high": found.high, "n": found.n, "better": better, "state": found.state, "method": found.interval_method,
    }  # fmt: skip


def _difference(aspect: Aspect, a: Values, b: Values, pair: str, seed: int) -> Estimate:
    if aspect.paired:
        found = mean_estimate(a - b, name=f"compared/{aspect.name}/{pair}", seed=seed)
        return replace(found, interval_method=found.interval_method and "BCa bootstrap over contexts")
    return less_than([a], ["other"], {"other": b})


def sentence(table: pl.DataFrame) -> str:
    """Which SAE is better at what, or that they cannot be told apart; empty where there is no pair."""
    said = []
    for (lm, site), part in table.group_by("lm", "site", maintain_order=True):
        found = [_of_aspect(aspect, part.filter(pl.col("aspect") == aspect.name)) for aspect in ASPECTS]
        where = f"At {site} of {lm}, by" if table.select("lm", "site").n_unique() > 1 else "By"
        said += [f"{where} {'; by '.join(f for f in found if f)}."] if any(found) else []
    return " ".join(said)


def _of_aspect(aspect: Aspect, part: pl.DataFrame) -> str:
    rows = part.filter(pl.col("difference").is_not_null()).to_dicts()
    if not rows:
        return f"{aspect.said}, too little was scored to compare" if part.height else ""
    means = {r[side]: r[f"{side}_mean"] for r in rows for side in ("first", "second")}
    about = {r[side]: _said(r, side) for r in rows for side in ("first", "second")}
    best = sorted(means, key=lambda name: means[name], reverse=not aspect.lower_is_better)[0]
    mine = {r["second"] if r["first"] == best else r["first"]: r for r in rows if best in (r["first"], r["second"])}
    over = [_spoken(name, best, r, about) for name, r in mine.items() if r["better"] == best]
    level = [_spoken(name, best, r, about) for name, r in mine.items() if r["better"] != best]
    shown = f"{best} ({means[best]:.3f}, {about[best]})"
    if not over:
        return f"{aspect.said}, {shown} cannot be told from {_listed(level)}"
    rest = f" and cannot be told from {_listed(level)}" if level else ""
    return f"{aspect.said}, {shown} is better than {_listed(over)}{rest}"


def _said(row: dict[str, Any], side: str) -> str:
    """An SAE's L0, and its share of dead features where that is not small."""
    dead = row.get(f"{side}_dead")
    return f"L0 {row[f'{side}_l0']:.1f}" + (f", {dead:.0%} dead" if dead is not None and dead >= DEAD else "")


def _spoken(name: str, best: str, row: dict[str, Any], about: dict[str, str]) -> str:
    """An SAE with its L0, and the difference of the best from it with its interval."""
    ends = [row["difference"], row["low"], row["high"]]
    if row["low"] is None or row["high"] is None:
        return f"{name} ({'the same to the last digit' if row['difference'] == 0 else 'no interval'})"
    value, low, high = ends if row["first"] == best else (-ends[0], -ends[2], -ends[1])
    return f"{name} ({about[name]}: {value:+.3f} [{low:+.3f}, {high:+.3f}])"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
