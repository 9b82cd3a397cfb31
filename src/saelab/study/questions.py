"""What settles the questions about a study's tau, in one long table: does selection change it, is it L0, is it noise?

`stats/questions.parquet`, rows by `question`: "change" of tau by selection, against as many features that were drawn at
random (paired over SAEs); "partial" tau given L0 and FVU; "regression" of ranks; "noise" (reliability of texts, readers
and SAEs, tau as observed and without noise); "tier" (the best tail of a criterion, chosen on half of the prompts, on
the others). Of SAEs that share language models, only what is inside those and knows of them. Only reads.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

from saelab.core.seeds import numpy_generator
from saelab.instrument.readers import HEADLINE, OUTCOMES
from saelab.stats.association import Draws
from saelab.stats.effects import partial_tau, tau_difference
from saelab.stats.estimate import ESTIMATE_SCHEMA
from saelab.stats.features import feature_agreement
from saelab.stats.multiplicity import corrected
from saelab.stats.regression import rank_regression
from saelab.stats.reliability import attenuation, corrected_tau, reliability
from saelab.stats.tiers import Scored, best_tier
from saelab.stats.units import units_of
from saelab.store.layout import RunFolder
from saelab.study.adopt import asked_about
from saelab.study.collect import texts_of
from saelab.study.names import CONTROLS, UNSELECTED, chosen_arms, predictors
from saelab.study.spec import SaeSpec, StudyConfig

X = "interpretability"
GIVEN = (("l0",), ("fvu",), ("l0", "fvu"))
VARIED = ("width", "steps", "depth")  # what a contrast arm may vary beside them; depth: the block of the site
SHUFFLES = 500
LABELS: dict[str, Any] = dict.fromkeys(["question", "about", "y"], pl.String)
Rows = Iterable[dict[str, Any]]


def questions(
    study: StudyConfig, run: RunFolder, saes: pl.DataFrame, features: pl.DataFrame, spread: pl.DataFrame
) -> pl.DataFrame:
    """The table of the head. saes, features, spread: the study's tables `saes`, `steered` and `spread`."""
    grid = saes.filter(pl.col("n_steered").is_not_null())
    rows = [
        *_changes(study, grid, features), *_partials(study, grid), *_noise(study, run, grid, features, spread),
        *_tiers(study, run, features),
    ]  # fmt: skip
    table = pl.DataFrame(
        [{k: r.get(k) for k in (LABELS | ESTIMATE_SCHEMA)} for r in rows], schema=LABELS | ESTIMATE_SCHEMA
    )
    families = {"change": "changes of tau", "tier": "criteria"}
    named = [
        f"{'controls' if about in CONTROLS else families[q]}, {y}, {m or 'no interval'}" if q in families else None
        for q, about, y, m in table.select("question", "about", "y", "interval_method").iter_rows()
    ]
    return corrected(table, named)


def _settings(study: StudyConfig) -> dict[str, Any]:
    return {"seed": study.seed, "draws": study.resamples}


def _inside(study: StudyConfig, grid: pl.DataFrame) -> dict[str, Any]:
    """Seed and draws, and the cluster where SAEs are of several LMs."""
    return _settings(study) | {"cluster": "lm" if grid["lm"].n_unique() > 1 else None}


def _known(found: pl.DataFrame, asked: dict[str, Any]) -> pl.DataFrame:
    """Where SAEs share LMs, only the rows that know of it."""
    inside = found.filter(pl.col("statistic").str.ends_with("within"))
    return inside if asked["cluster"] and inside.height else found


def _changes(study: StudyConfig, grid: pl.DataFrame, features: pl.DataFrame) -> Rows:
    """tau with the selected features less tau with as many drawn at random: the mean of fewer features is noisier, and
    noise alone lowers tau.
    """
    asked = _inside(study, grid)
    scores = [*OUTCOMES, *(["utility"] if study.rated else [])]
    for score in scores:
        known = features.filter(pl.col(score).is_not_null())
        unselected = known.filter(pl.col("arm") == UNSELECTED)
        for arm in chosen_arms(study):
            after = known.filter(pl.col("arm") == arm)
            if after.is_empty() or unselected.is_empty():
                continue
            sizes = after.group_by("sae").agg(after=pl.col(score).mean(), k=pl.len())
            drawn, sets = _sets(study, unselected, score, sizes)
            joined = grid.join(sizes, on="sae", how="left", maintain_order="left")
            joined = joined.join(drawn, on="sae", how="left", maintain_order="left")
            found = _known(tau_difference(joined, first=(X, "after"), second=(X, *sets), **asked), asked)
            about = {"question": "change", "about": arm, "y": score}
            note = f"against as many random features, the mean of {len(sets)} sets"
            yield from (about | r | {"note": r["note"] or note} for r in found.iter_rows(named=True))


