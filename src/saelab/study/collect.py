"""From the artefacts of the stages to the tables that are compared: one row per SAE, one row per steered feature.

Only reads. A score that is not there is null, never a number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from saelab.core.errors import ArtefactError
from saelab.instrument.readers import OUTCOMES
from saelab.instrument.site import dictionary_name
from saelab.selection.criteria.catalogue import CRITERIA, that_read
from saelab.stats.less import less_than
from saelab.stats.means import mean_estimate
from saelab.steering.arms import RANDOM
from saelab.steering.methods import SAE_FEATURE
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.adopt import asked_about, fallen, standing
from saelab.study.names import CONTROLS, INTERPRETABILITY, SCORES, UNSELECTED, predictors
from saelab.study.repeats import stability_of, stability_row
from saelab.study.spec import SaeSpec, StudyConfig, saes_of, training_of

# What stands beside every outcome: how far texts were moved, and how they look.
ABOUT = ("strength", "share", "kl_per_token", "nll", "distinct")

SAES: dict[str, Any] = {
    "sae": pl.String, "lm": pl.String, "site": pl.String, "architecture": pl.String, "level": pl.Int64,
    "width": pl.Int64, "seed": pl.Int64, "l0": pl.Float64, "fvu": pl.Float64, "ce_recovered": pl.Float64,
    "random_fvu": pl.Float64, "random_ce_recovered": pl.Float64, "dead_share": pl.Float64,
    "interpretability": pl.Float64, "interpretability_low": pl.Float64, "interpretability_high": pl.Float64,
    "random_interpretability": pl.Float64, "auroc": pl.Float64, "accuracy": pl.Float64, "embedding_auroc": pl.Float64,
    "random_embedding_auroc": pl.Float64, "n_scored": pl.Int64, "stability": pl.Float64, "stability_low": pl.Float64,
    "stability_high": pl.Float64, "random_stability": pl.Float64, "utility": pl.Float64, "utility_low": pl.Float64,
    "utility_high": pl.Float64, "n_rated": pl.Int64, "n_missing": pl.Int64, "n_steered": pl.Int64,
    **{f"{name}{end}": pl.Float64 for name in OUTCOMES
       for end in ("", "_low", "_high", "_lift", "_lift_low", "_lift_high", "_less", "_less_low", "_less_high")},
    **dict.fromkeys(ABOUT, pl.Float64), "state": pl.String,
}  # fmt: skip


def saes_table(study: StudyConfig, run: RunFolder) -> pl.DataFrame:
    """One row per SAE with its coordinates, fidelity, interpretability and utility (columns `SAES`).

    state: ok, or why an SAE could not be adopted; all its scores are then null. control: what an SAE is a control of
    training by; the column is there where some are. steps: of training; there where a grid gives its own.
    """
    rows = [_coordinates(s) | {"state": run.adopted(s.name).read()["state"]} for s in fallen(study, run)]
    for spec in standing(study, run):
        row = fidelity_row(study, run, spec) | stability_row(study, run, spec)
        row |= _outcomes(study, run, spec) if spec.steer else {}
        rows.append(row | (_utility(study, run, spec) if spec.steer and study.rated else {}))
    table, order = pl.DataFrame(rows, schema=SAES), {s.name: i for i, s in enumerate(saes_of(study))}
    controls = {s.name: s.control for s in saes_of(study)}
    if any(controls.values()):
        table = table.with_columns(control=pl.col("sae").replace_strict(controls, return_dtype=pl.String))
    if any(s.steps for s in saes_of(study)):
        steps = {s.name: None if s.adopted else training_of(study, s).steps for s in saes_of(study)}
        table = table.with_columns(steps=pl.col("sae").replace_strict(steps, return_dtype=pl.Int64))
    return table.sort(pl.col("sae").replace_strict(order, return_dtype=pl.Int64))


def dictionary_lifts(run: RunFolder, spec: SaeSpec, column: str) -> dict[str, Float[np.ndarray, " F"]]:
    """By outcome, a column of the features of the random dictionary of an SAE's site, width and level."""
    table = run.instrument(spec.model.key, spec.site).features.read(["set", "outcome", column])
    mine = table.filter(pl.col("set") == dictionary_name(spec.d_sae, spec.known_level))
    return {o: _numbers(mine.filter(pl.col("outcome") == o), column) for o in OUTCOMES}


