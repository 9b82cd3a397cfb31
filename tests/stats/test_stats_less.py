"""SAEs less a random dictionary: the interval covers, features of one SAE are not taken for independent ones."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from saelab.core.seeds import numpy_generator
from saelab.stats.less import less_than


def drawn(rng: np.random.Generator, *, between: float, apart: float = 0.0) -> tuple[list[np.ndarray], np.ndarray]:
    """Twelve SAEs of 16 features with an effect of their own each, and 64 features of a dictionary."""
    effects = apart + between * rng.normal(size=12)
    return [e + rng.normal(size=16) for e in effects], rng.normal(size=64)


def test_the_known_answer_is_welchs_test_on_the_means_of_the_saes() -> None:
    ours, theirs = drawn(numpy_generator("less", 1), between=0.5, apart=1.0)
    means = np.array([g.mean() for g in ours])
    known = scipy_stats.ttest_ind(means, theirs, equal_var=False)
    low, high = known.confidence_interval(0.95)
    found = less_than(ours, theirs)
    assert (found.value, found.p) == pytest.approx((means.mean() - theirs.mean(), known.pvalue))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_false_positives_where_saes_differ_and_none_exceeds() -> None:
    """5 % with SAEs as units. Control: taking their features as units finds a difference in far more."""
    wrong = {"saes": 0, "features": 0}
    for seed in range(400):
        ours, theirs = drawn(numpy_generator("less", seed), between=0.8)
        wrong["saes"] += (less_than(ours, theirs).p or 1) < 0.05
        wrong["features"] += (less_than([np.concatenate(ours)], theirs).p or 1) < 0.05
    assert 0.025 < wrong["saes"] / 400 < 0.085
    assert wrong["features"] / 400 > 0.2


def test_missing_and_few_are_states() -> None:
    ours, theirs = drawn(numpy_generator("less", 2), between=0.0)
    holes = [np.append(g, np.nan) for g in ours]
    found = less_than(holes, theirs)
    assert (found.value, found.dropped) == (less_than(ours, theirs).value, 12)
    assert less_than(ours, theirs[:2]).state == "too_few"
    assert less_than([], theirs).state == "too_few"
    assert less_than([np.full(16, np.nan)] * 4, theirs).state == "too_few"
    flat = less_than([np.ones(4)] * 3, np.zeros(4))
    assert (flat.value, flat.low, flat.p) == (1.0, None, None)
