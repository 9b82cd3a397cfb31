"""The arithmetic of utility: dev chooses, test reports, zero is not missing, and the two aggregations differ."""

import numpy as np
import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.steering.utility import (
    best_factor,
    held_out_means,
    hm_of_means,
    score_generations,
    split_instructions,
    summarise,
    win_rate,
)
from saelab.text.instructions import load_instructions

SCHEMA = {"generation": pl.String, "rubric": pl.String, "state": pl.String, "value": pl.Float64}


def judged(ratings: dict[str, tuple[float | None, float | None, float | None]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Generations and judgements from (concept, instruction, fluency); None is a missing judgement."""
    rows = [
        (key, rubric, "missing" if value is None else "ok", value)
        for key, values in ratings.items()
        for rubric, value in zip(("concept", "instruction", "fluency"), values, strict=True)
    ]
    return pl.DataFrame({"generation": list(ratings)}), pl.DataFrame(rows, SCHEMA, orient="row")


def test_scores_are_harmonic_means_and_missing_is_not_zero() -> None:
    scored = score_generations(*judged({"a": (2, 2, 2), "b": (0, 2, 2), "c": (2, None, 2), "d": (1, 1, 2)}))
    assert scored["score"].to_list() == pytest.approx([2.0, 0.0, None, 1.2])


def test_a_failed_judgement_changes_no_mean() -> None:
    """Dropping a text and failing to judge it give the same mean; rating it zero does not."""
    fine = {"a": (2.0, 2.0, 2.0), "b": (1.0, 1.0, 1.0)}
    means = [
        held_out_means(score_generations(*judged({**fine, **extra})))
        for extra in ({}, {"c": (2.0, None, 2.0)}, {"c": (0.0, 0.0, 0.0)})
    ]
    assert [m.score for m in means] == [1.5, 1.5, 1.0]
    assert [(m.n_test, m.n_missing) for m in means] == [(2, 0), (3, 1), (3, 0)]
    assert held_out_means(score_generations(*judged({"a": (None, 1, 1)}))).score is None


def test_best_factor() -> None:
    assert best_factor({0.5: [0.0, 1.0], 2.0: [2.0, 0.0], 1.0: [0.2, 0.0]}) == (2.0, 1.0)
    assert best_factor({2.0: [1.0], 0.5: [1.0], -0.25: [1.0]}) == (-0.25, 1.0), "ties: the smallest magnitude"
    assert best_factor({2.0: [0.3, 0.1, 0.2], 1.0: [0.1, 0.2, 0.3]}) == (1.0, pytest.approx(0.2)), "rounding ties"
    assert best_factor({0.5: [None, None], 1.0: [0.0, None]}) == (1.0, 0.0), "an unjudged factor cannot win"
    assert best_factor({0.5: [None], 1.0: []}) is None


def test_dev_and_test_are_disjoint_and_named() -> None:
    instructions = load_instructions()
    for seed in range(20):
        dev, test = split_instructions(instructions, 5, 5, seed)
        assert not set(dev) & set(test) and len(dev) == len(test) == 5
    assert split_instructions(instructions, 5, 5, 1) == split_instructions(instructions, 5, 5, 1)
    assert split_instructions(instructions, 5, 5, 1) != split_instructions(instructions, 5, 5, 2)
    with pytest.raises(UserError, match="out of 40"):
        split_instructions(instructions, 30, 11, 0)
    with pytest.raises(UserError, match="twice"):
        split_instructions(["a", "b", "a"], 1, 1, 0)


def test_mean_of_hms_is_below_hm_of_means() -> None:
    """Jensen: the harmonic mean is concave. Equal only when every text has the same ratings."""
    rng = np.random.default_rng(0)
    ratings = {str(i): tuple(rng.integers(0, 3, 3).astype(float)) for i in range(30)}
    means = held_out_means(score_generations(*judged(ratings)))  # pyright: ignore[reportArgumentType]
    assert means.score is not None and means.concept and means.instruction and means.fluency
    assert hm_of_means(means.concept, means.instruction, means.fluency) > means.score + 0.1
    same = held_out_means(score_generations(*judged({"a": (1, 2, 2), "b": (1, 2, 2)})))
    assert same.score == pytest.approx(hm_of_means(1, 2, 2))


def test_summary_reports_coverage() -> None:
    utility = pl.DataFrame(
        {
            "feature": [1, 2, 3],
            "test_score": [1.0, None, 0.0],
            "concept": [1.0, None, 0.0],
            "instruction": [1.0, None, 2.0],
            "fluency": [1.0, None, 2.0],
            "n_test": [2, 2, 2],
            "n_missing": [0, 2, 1],
        }
    )
    found = summarise(utility)
    assert (found.mean, found.features, found.coverage, found.missing_rate) == (0.5, 3, 2 / 3, 0.5)
    assert found.hm_of_means == pytest.approx(3 / (1 / 0.5 + 1 / 1.5 + 1 / 1.5))
    assert summarise(utility.filter(pl.col("feature") == 2)).mean is None


def test_win_rate_splits_ties() -> None:
    assert win_rate([1, 0, 1, 1], [0, 1, 1, 1 + 1e-9]) == 0.5
    assert win_rate([1, 1], [0, 0]) == 1.0


def test_forty_instructions_ship() -> None:
    assert len(load_instructions()) == 40