def outcomes_of(run: RunFolder, spec: SaeSpec) -> pl.DataFrame:
    """The outcomes of an SAE's features, a row per (feature, arm, outcome)."""
    return run.steering(spec.name).outcomes.read(["feature", "arm", "outcome", "percentile", "lift"])


def texts_of(run: RunFolder, spec: SaeSpec) -> pl.DataFrame:
    """A row per text of an SAE's features: feature, prompt, answer, copy, every outcome and its lift."""
    columns = ["feature", "prompt", "answer", "copy", *OUTCOMES, *(f"{o}_lift" for o in OUTCOMES)]
    read = run.steering(spec.name).readings.read(columns).filter(pl.col("feature") >= 0)
    return read.select(columns).with_columns(pl.selectors.float().fill_nan(None))


def prompt_tables(
    texts: pl.DataFrame, features: Mapping[str, Sequence[int]], column: str
) -> dict[str, Float[np.ndarray, "_ _"]]:
    """A column of `texts_of` as [features, prompts] by arm, mean over copies, NaN where there is none.

    features: of every arm. Prompts are in one order.
    """
    prompts = texts.select("answer", "prompt").unique().sort("answer", "prompt")["prompt"].to_list()
    means = texts.group_by("feature", "prompt").agg(pl.col(column).mean()).rows()
    known = {(f, p): v for f, p, v in means if v is not None}
    return {
        arm: np.array([[known.get((f, p), np.nan) for p in prompts] for f in own], dtype=float).reshape(
            len(own), len(prompts)
        )
        for arm, own in features.items()
    }


def _outcomes(study: StudyConfig, run: RunFolder, spec: SaeSpec) -> dict[str, Any]:
    """Percentile and lift of the randomly drawn features by every outcome, and that less the random dictionary's."""
    drawn = outcomes_of(run, spec).filter(pl.col("arm") == RANDOM)
    beside = dictionary_lifts(run, spec, "lift")
    blind = run.instrument(spec.model.key, spec.site).gate.read()["state"] == "failed"  # then no gain is said
    found: dict[str, Any] = {"n_steered": drawn["feature"].n_unique()}
    for outcome in OUTCOMES:
        own = drawn.filter(pl.col("outcome") == outcome)
        lifts = _numbers(own, "lift")
        for column, values, bounds in (
            (outcome, _numbers(own, "percentile"), (0.0, 1.0)),
            (f"{outcome}_lift", lifts, None),
        ):
            mean = mean_estimate(values, name=f"{spec.name}/{column}", seed=study.seed, bounds=bounds)
            found |= {column: mean.value, f"{column}_low": mean.low, f"{column}_high": mean.high}
        less = less_than([] if blind else [lifts], [] if blind else ["own"], {"own": beside[outcome]})
        found |= {f"{outcome}_less": less.value, f"{outcome}_less_low": less.low, f"{outcome}_less_high": less.high}
    texts = drawn.filter(pl.col("outcome") == OUTCOMES[0])
    return found | {name: texts[name].mean() for name in ABOUT}


