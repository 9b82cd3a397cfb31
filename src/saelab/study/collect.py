"""From the artefacts of the stages to the tables that are compared: one row per SAE, one row per steered feature.

Only reads. A score that is not there is null, never a number.
"""

from typing import Any

import numpy as np
import polars as pl

from saelab.core.errors import ArtefactError
from saelab.selection.criteria.catalogue import CRITERIA, that_read
from saelab.stats.means import mean_estimate
from saelab.steering.arms import RANDOM
from saelab.steering.methods import SAE_FEATURE
from saelab.store.files import read_json
from saelab.store.layout import InterpFolder, RunFolder, SelectionFolder, SteeringFolder
from saelab.store.tables import read_table
from saelab.study.names import CONTROLS, INTERPRETABILITY, SCORES, UNSELECTED, predictors
from saelab.study.spec import SaeSpec, StudyConfig, saes_of

SAES: dict[str, Any] = {
    "sae": pl.String, "lm": pl.String, "site": pl.String, "architecture": pl.String, "level": pl.Int64,
    "width": pl.Int64, "seed": pl.Int64, "l0": pl.Float64, "fvu": pl.Float64, "ce_recovered": pl.Float64,
    "random_fvu": pl.Float64, "random_ce_recovered": pl.Float64, "dead_share": pl.Float64,
    "interpretability": pl.Float64, "interpretability_low": pl.Float64, "interpretability_high": pl.Float64,
    "auroc": pl.Float64, "accuracy": pl.Float64, "n_scored": pl.Int64, "utility": pl.Float64, "utility_low": pl.Float64,
    "utility_high": pl.Float64, "n_steered": pl.Int64, "n_missing": pl.Int64,
}  # fmt: skip


def saes_table(study: StudyConfig, run: RunFolder) -> pl.DataFrame:
    """One row per SAE with its coordinates, fidelity, interpretability and utility (columns `SAES`)."""
    rows = [fidelity_row(study, run, s) | (_utility(study, run, s) if s.steer else {}) for s in saes_of(study)]
    return pl.DataFrame(rows, schema=SAES)


def features_table(study: StudyConfig, run: RunFolder) -> pl.DataFrame:
    """One row per (SAE, steered feature, method, arm): utility beside interpretability and effects.

    criterion: `UNSELECTED` for the random arm steered by its features, the arm's name for a selected one, and the
    method's name for controls.
    """
    tables = []
    for spec in saes_of(study):
        if not spec.steer:
            continue
        steered = read_table(
            SteeringFolder(run.steering(spec.name)).utility.path, ["feature", "method", "reason_chosen"]
        )
        interp = read_table(InterpFolder(run.interp(spec.name)).features.path)
        effects = read_table(SelectionFolder(run.selection(spec.name)).effects.path)
        scores = [m.name for m in SCORES]
        joined = steered.join(interp.select("feature", *scores), on="feature", how="left", maintain_order="left")
        contexts = InterpFolder(run.interp(spec.name)).contexts.path
        if contexts.exists():
            seen = read_table(contexts, ["feature", "tokens", "peak"])
            for name in that_read("contexts"):
                effects = CRITERIA[name].score(effects, seen)
        named = (*(m.name for m in predictors()), *CONTROLS)
        rest = [c for c in named if c in effects.columns and c not in scores]
        joined = joined.join(effects.select("feature", *rest), on="feature", how="left", maintain_order="left")
        arm = pl.when(pl.col("reason_chosen") == RANDOM).then(pl.lit(UNSELECTED)).otherwise("reason_chosen")
        criterion = pl.when(pl.col("method") == SAE_FEATURE).then(arm).otherwise("method")
        tables.append(joined.with_columns(sae=pl.lit(spec.name), lm=pl.lit(spec.model.key), criterion=criterion))
    if not tables:
        raise ArtefactError("No grid of this study steers, so there is no utility to compare.")
    return pl.concat(tables)


def fidelity_row(study: StudyConfig, run: RunFolder, spec: SaeSpec) -> dict[str, Any]:
    """An SAE's coordinates, fidelity and interpretability."""
    fidelity = read_json(InterpFolder(run.interp(spec.name)).fidelity.path)
    interp = read_table(InterpFolder(run.interp(spec.name)).features.path, ["feature", "state", INTERPRETABILITY])
    scored = interp.filter(pl.col("state") == "ok")
    score = mean_estimate(_numbers(scored, INTERPRETABILITY), name=f"{spec.name}/interpretability", seed=study.seed)
    return {
        "sae": spec.name, "lm": spec.model.key, "site": spec.site, "architecture": spec.architecture,
        "level": spec.level, "width": spec.d_sae, "seed": spec.seed, "l0": fidelity["l0"], "fvu": fidelity["fvu"],
        "ce_recovered": fidelity["ce_recovered"], "random_fvu": fidelity["random_dictionary"]["fvu"],
        "random_ce_recovered": fidelity["random_dictionary"]["ce_recovered"], "dead_share": fidelity["dead_share"],
        "interpretability": score.value, "interpretability_low": score.low, "interpretability_high": score.high,
        "auroc": scored["auroc"].mean(), "accuracy": scored["accuracy"].mean(), "n_scored": score.n,
    }  # fmt: skip


def _utility(study: StudyConfig, run: RunFolder, spec: SaeSpec) -> dict[str, Any]:
    """Mean test score of the randomly drawn features: the SAE's steering score without selection."""
    steered = read_table(
        SteeringFolder(run.steering(spec.name)).utility.path, ["method", "reason_chosen", "test_score"]
    )
    base = steered.filter((pl.col("method") == SAE_FEATURE) & (pl.col("reason_chosen") == RANDOM))
    mean = mean_estimate(_numbers(base, "test_score"), name=f"{spec.name}/utility", seed=study.seed)
    return {
        "utility": mean.value, "utility_low": mean.low, "utility_high": mean.high, "n_steered": mean.n,
        "n_missing": int(steered["n_missing"].sum()),
    }  # fmt: skip


def _numbers(table: pl.DataFrame, column: str) -> np.ndarray:
    return table[column].cast(pl.Float64).to_numpy().astype(float)
