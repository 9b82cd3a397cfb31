"""Choice of features: tails, ties, missing scores; the top-1 regret."""

import numpy as np
import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.selection.choose import Tail, choose, top1_regret

EFFECTS = pl.DataFrame({"feature": [5, 1, 2, 3, 4], "score": [0.5, -3.0, 4.0, 0.0, -0.1], "other": [1.0, 2, 3, 4, 5]})


@pytest.mark.parametrize(
    ("tail", "n", "expected"),
    [("up", 2, [2, 5]), ("down", 1, [1]), ("both", 1, [1, 2]), ("both", 2, [1, 2, 4, 5]), ("up", 99, [1, 2, 3, 4, 5])],
)
def test_tails(tail: Tail, n: int, expected: list[int]) -> None:
    assert choose(EFFECTS, "score", tail, n) == expected


def test_a_choice_ignores_row_order_and_missing_scores() -> None:
    tied = pl.DataFrame({"feature": [3, 1, 2, 0], "score": [1.0, 1.0, None, float("nan")]})
    assert choose(tied, "score", "up", 1) == [1]
    assert choose(tied.reverse(), "score", "up", 1) == [1]
    assert choose(tied, "score", "up", 4) == [1, 3], "null and NaN are never picked"
    assert choose(tied.head(0), "score", "both", 4) == []


def test_unknown_criterion() -> None:
    with pytest.raises(UserError, match="score"):
        choose(EFFECTS, "scor", "up", 1)


def test_regret() -> None:
    x = np.array([1.0, 2, 3, 4, np.nan])
    assert top1_regret(x, np.array([5.0, 1, 1, 3, 99])) == 2.0
    assert top1_regret(x * np.nan, x) is None
