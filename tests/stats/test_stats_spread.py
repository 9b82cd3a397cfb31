"""Whether a score tells items apart: F and reliability by known answers, and what a design is said to see is seen."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from saelab.core.seeds import numpy_generator
from saelab.stats.reliability import without_noise
from saelab.stats.spread import APART, smallest_tau, spread_of, spread_table


def items(rng: np.random.Generator, *, n: int, repeats: int, between: float, within: float) -> list[np.ndarray]:
    return [m + within * rng.normal(size=repeats) for m in between * rng.normal(size=n)]


def test_f_and_p_are_the_analysis_of_variance() -> None:
    groups = items(numpy_generator("spread", 1), n=6, repeats=9, between=0.5, within=1.0)
    known = scipy_stats.f_oneway(*groups)
    found = spread_of(groups)
    assert (found.f, found.p) == pytest.approx((known.statistic, known.pvalue))
    assert found.reliability == pytest.approx(1 - 1 / known.statistic)
    assert found.se == pytest.approx(np.sqrt(np.mean([g.var(ddof=1) for g in groups]) / 9))
    assert found.smallest == pytest.approx(2.801585 * np.sqrt(2) * (found.se or 0), rel=1e-6)


def test_variances_are_found_again() -> None:
    found = spread_of(items(numpy_generator("spread", 2), n=400, repeats=20, between=0.3, within=1.0))
    assert found.between == pytest.approx(0.3, rel=0.1)
    assert found.se == pytest.approx(1 / np.sqrt(20), rel=0.05)
    assert found.reliability == pytest.approx(0.09 / (0.09 + 0.05), rel=0.1)


def test_a_difference_that_can_be_told_is_told_four_times_in_five() -> None:
    """The smallest difference, by a z test of two items; half of it is told far less often."""
    rng, se = numpy_generator("spread", 3), 0.1
    smallest = APART * np.sqrt(2) * se
    for factor, low, high in ((1.0, 0.77, 0.83), (0.5, 0.2, 0.4)):
        apart = factor * smallest + np.sqrt(2) * se * rng.normal(size=4000)
        assert low < (np.abs(apart) > scipy_stats.norm.ppf(0.975) * np.sqrt(2) * se).mean() < high


def test_missing_values_and_items_without_repeats_are_left_out() -> None:
    groups = items(numpy_generator("spread", 4), n=5, repeats=6, between=1.0, within=1.0)
    same = spread_of([*(np.append(g, np.nan) for g in groups), np.array([3.0]), np.array([])])
    assert same == spread_of(groups)
    assert spread_of(groups[:2]).state == "too_few" and spread_of([]).state == "too_few"
    assert spread_of([np.ones(3)] * 4).state == "constant"
    table = spread_table({"a": groups, "b": []})
    assert table["score"].to_list() == ["a", "b"] and table["f"].null_count() == 1


def test_noise_raises_the_tau_that_a_design_can_find() -> None:
    clean, noisy = smallest_tau(30, 1.0, 1.0), smallest_tau(30, 0.9, 0.5)
    assert clean is not None and noisy is not None and noisy > clean + 0.1
    assert without_noise(clean, 0.9, 0.5) == pytest.approx(noisy, abs=0.01)
    assert smallest_tau(30, 0.9, 0.02) is None, "nothing is found in noise"
    assert smallest_tau(30, 0.9, 0.0) is None and smallest_tau(2, 1.0, 1.0) is None
