"""What settles the questions about a study's tau, in one long table: does selection change it, is it L0, is it noise?

`stats/questions.parquet`, rows by `question`: "change" of tau by selection (paired over SAEs); "partial" tau given L0
and FVU; "regression" of ranks; "noise" (reliability of both scores and of texts, tau as observed and without noise);
"tier" (the best tail of a criterion, chosen on half of the prompts, on the others). Only reads.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from saelab.instrument.readers import HEADLINE, OUTCOMES
from saelab.stats.association import Draws
from saelab.stats.effects import partial_tau, tau_difference
from saelab.stats.estimate import ESTIMATE_SCHEMA
from saelab.stats.multiplicity import corrected
from saelab.stats.regression import rank_regression
from saelab.stats.reliability import corrected_tau, reliability
from saelab.stats.tiers import Scored, best_tier
from saelab.stats.units import units_of
from saelab.steering.arms import RANDOM
from saelab.store.layout import RunFolder
from saelab.study.adopt import asked_about
from saelab.study.names import CONTROLS, UNSELECTED, chosen_arms, predictors
from saelab.study.spec import SaeSpec, StudyConfig

X = "interpretability"
GIVEN = (("l0",), ("fvu",), ("l0", "fvu"))
SHUFFLES = 500
LABELS: dict[str, Any] = dict.fromkeys(["question", "about", "y"], pl.String)
Rows = Iterable[dict[str, Any]]


def questions(
    study: StudyConfig, run: RunFolder, saes: pl.DataFrame, features: pl.DataFrame, spread: pl.DataFrame
) -> pl.DataFrame:
    """The table of the head. saes, features, spread: the study's tables `saes`, `steered` and `spread`."""
    grid = saes.filter(pl.col("n_steered").is_not_null())
    rows = [
        *_changes(study, grid, features), *_partials(study, grid), *_noise(study, run, grid, spread),
        *_tiers(study, run, features),
    ]  # fmt: skip
    table = pl.DataFrame(
        [{k: r.get(k) for k in (LABELS | ESTIMATE_SCHEMA)} for r in rows], schema=LABELS | ESTIMATE_SCHEMA
    )
    families = {"change": "changes of tau", "tier": "criteria"}
    named = [
        f"{families[q]}, {m or 'no interval'}" if (q in families) else None
        for q, m in table.select("question", "interval_method").iter_rows()
    ]
    return corrected(table, named)


def _settings(study: StudyConfig) -> dict[str, Any]:
    return {"seed": study.seed, "draws": study.resamples}


def _changes(study: StudyConfig, grid: pl.DataFrame, features: pl.DataFrame) -> Rows:
    cluster = "lm" if grid["lm"].n_unique() > 1 else None
    scores = [(o, o) for o in OUTCOMES] + ([("utility", "test_score")] if study.rated else [])
    for outcome, score in scores:
        for arm in chosen_arms(study):
            after = features.filter((pl.col("criterion") == arm) & pl.col(score).is_not_null())
            if after.is_empty():
                continue
            means = after.group_by("sae").agg(after=pl.col(score).mean())
            joined = grid.join(means, on="sae", how="left", maintain_order="left")
            found = tau_difference(joined, first=(X, "after"), second=(X, outcome), cluster=cluster, **_settings(study))
            yield from ({"question": "change", "about": arm, "y": outcome} | r for r in found.iter_rows(named=True))


def _partials(study: StudyConfig, grid: pl.DataFrame) -> Rows:
    several = grid["lm"].n_unique() > 1
    for outcome in OUTCOMES:
        for given in GIVEN:
            found = partial_tau(grid, x=X, y=outcome, given=given, within=["lm"] if several else [], **_settings(study))
            about = ", ".join(given) + (", inside LMs" if several else "")
            yield from ({"question": "partial", "about": about, "y": outcome} | r for r in found.iter_rows(named=True))
        terms = [X, "l0", "fvu", *(["lm"] if several else [])]
        found = rank_regression(grid, outcome=outcome, terms=terms, **_settings(study))
        for row in found.iter_rows(named=True):
            yield {"question": "regression", "about": row["term"], "y": outcome} | row


