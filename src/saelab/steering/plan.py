"""What will be written: which features, in which arm, steered by what, at which factors, answering which instructions.

A candidate fired and has a description with terms; others cannot be steered by their own maximum activation or judged,
and are left out before any arm (arms.py) is filled. A feature in two arms is steered once and reported in both. Pure:
no model runs here, nothing is written.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from saelab.core.records import Description, Term
from saelab.core.seeds import numpy_generator, seed_of
from saelab.judges.rubric import RUBRICS
from saelab.saes.base import Sae
from saelab.steering.batch import AnswerJob
from saelab.steering.config import UtilityConfig
from saelab.steering.direction import Direction
from saelab.steering.directions.equal_norm import equal_norm_direction
from saelab.steering.directions.sae_feature import sae_feature
from saelab.steering.methods import PROMPTING, RANDOM_DIRECTION, SAE_FEATURE, UNSTEERED


@dataclass(frozen=True)
class Budget:
    """An evaluation before it starts: texts and (at most) tokens to write, texts to judge, calls for that."""

    texts: int
    tokens: int
    judged: int
    calls: int


@dataclass(frozen=True)
class Row:
    """One text of the plan. `generation` is its key; the columns of the table, less what writing adds."""

    feature: int
    method: str
    factor: float
    strength: float
    instruction_id: int
    split: str

    @property
    def generation(self) -> str:
        """For instance `sae_feature.17.x0.5.i3`; independent of the order of work."""
        return f"{self.method}.{self.feature}.x{self.factor:g}.i{self.instruction_id}"

    def seed(self, run_seed: int) -> int:
        """The text's own seed; unsteered texts of one instruction are one text, whatever feature they stand beside."""
        feature = -1 if self.method == UNSTEERED else self.feature
        return seed_of(run_seed, "steering", self.method, feature, f"{self.factor:g}", self.instruction_id)


def candidates(features: pl.DataFrame) -> pl.DataFrame:
    """Features that can be steered and judged: described with terms, and seen to fire. Sorted by feature."""
    able = (pl.col("state") == "ok") & (pl.col("max_activation") > 0) & (pl.col("terms").list.len() > 0)
    return features.filter(able.fill_null(False)).sort("feature")


def control_features(arm: Sequence[int], config: UtilityConfig) -> list[int]:
    """The features of the random arm that a random direction stands beside."""
    rng = numpy_generator(config.seed, "steering", "controls")
    return sorted(int(f) for f in rng.choice(list(arm), min(config.n_control, len(arm)), replace=False))


def directions_of(
    sae: Sae, features: pl.DataFrame, chosen: Iterable[int], controls: Iterable[int], seed: int
) -> dict[tuple[int, str], Direction]:
    """Directions by (feature, method)."""
    peak = dict(features.select("feature", "max_activation").iter_rows())
    found = {(f, SAE_FEATURE): sae_feature(sae, f, float(peak[f])) for f in chosen}
    for f in controls:
        found[f, RANDOM_DIRECTION] = equal_norm_direction(found[f, SAE_FEATURE], seed=seed)
    return found


def dev_rows(
    directions: Mapping[tuple[int, str], Direction],
    factors: Sequence[float | int],
    dev: Sequence[int],
    prompts: Mapping[int, str],
) -> list[Row]:
    """Every direction at every factor on the dev instructions, and each feature's prompted and unsteered texts."""
    rows = [
        Row(feature, method, factor, direction.strength(factor), i, "dev")
        for (feature, method), direction in directions.items()
        for factor in factors
        for i in dev
    ]
    return rows + _unedited(directions, prompts, dev, "dev")


def held_out_rows(
    directions: Mapping[tuple[int, str], Direction],
    factor: Mapping[tuple[int, str], float | None],
    test: Sequence[int],
    prompts: Mapping[int, str],
) -> list[Row]:
    """Every direction at its chosen factor only on the test instructions, and each feature's unedited texts."""
    rows = [
        Row(feature, method, chosen, direction.strength(chosen), i, "test")
        for (feature, method), direction in directions.items()
        if (chosen := factor.get((feature, method))) is not None
        for i in test
    ]
    return rows + _unedited(directions, prompts, test, "test")


def job(
    row: Row,
    directions: Mapping[tuple[int, str], Direction],
    prompts: Mapping[int, str],
    instructions: Sequence[str],
    seed: int,
) -> AnswerJob:
    """What has to be written for a row. A prompted text is asked for by the prompt and the instruction together."""
    asked = instructions[row.instruction_id]
    if row.method == PROMPTING:
        asked = f"{prompts[row.feature]}\n\nQuestion: {asked}"
    return AnswerJob(asked, directions.get((row.feature, row.method)), row.factor, row.seed(seed))


def descriptions_of(features: pl.DataFrame) -> dict[int, Description]:
    """Descriptions by feature, from interp's table."""
    return {
        row["feature"]: Description(row["description"], tuple(Term(t["text"], t["weight"]) for t in row["terms"]))
        for row in features.select("feature", "description", "terms").iter_rows(named=True)
    }


def budget(config: UtilityConfig, directions: int, features: int, prompts: int = 0) -> Budget:
    """What evaluating so many directions (and the unsteered and prompted texts of so many features) comes to."""
    steered = directions * (len(config.factors) * config.n_dev + config.n_test)
    unedited = (features + prompts) * (config.n_dev + config.n_test)
    written = steered + config.n_dev + config.n_test + prompts * (config.n_dev + config.n_test)
    judged = steered + unedited
    return Budget(written, written * config.max_new_tokens, judged, judged * len(RUBRICS))


def _unedited(
    directions: Mapping[tuple[int, str], Direction], prompts: Mapping[int, str], ids: Sequence[int], split: str
) -> list[Row]:
    rows = [Row(f, PROMPTING, 0.0, 0.0, i, split) for f in prompts for i in ids]
    features = dict.fromkeys(feature for feature, _ in directions)
    return rows + [Row(f, UNSTEERED, 0.0, 0.0, i, split) for f in features for i in ids]