def _sets(
    study: StudyConfig, drawn: pl.DataFrame, score: str, sizes: pl.DataFrame
) -> tuple[pl.DataFrame, Sequence[str]]:
    """By SAE the mean scores of disjoint sets of its random features, each as large as its selection; the columns."""
    order = numpy_generator(study.seed, "stats", "sets", score).permutation(drawn.height)
    mixed = drawn[order].join(sizes, on="sae", maintain_order="left")
    placed = mixed.with_columns(at=pl.int_range(pl.len()).over("sae") // pl.col("k"), n=pl.len().over("sae"))
    whole = (placed["n"] // placed["k"]).drop_nulls().to_list()
    count = max(1, min(whole, default=1))  # of every SAE; the rest is left out
    placed = placed.filter(pl.col("at") < count)
    names = [f"set {i}" for i in range(count)]
    means = placed.group_by("sae", "at").agg(pl.col(score).mean()).sort("sae", "at")
    table = means.pivot("at", index="sae", values=score).rename({str(i): name for i, name in enumerate(names)})
    return table, names


def _partials(study: StudyConfig, grid: pl.DataFrame) -> Rows:
    """Partial tau and rank regression, given L0, FVU, and what else varies inside every LM: width, steps, depth."""
    asked, grid = _inside(study, grid), grid.with_columns(depth=pl.col("site").str.extract(r"(\d+)$").cast(pl.Int64))
    parts = grid.partition_by("lm")
    more = [c for c in VARIED if c in grid.columns and all(p[c].n_unique() > 1 for p in parts)]
    for outcome in OUTCOMES:
        for given in (*GIVEN, *([("l0", "fvu", *more)] if more else [])):
            found = _known(partial_tau(grid, x=X, y=outcome, given=given, **asked), asked)
            about = ", ".join(given)
            yield from ({"question": "partial", "about": about, "y": outcome} | r for r in found.iter_rows(named=True))
        found = rank_regression(grid, response=outcome, terms=[X, "l0", "fvu", *more], **asked)
        for row in found.iter_rows(named=True):
            yield {"question": "regression", "about": row["term"], "y": outcome} | row


def _noise(
    study: StudyConfig, run: RunFolder, grid: pl.DataFrame, features: pl.DataFrame, spread: pl.DataFrame
) -> Rows:
    """How well texts, halves of prompts, readers and judges agree; the reliability of SAEs; tau without noise."""
    specs = [s for s in asked_about(study, run) if s.steer]
    drawn = features.filter(pl.col("arm") == UNSELECTED)
    read = {s.name: _texts(run, s, drawn) for s in specs}
    texts, by = pl.concat(read.values()), {r["score"]: r for r in spread.iter_rows(named=True)}
    for outcome in OUTCOMES:
        for row in reliability(texts, item="item", value=outcome).iter_rows(named=True):
            about = {"one judgement": "one text of a feature", "mean of the repeats": "a feature's texts"}[row["of"]]
            yield {"question": "noise", "about": about, "y": outcome} | row
        halves = [_halves(t, outcome).with_columns(sae=pl.lit(s.name), lm=pl.lit(s.model.key))
                  for s, t in zip(specs, read.values(), strict=True)]  # fmt: skip
        about = "half of a feature's prompts with the other half"
        yield from _agree(study, pl.concat(halves), ("dev", "test"), about, outcome)
        yield from _reliable(study, grid, outcome, by)
    yield from _agree(study, drawn, OUTCOMES[::-1], "the two readers of a feature's texts", HEADLINE)
    if (asked_twice := run.anchors("end")).exists:
        kept = asked_twice.read()["drift"]
        yield {"question": "noise", "about": "the judge with itself, asked twice", "y": "utility",
               "statistic": "weighted kappa", "value": kept["kappa"], "n": kept["n"], "dropped": kept["missing"],
               "state": "too_few" if kept["kappa"] is None else "ok"}  # fmt: skip


def _agree(study: StudyConfig, table: pl.DataFrame, columns: Sequence[str], about: str, outcome: str) -> Rows:
    """Spearman of two scores of features inside SAEs, mean over SAEs, in both scopes."""
    found = feature_agreement(table, predictors=[columns[0]], response=columns[1], cluster="lm", seed=study.seed)
    found = found.filter(pl.col("sae").is_null() & (pl.col("statistic") == "spearman"))
    yield from ({"question": "noise", "about": about, "y": outcome} | r for r in found.iter_rows(named=True))


def _reliable(study: StudyConfig, grid: pl.DataFrame, outcome: str, by: dict[str, dict[str, Any]]) -> Rows:
    """The reliability of SAEs' means, what noise leaves of a correlation, and tau with and without it."""
    shares = [(name, "reliability", by[name]["reliability"]) for name in (X, outcome)]
    shares.append((f"{outcome}, over prompts like these", "reliability_prompts", by[outcome]["reliability_prompts"]))
    for name, statistic, share in shares:
        note = "2 or more prompts and SAEs are needed" if statistic != "reliability" and share is None else None
        yield {"question": "noise", "about": f"an SAE's mean: {name}", "y": outcome, "statistic": statistic,
               "value": share, "n": grid.height, "dropped": 0, "note": note,
               "state": "too_few" if share is None else "ok"}  # fmt: skip
    x, y = (by[name]["reliability"] for name in (X, outcome))
    if not x or not y:
        yield {"question": "noise", "about": "tau without noise", "y": outcome, "statistic": "corrected tau",
               "n": grid.height, "dropped": 0, "state": "undefined",
               "note": "a score that does not tell SAEs apart cannot be corrected"}  # fmt: skip
        return
    yield {"question": "noise", "about": "what noise leaves of a correlation", "y": outcome, "statistic": "attenuation",
           "value": attenuation(x, y), "n": grid.height, "dropped": 0, "state": "ok"}  # fmt: skip
    found = corrected_tau(grid, x=X, y=outcome, reliability_x=x, reliability_y=y, **_inside(study, grid))
    for row in found.iter_rows(named=True):
        yield {"question": "noise", "about": f"tau {row['tau']}", "y": outcome} | row


def _texts(run: RunFolder, spec: SaeSpec, drawn: pl.DataFrame) -> pl.DataFrame:
    """The texts of an SAE's sampled features, with `item`, which names SAE and feature."""
    own = drawn.filter(pl.col("sae") == spec.name)["feature"].unique().to_list()
    read = texts_of(run, spec).filter(pl.col("feature").is_in(own))
    return read.with_columns(item=pl.format("{} {}", pl.lit(spec.name), pl.col("feature")))


def _tiers(study: StudyConfig, run: RunFolder, features: pl.DataFrame) -> Rows:
    """Of every criterion and control, by every outcome."""
    specs = [s for s in asked_about(study, run) if s.steer]
    drawn = features.filter(pl.col("arm") == UNSELECTED)
    names = [n for n in (*(m.name for m in predictors()), *CONTROLS) if n in drawn.columns]
    units = units_of(len(specs), np.array([s.model.key for s in specs], dtype=object), "lm")
    texts = {spec.name: _texts(run, spec, drawn) for spec in specs}
    for outcome in OUTCOMES:
        halves = {name: _halves(own, outcome) for name, own in texts.items()}
        for name in names:
            scored = []
            for spec in specs:
                mine = drawn.filter(pl.col("sae") == spec.name).join(halves[spec.name], on="feature", how="left")
                columns = [mine[c].cast(pl.Float64).fill_null(np.nan).to_numpy() for c in (name, "dev", "test")]
                scored.append(Scored(*(np.asarray(c, dtype=float) for c in columns)))
            tier, dev, found = best_tier(scored, units, Draws(study.seed, SHUFFLES, ("tiers", outcome, name)))
            chosen = f"{tier}: {dev:+.3f} where it was chosen" if dev is not None else ""
            note = "; ".join(filter(None, [chosen, found.note])) or None
            yield {"question": "tier", "about": name, "y": outcome} | vars(found) | {"note": note}


def _halves(read: pl.DataFrame, outcome: str) -> pl.DataFrame:
    """An outcome of every feature, mean over every other prompt of each kind (dev) and over the rest (test).

    With one prompt of each kind, instructions choose and openings test.
    """
    prompts = read.select("answer", "prompt").unique().sort(~pl.col("answer"), "prompt")
    place = pl.int_range(pl.len()).over("answer") if prompts.height > 2 else pl.int_range(pl.len())
    joined = read.join(prompts.with_columns(place=place), on=["answer", "prompt"], how="left", maintain_order="left")
    even = pl.col("place") % 2 == 0
    return joined.group_by("feature", maintain_order=True).agg(
        dev=pl.col(outcome).filter(even).mean(), test=pl.col(outcome).filter(~even).mean()
    )
