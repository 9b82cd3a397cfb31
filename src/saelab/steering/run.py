"""The steering stage of one SAE: do its features steer, at the factor chosen on dev, on instructions not seen there?

Writes what `evaluate.py` writes, and `utility.parquet` (one row per feature, method and arm): feature, method,
reason_chosen, factor, dev_score, test_score, concept, instruction, fluency, n_test, n_missing, state ("ok",
"no_dev_score", "no_test_score"). Methods: `sae_feature`, and the controls `random_direction` (of equal norm, beside
some features of the random arm) and `unsteered`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from saelab.core.progress import SILENT, Progress
from saelab.judges.client import Judge
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.steering import plan
from saelab.steering.arms import RANDOM, filled
from saelab.steering.config import UtilityConfig
from saelab.steering.evaluate import SteeringResult, SteeringTask, evaluate
from saelab.steering.methods import RANDOM_DIRECTION
from saelab.steering.utility import held_out_means
from saelab.store.folders import RatingsFolder

UTILITY = {
    "feature": pl.Int64, "method": pl.String, "reason_chosen": pl.String, "factor": pl.Float64,
    "dev_score": pl.Float64, "test_score": pl.Float64, "concept": pl.Float64, "instruction": pl.Float64,
    "fluency": pl.Float64, "n_test": pl.Int64, "n_missing": pl.Int64, "state": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class SteeringInputs:
    """What the stage reads.

    features: interp's table (feature, max_activation, description, terms, state); effects: selection's table;
    judge_record: what the judge was calibrated on, kept in the manifest.
    """

    lm: LanguageModel
    sae: Sae
    features: pl.DataFrame
    effects: pl.DataFrame
    instructions: Sequence[str]
    judge: Judge
    judge_record: Mapping[str, Any] = field(default_factory=dict)


def run(config: UtilityConfig, inputs: SteeringInputs, folder: Path, progress: Progress = SILENT) -> list[Path]:
    """Evaluate one SAE's features; returns the files written in `folder`, finished ones included."""
    able = plan.candidates(inputs.features)
    arms = filled(config.arms, able, inputs.effects, config.seed)
    chosen = sorted({f for arm in arms.values() for f in arm})
    controls = plan.control_features(arms[RANDOM], config)
    task = SteeringTask(
        lm=inputs.lm,
        directions=plan.directions_of(inputs.sae, able, chosen, controls, config.seed),
        concepts=plan.descriptions_of(able),
        instructions=inputs.instructions,
        judge=inputs.judge,
        sae=inputs.sae,
        judge_record=inputs.judge_record,
    )
    result = evaluate(config, task, folder, progress)
    place = RatingsFolder(folder)
    place.utility.write(utility_table(result, arms, {RANDOM_DIRECTION: RANDOM}))
    return place.files


def utility_table(result: SteeringResult, arms: Mapping[str, Sequence[int]], only: Mapping[str, str]) -> pl.DataFrame:
    """One row per (arm, number, method). `only` names methods that belong to a single arm."""
    rows = []
    for reason, members in arms.items():
        for (feature, method), found in result.best.items():
            if feature not in members or only.get(method, reason) != reason:
                continue
            if found is None:
                rows.append((feature, method, reason, *[None] * 6, 0, 0, "no_dev_score"))
                continue
            mean = held_out_means(result.test[feature, method])
            state = "ok" if mean.score is not None else "no_test_score"
            ratings = (mean.score, mean.concept, mean.instruction, mean.fluency, mean.n_test, mean.n_missing)
            rows.append((feature, method, reason, *found, *ratings, state))
    return pl.DataFrame(rows, UTILITY, orient="row")
