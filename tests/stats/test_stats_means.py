"""The mean of scores over features: the plain mean, an interval that covers, and a state where there is none."""

import numpy as np
import pytest
from scipy.stats import binomtest

from saelab.core.seeds import numpy_generator
from saelab.stats.means import mean_estimate


def test_the_mean_of_what_is_there() -> None:
    values = np.array([0.1, np.nan, 0.4, 0.7, np.inf])
    found = mean_estimate(values, name="three")
    assert found.value == pytest.approx(0.4) and found.n == 3 and found.dropped == 2
    assert found.low is not None and found.high is not None and found.low < 0.4 < found.high
    assert found == mean_estimate(values, name="three")


def test_the_interval_covers_a_skewed_mean_and_its_half_does_not() -> None:
    held, half = [], []
    for i in range(200):
        found = mean_estimate(numpy_generator("test means", i).exponential(size=40), name=str(i), draws=600)
        assert found.low is not None and found.high is not None
        held.append(found.low <= 1 <= found.high)
        middle, reach = (found.low + found.high) / 2, (found.high - found.low) / 4
        half.append(abs(middle - 1) <= reach)
    assert 0.88 <= np.mean(held) <= 1.0 and np.mean(half) < 0.85


def test_no_mean_is_a_state() -> None:
    few = mean_estimate(np.array([0.5, np.nan, 0.5]), name="few")
    assert few.state == "too_few" and few.value is None and few.dropped == 1
    same = mean_estimate(np.full(9, 0.5), name="same")
    assert same.value == 0.5 and same.low is None and same.note is not None


def test_scores_that_are_all_alike_have_the_binomial_interval_where_their_bounds_are_known() -> None:
    """Ten zeros on a scale of 0 to 2: at most 31 % of other features score at all. Control: without bounds, none."""
    found = mean_estimate(np.zeros(10), name="zeros", bounds=(0.0, 2.0))
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(2 * binomtest(0, 10).proportion_ci(method="exact").high)
    assert mean_estimate(np.zeros(10), name="zeros").high is None
    middle = mean_estimate(np.ones(10), name="ones", bounds=(0.0, 2.0))
    assert middle.low is not None and middle.high is not None and middle.low < 1 < middle.high
