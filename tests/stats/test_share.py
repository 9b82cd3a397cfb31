"""The share of yes among clustered answers: known intervals, coverage, and a naive interval that fails."""

import numpy as np
import pytest
import scipy

from saelab.core.seeds import numpy_generator
from saelab.stats.share import share_estimate


def test_of_clusters_of_one_it_is_close_to_clopper_and_pearson() -> None:
    yes = np.array([True] * 15 + [False] * 5)
    found = share_estimate(yes, range(20))
    exact = scipy.stats.binomtest(15, 20).proportion_ci(method="exact")
    assert found.value == 0.75 and found.low == pytest.approx(exact.low, abs=0.01)
    assert found.high == pytest.approx(exact.high, abs=0.01)
    assert found.p == pytest.approx(scipy.stats.binomtest(15, 20).pvalue, abs=0.01)


def test_answers_that_are_all_alike_have_the_binomial_bound_of_their_clusters() -> None:
    found = share_estimate(np.ones(20, bool), [i // 2 for i in range(20)])
    assert (found.value, found.high) == (1.0, 1.0) and found.low == pytest.approx(0.025 ** (1 / 10))
    assert found.p == pytest.approx(2 * 0.5**10)
    none = share_estimate(np.zeros(20, bool), [i // 2 for i in range(20)])
    assert none.low == 0 and none.high == pytest.approx(1 - 0.025 ** (1 / 10)) and none.p == found.p


def test_fewer_than_three_clusters_are_too_few() -> None:
    found = share_estimate(np.array([True, False] * 10), [0, 1] * 10)
    assert found.value is None and found.state == "too_few" and found.n == 20
    assert share_estimate(np.zeros(0, bool), []).state == "too_few"


@pytest.mark.parametrize(("p", "clusters"), [(0.5, 30), (0.8, 30), (0.5, 15)])
def test_it_covers_where_answers_of_a_cluster_are_alike_and_the_naive_one_does_not(p: float, clusters: int) -> None:
    """Each cluster's four answers are one answer with probability 0.7."""
    rng, inside, naive = numpy_generator("share", str(p), clusters), [], []
    index = np.repeat(np.arange(clusters), 4)
    for _ in range(400):
        own = rng.random(clusters) < p
        yes = np.where(rng.random(4 * clusters) < 0.7, own[index], rng.random(4 * clusters) < p)
        for found, label in ((inside, index), (naive, np.arange(yes.size))):
            estimate = share_estimate(yes, label.tolist())
            found.append(estimate.low <= p <= estimate.high)
    assert np.mean(inside) >= 0.93 and np.mean(naive) < 0.9
