"""The arithmetic of steering utility (AxBench, arXiv 2501.17148; arXiv 2510.03659, section 3): no model, no judge.

A generation's score is the harmonic mean of its ratings for concept, instruction and fluency. For each feature the
steering factor is the one with the best mean score on the dev instructions; the feature's utility is the mean score at
that factor on the test instructions, which share no instruction with dev and are judged at no other factor.

Missing stays missing: a generation without all three ratings has no score, is counted, and is never a zero. The mean of
harmonic means is the utility; the harmonic mean of the three means (arXiv 2505.20063's aggregation, never smaller by
Jensen's inequality) goes by its own name, `hm_of_means`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.judges.rubric import RUBRICS, harmonic_mean


def split_instructions(instructions: Sequence[str], n_dev: int, n_test: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the dev and test instructions: drawn without replacement, so disjoint."""
    if len(set(instructions)) < len(instructions):
        raise UserError("An instruction is given twice; it could land in dev and in test.", hint="Remove duplicates.")
    if n_dev < 1 or n_test < 1 or n_dev + n_test > len(instructions):
        raise UserError(
            f"{n_dev} dev and {n_test} test instructions were asked for, out of {len(instructions)}.",
            hint="Give more instructions or ask for fewer.",
        )
    order = numpy_generator(seed, "steering", "instructions").permutation(len(instructions))
    return sorted(int(i) for i in order[:n_dev]), sorted(int(i) for i in order[n_dev : n_dev + n_test])


def score_generations(generations: pl.DataFrame, judgements: pl.DataFrame) -> pl.DataFrame:
    """`generations` with `concept_rating`, `instruction_rating`, `fluency_rating` and `score` (null where missing)."""
    rated = judgements.filter(pl.col("state") == "ok")
    for rubric in RUBRICS:
        column = rated.filter(pl.col("rubric") == rubric).select("generation", pl.col("value").alias(_rating(rubric)))
        generations = generations.join(column, on="generation", how="left", validate="1:1", maintain_order="left")
    scores = [
        None if None in row else harmonic_mean([float(r) for r in row])
        for row in generations.select(map(_rating, RUBRICS)).iter_rows()
    ]
    return generations.with_columns(score=pl.Series(scores, dtype=pl.Float64))


def best_factor(dev: Mapping[float, Sequence[float | int | None]]) -> tuple[float, float] | None:
    """The factor with the highest mean dev score and that mean; ties go to the factor of smallest magnitude.

    Missing scores are left out of their mean; a factor with no score at all cannot win; None when none has one.
    """
    known = {f: [s for s in scores if s is not None] for f, scores in dev.items()}
    means = {f: float(np.mean(scores)) for f, scores in known.items() if scores}
    if not means:
        return None
    best = max(means.values())
    # Means of the same ratings in another order can differ in the last bit: a tie is a difference under 1e-9.
    return min((f for f, m in means.items() if m >= best - 1e-9), key=lambda f: (abs(f), f)), best


@dataclass(frozen=True)
class HeldOut:
    """Test means of one feature and method at the chosen factor; None where nothing could be scored."""

    score: float | None
    concept: float | None
    instruction: float | None
    fluency: float | None
    n_test: int
    n_missing: int


def held_out_means(scored: pl.DataFrame) -> HeldOut:
    """Means over the generations that have a score; the three ratings are averaged over the same generations."""
    whole = scored.filter(pl.col("score").is_not_null())
    columns = {"score": "score"} | {rubric: _rating(rubric) for rubric in RUBRICS}
    means = {name: float(np.mean(whole[c].to_numpy())) if whole.height else None for name, c in columns.items()}
    return HeldOut(**means, n_test=scored.height, n_missing=scored.height - whole.height)


def hm_of_means(concept: float | int, instruction: float | int, fluency: float | int) -> float:
    """Harmonic mean of the three mean ratings: another quantity than the mean of harmonic means."""
    return harmonic_mean([concept, instruction, fluency])


@dataclass(frozen=True)
class Summary:
    """A method's utility over features: mean test score, and how much of what was asked for it covers."""

    mean: float | None
    hm_of_means: float | None
    features: int
    coverage: float
    missing_rate: float


def summarise(utility: pl.DataFrame) -> Summary:
    """Summary of utility rows of one method and one reason. Coverage = share of features with a test score."""
    scored = utility.filter(pl.col("test_score").is_not_null())
    judged = int(utility["n_test"].sum())
    if not scored.height:
        return Summary(None, None, utility.height, 0.0, 1.0)
    means = [float(np.mean(scored[c].to_numpy())) for c in RUBRICS]
    return Summary(
        mean=float(np.mean(scored["test_score"].to_numpy())),
        hm_of_means=hm_of_means(*means),
        features=utility.height,
        coverage=scored.height / utility.height,
        missing_rate=int(utility["n_missing"].sum()) / judged if judged else 1.0,
    )


def _rating(rubric: str) -> str:
    return f"{rubric}_rating"


def win_rate(scores: Sequence[float | int], baseline: Sequence[float | int]) -> float:
    """Share of paired items where `scores` beats `baseline`, a difference under 1e-6 counting one half (AxBench)."""
    difference = np.asarray(scores, dtype=float) - np.asarray(baseline, dtype=float)
    return float(np.mean(np.where(np.abs(difference) < 1e-6, 0.5, difference > 0)))