def _noise(study: StudyConfig, run: RunFolder, grid: pl.DataFrame, spread: pl.DataFrame) -> Rows:
    known = dict(spread.select("score", "reliability").iter_rows())
    read = pl.concat([_texts(run, spec) for spec in asked_about(study, run) if spec.steer])
    for outcome in OUTCOMES:
        for row in reliability(read, item="item", value=outcome).iter_rows(named=True):
            about = {"one judgement": "one text of a feature", "mean of the repeats": "a feature's texts"}[row["of"]]
            yield {"question": "noise", "about": about, "y": outcome} | row
        shares = (known.get(X), known.get(outcome))
        for name, share in zip((X, outcome), shares, strict=True):
            yield {"question": "noise", "about": f"an SAE's mean: {name}", "y": outcome, "statistic": "reliability",
                   "value": share, "n": grid.height, "dropped": 0,
                   "state": "too_few" if share is None else "ok"}  # fmt: skip
        x, y = shares
        if x and y:
            found = corrected_tau(grid, x=X, y=outcome, reliability_x=x, reliability_y=y, **_settings(study))
            for row in found.iter_rows(named=True):
                yield {"question": "noise", "about": f"tau {row['tau']}", "y": outcome} | row
        else:
            yield {"question": "noise", "about": "tau without noise", "y": outcome, "statistic": "corrected tau",
                   "n": grid.height, "dropped": 0, "state": "undefined",
                   "note": "a score that does not tell SAEs apart cannot be corrected"}  # fmt: skip


def _texts(run: RunFolder, spec: SaeSpec) -> pl.DataFrame:
    """A row per text of a sampled feature: item (SAE and feature), prompt, copy and both outcomes."""
    drawn = run.steering(spec.name).outcomes.read(["feature", "arm"]).filter(pl.col("arm") == RANDOM)["feature"]
    read = run.steering(spec.name).readings.read(["feature", "prompt", "copy", *OUTCOMES])
    read = read.filter(pl.col("feature").is_in(drawn.unique().to_list()))
    item = pl.format("{} {}", pl.lit(spec.name), pl.col("feature"))
    return read.select("feature", "prompt", "copy", *OUTCOMES, item=item)


def _tiers(study: StudyConfig, run: RunFolder, features: pl.DataFrame) -> Rows:
    """Of every criterion and control, by the headline outcome."""
    specs = [s for s in asked_about(study, run) if s.steer]
    halves = {spec.name: _halves(_texts(run, spec)) for spec in specs}
    drawn = features.filter(pl.col("criterion") == UNSELECTED)
    names = [n for n in (*(m.name for m in predictors()), *CONTROLS) if n in drawn.columns]
    units = units_of(len(specs), np.array([s.model.key for s in specs], dtype=object), "lm")
    for name in names:
        scored = []
        for spec in specs:
            mine = drawn.filter(pl.col("sae") == spec.name).join(halves[spec.name], on="feature", how="left")
            columns = [mine[c].cast(pl.Float64).fill_null(np.nan).to_numpy() for c in (name, "dev", "test")]
            scored.append(Scored(*(np.asarray(c, dtype=float) for c in columns)))
        tier, dev, found = best_tier(scored, units, Draws(study.seed, SHUFFLES, ("tiers", name)))
        note = "; ".join(
            filter(None, [f"{tier}: {dev:+.3f} where it was chosen" if dev is not None else "", found.note])
        )
        yield {"question": "tier", "about": name, "y": HEADLINE} | vars(found) | {"note": note or None}


def _halves(read: pl.DataFrame) -> pl.DataFrame:
    """The headline outcome of every feature, mean over every other prompt (dev) and over the rest (test)."""
    keys = read.select("prompt", "copy").unique().sort("prompt", "copy").with_row_index("place")
    joined = read.join(keys, on=["prompt", "copy"], how="left", maintain_order="left")
    even = pl.col("place") % 2 == 0
    return joined.group_by("feature", maintain_order=True).agg(
        dev=pl.col(HEADLINE).filter(even).mean(), test=pl.col(HEADLINE).filter(~even).mean()
    )
