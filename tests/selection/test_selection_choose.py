"""Choice of features: tiers, controls, and the rule that test scores never choose anything."""

import numpy as np
import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.selection.choose import (
    Tier,
    choose,
    choose_tier,
    outcome,
    random_subsets,
    rank_product,
    shuffled_choice,
    top1_regret,
)

EFFECTS = pl.DataFrame({"feature": [5, 1, 2, 3, 4], "score": [0.5, -3.0, 4.0, 0.0, -0.1], "other": [1.0, 2, 3, 4, 5]})
TIERS = [Tier("score", tail, "top", size) for tail in ("up", "down", "both") for size in (1, 2)]
WIDE = [Tier("score", tail, "top", size) for tail in ("up", "down", "both") for size in (8, 16)]


def planted(n: int = 200, *, seed: int = 0, linked: bool = True) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Effects, and scores that follow the effect's size (or not)."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=n)
    true = np.abs(effect) if linked else rng.random(n)
    scores = {"feature": np.arange(n), "dev": true + rng.normal(size=n) / 5, "test": true + rng.normal(size=n) / 5}
    return pl.DataFrame({"feature": np.arange(n), "score": effect}), pl.DataFrame(scores)


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        (Tier("score", "up", "top", 2), [2, 5]),
        (Tier("score", "down", "top", 1), [1]),
        (Tier("score", "both", "top", 1), [1, 2]),
        (Tier("score", "up", "threshold", 0.5), [2, 5]),
        (Tier("score", "down", "threshold", 0.1), [1, 4]),
        (Tier("score", "up", "quantile", 0.75), [2, 5]),
        (Tier("score", "both", "quantile", 0.99), [1, 2]),
        (Tier("score", "up", "top", 99), [1, 2, 3, 4, 5]),
    ],
)
def test_tiers(tier: Tier, expected: list[int]) -> None:
    assert choose(EFFECTS, tier) == expected


def test_a_choice_ignores_row_order_and_missing_scores() -> None:
    tied = pl.DataFrame({"feature": [3, 1, 2, 0], "score": [1.0, 1.0, None, float("nan")]})
    assert choose(tied, Tier("score", "up", "top", 1)) == [1]
    assert choose(tied.reverse(), Tier("score", "up", "top", 1)) == [1]
    assert choose(tied, Tier("score", "up", "top", 4)) == [1, 3], "null and NaN are never picked"


def test_unknown_criterion() -> None:
    with pytest.raises(UserError, match="score"):
        choose(EFFECTS, Tier("scor", "up", "top", 1))


def test_rank_product_wants_both() -> None:
    table = pl.DataFrame({"feature": [0, 1, 2, 3], "a": [3.0, 2.9, 0.0, 1.0], "b": [-1.0, 9.0, -9.1, 5.0]})
    assert choose(rank_product(table, {"a": 1, "b": 1}), Tier("rank_product", "up", "top", 1)) == [1]
    assert choose(rank_product(table, {"a": -1, "b": 0}), Tier("rank_product", "up", "top", 1)) == [2]


def test_the_tier_is_chosen_on_dev_alone() -> None:
    """Whatever the test scores say, the chosen tier is the same; what is reported is the test mean."""
    effects, scores = planted()
    best, outcomes = choose_tier(effects, scores, TIERS)
    for seed in range(5):
        shuffled = scores.with_columns(pl.col("test").shuffle(seed=seed))
        again, _ = choose_tier(effects, shuffled, TIERS)
        assert again.tier == best.tier
    assert best.dev == max(o.dev for o in outcomes if o.dev is not None)
    assert best.test == pytest.approx(scores.filter(pl.col("feature").is_in(list(best.features)))["test"].mean())


def test_coverage_counts_what_could_not_be_scored() -> None:
    """Two features chosen, one without a test score: coverage one half, and the missing one is not a zero."""
    scores = pl.DataFrame({"feature": [1, 2], "dev": [1.0, 1.0], "test": [0.8, None]})
    found = outcome("t", [1, 2], scores)
    assert (found.scored, found.coverage, found.test) == (1, 0.5, 0.8)
    with pytest.raises(UserError, match="dev"):
        choose_tier(EFFECTS, scores.with_columns(dev=pl.lit(None, pl.Float64)), TIERS)


def test_selection_beats_its_controls_only_when_there_is_something_to_find() -> None:
    effects, scores = planted()
    best, _ = choose_tier(effects, scores, WIDE)
    assert best.test is not None
    assert best.test > np.quantile(random_subsets(scores, len(best.features)), 0.95)
    assert best.test > np.quantile(shuffled_choice(effects, scores, WIDE, draws=60), 0.95)
    beaten = 0
    for seed in range(15):
        effects, scores = planted(seed=seed, linked=False)
        best, _ = choose_tier(effects, scores, WIDE)
        bar = np.quantile(shuffled_choice(effects, scores, WIDE, draws=40), 0.9)
        beaten += best.test is not None and best.test > bar
    assert beaten <= 6, "an unlinked criterion beats the 90 % quantile of its control about one time in ten"


def test_controls_are_repeatable() -> None:
    _, scores = planted()
    np.testing.assert_array_equal(random_subsets(scores, 5, draws=9), random_subsets(scores, 5, draws=9))
    assert random_subsets(scores, 5, draws=2000).mean() == pytest.approx(scores["test"].mean(), abs=0.03)
    with pytest.raises(UserError, match="draw"):
        random_subsets(scores, 999)


def test_regret() -> None:
    x = np.array([1.0, 2, 3, 4, np.nan])
    assert top1_regret(x, np.array([5.0, 1, 1, 3, 99])) == 2.0
    assert top1_regret(x * np.nan, x) is None