def features_table(study: StudyConfig, run: RunFolder) -> pl.DataFrame:
    """One row per (SAE, steered feature, method, arm): utility beside interpretability and effects. No controls.

    arm: `UNSELECTED` for the random arm steered by its features, its own name for a selected one, and the method's
    name for controls of the ratings. Every outcome has its percentile, and its lift under `OUTCOME_lift`;
    utility is the mean score of the ratings where a judge rated.
    """
    tables = []
    for spec in asked_about(study, run):
        if not spec.steer:
            continue
        read = outcomes_of(run, spec)
        steered = read.select("feature", "arm", method=pl.lit(SAE_FEATURE)).unique(maintain_order=True)
        for outcome in OUTCOMES:
            own = read.filter(pl.col("outcome") == outcome)
            own = own.select("feature", "arm", **{outcome: "percentile", f"{outcome}_lift": "lift"})
            steered = steered.join(own, on=["feature", "arm"], how="left", maintain_order="left")
        about = read.select("feature", *ABOUT).unique("feature", maintain_order=True)
        steered = steered.join(about, on="feature", how="left", maintain_order="left")
        if study.rated:
            keys, own = ["feature", "method", "arm"], {"reason_chosen": "arm", "test_score": "utility"}
            rated = run.ratings(spec.name).utility.read(list(own)).rename(own)
            steered = steered.join(rated, on=keys, how="full", coalesce=True, maintain_order="left_right")
        interp = run.interp(spec.name).features.read()
        effects = run.selection(spec.name).effects.read()
        scores = [m.name for m in SCORES]
        joined = steered.join(interp.select("feature", *scores), on="feature", how="left", maintain_order="left")
        contexts = run.interp(spec.name).contexts.path
        if contexts.exists():
            seen = read_table(contexts, ["feature", "tokens", "peak"])
            for name in that_read("contexts"):
                effects = CRITERIA[name].score(effects, seen)
        named = (*(m.name for m in predictors()), *CONTROLS)
        rest = [c for c in named if c in effects.columns and c not in (*scores, *ABOUT)]
        joined = joined.join(effects.select("feature", *rest), on="feature", how="left", maintain_order="left")
        named = pl.when(pl.col("arm") == RANDOM).then(pl.lit(UNSELECTED)).otherwise("arm")
        arm = pl.when(pl.col("method") == SAE_FEATURE).then(named).otherwise("method")
        if (stable := stability_of(study, run, spec)) is not None:
            joined = joined.join(stable[0], on="feature", how="left", maintain_order="left")
        tables.append(joined.with_columns(sae=pl.lit(spec.name), lm=pl.lit(spec.model.key), arm=arm))
    if not tables:
        raise ArtefactError("No SAE of this study is steered, so there is nothing to compare.")
    return pl.concat(tables, how="diagonal")


def fidelity_row(study: StudyConfig, run: RunFolder, spec: SaeSpec) -> dict[str, Any]:
    """An SAE's coordinates, fidelity and interpretability."""
    fidelity = run.interp(spec.name).fidelity.read()
    interp = run.interp(spec.name).features.read(["feature", "state", INTERPRETABILITY])
    beside = fidelity["random_dictionary"]["interpretability"]
    scored = interp.filter(pl.col("state") == "ok")
    values, name = _numbers(scored, INTERPRETABILITY), f"{spec.name}/interpretability"
    score = mean_estimate(values, name=name, seed=study.seed, bounds=(0.0, 1.0))
    return _coordinates(spec) | {
        "state": "ok", "l0": fidelity["l0"], "fvu": fidelity["fvu"],
        "ce_recovered": fidelity["ce_recovered"], "random_fvu": fidelity["random_dictionary"]["fvu"],
        "random_ce_recovered": fidelity["random_dictionary"]["ce_recovered"], "dead_share": fidelity["dead_share"],
        "interpretability": score.value, "interpretability_low": score.low, "interpretability_high": score.high,
        "random_interpretability": beside["balanced_accuracy"], "random_embedding_auroc": beside["embedding_auroc"],
        "embedding_auroc": scored["embedding_auroc"].mean(), "auroc": scored["auroc"].mean(),
        "accuracy": scored["accuracy"].mean(), "n_scored": score.n,
    }  # fmt: skip


def _coordinates(spec: SaeSpec) -> dict[str, Any]:
    return {
        "sae": spec.name, "lm": spec.model.key, "site": spec.site, "architecture": spec.architecture,
        "level": spec.level, "width": spec.d_sae, "seed": spec.seed,
    }  # fmt: skip


def _utility(study: StudyConfig, run: RunFolder, spec: SaeSpec) -> dict[str, Any]:
    """Mean test score of the randomly drawn features: the SAE's steering score without selection."""
    steered = run.ratings(spec.name).utility.read(["method", "reason_chosen", "test_score"])
    base = steered.filter((pl.col("method") == SAE_FEATURE) & (pl.col("reason_chosen") == RANDOM))
    values, name = _numbers(base, "test_score"), f"{spec.name}/utility"
    mean = mean_estimate(values, name=name, seed=study.seed, bounds=(0.0, 2.0))
    return {
        "utility": mean.value, "utility_low": mean.low, "utility_high": mean.high, "n_rated": mean.n,
        "n_missing": int(steered["n_missing"].sum()),
    }  # fmt: skip


def _numbers(table: pl.DataFrame, column: str) -> np.ndarray:
    return table[column].cast(pl.Float64).to_numpy().astype(float)
