"""tau_b and its permutation null are what scipy, brute force and the published p-values say."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, kstest

from saelab.core.seeds import numpy_generator
from saelab.stats.kendall import exact_distribution, null_variance, permutation_null, permuted_taus, signs, tau_b
from saelab.stats.resample import original, tau_of

DRAWS = 4000


def gen(*names: str | int) -> np.random.Generator:
    return numpy_generator("test kendall", *names)


def pair_tau(x: np.ndarray, y: np.ndarray) -> float:
    """tau_b by the pair-sum road that all resampling uses."""
    return float(tau_of(original(x.size), signs(x), signs(y))[0])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=40))
@settings(max_examples=150, deadline=None)
def test_pair_sums_give_scipys_tau_b_with_ties(rows: list[tuple[int, int]]) -> None:
    x, y = np.array(rows, dtype=float).T.copy()
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert tau_b(x, y) is None and np.isnan(pair_tau(x, y))
    else:
        assert pair_tau(x, y) == pytest.approx(float(kendalltau(x, y).statistic), abs=1e-9)
        assert tau_b(x, y) == pytest.approx(pair_tau(x, y), abs=1e-9)


def test_tau_b_is_not_tau_a() -> None:
    """Control: with ties the paper's displayed formula (tau_a) gives another number."""
    x, y = np.array([1.0, 1, 2, 3]), np.array([1.0, 2, 2, 3])
    tau_a = float((signs(x) * signs(y)).sum()) / 12
    assert tau_b(x, y) == pytest.approx(0.8)
    assert tau_a == pytest.approx(4 / 6)


@pytest.mark.parametrize("n", [5, 8, 15, 30])
def test_exact_p_without_ties_is_scipys(n: int) -> None:
    for i in range(5):
        x, y = gen(n, i).standard_normal((2, n))
        found = permutation_null(x, y, draws=10, generator=gen())
        assert found is not None and found.method == "exact permutation"
        assert found.p == pytest.approx(float(kendalltau(x, y, method="exact").pvalue), abs=1e-9)


def test_the_exact_distribution_counts_inversions() -> None:
    found = exact_distribution(5)
    inversions = [sum(p[i] > p[j] for i in range(5) for j in range(i + 1, 5)) for p in permutations(range(5))]
    assert np.allclose(found, np.bincount(inversions) / 120)
    assert exact_distribution(200).sum() == pytest.approx(1)


def brute_force(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([float(kendalltau(x, np.array(p)).statistic) for p in permutations(y)])


def test_exact_p_with_ties_is_brute_force() -> None:
    x, y = np.array([1.0, 1, 2, 3, 4, 4]), np.array([2.0, 1, 2, 5, 4, 4])
    taus = brute_force(x, y)
    found = permutation_null(x, y, draws=10, generator=gen())
    expected = float((np.abs(taus) >= abs(float(kendalltau(x, y).statistic)) - 1e-9).mean())
    assert found is not None and found.method == "exact permutation"
    assert found.p == pytest.approx(expected)
    assert null_variance(x, y) == pytest.approx(taus.var())
    assert null_variance(np.arange(6.0), np.arange(6.0)) == pytest.approx(2 * 17 / (9 * 6 * 5))


def test_sampled_normal_and_exact_p_agree() -> None:
    """The three roads to p meet where they hand over."""
    x = gen("x").standard_normal(60)
    y = 0.3 * x + gen("y").standard_normal(60)
    exact = permutation_null(x, y, draws=DRAWS, generator=gen("p"))
    taus = permuted_taus(x, y, 20_000, gen("p"))
    tau = float(kendalltau(x, y).statistic)
    assert exact is not None
    assert (np.abs(taus) >= abs(tau)).mean() == pytest.approx(exact.p, abs=0.006)
    tied = permutation_null(np.round(x, 1), np.round(y, 1), draws=DRAWS, generator=gen("p"))
    assert tied is not None and tied.method == "permutation"
    assert tied.p == pytest.approx(float(kendalltau(np.round(x, 1), np.round(y, 1)).pvalue), abs=0.01)
    many = gen("many").standard_normal((2, 300))
    large = permutation_null(*many, draws=10, generator=gen())
    assert large is not None and large.method == "normal"
    assert large.p == pytest.approx(float(kendalltau(*many, method="asymptotic").pvalue), rel=1e-6)


def with_tau(n: int, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Untied data whose tau is the nearest possible to the given one."""
    wanted = round((1 - tau) / 2 * n * (n - 1) / 2)
    order: list[int] = []
    for value in range(n - 1, -1, -1):  # inserting a smaller value at place k adds k inversions
        k = min(wanted, len(order))
        order.insert(k, value)
        wanted -= k
    return np.arange(n, dtype=float), np.array(order, dtype=float)


@pytest.mark.parametrize(
    ("n", "tau", "p"), [(18, 0.3203, 0.0712), (18, 0.4248, 0.0160), (15, 0.5429, 0.0034), (30, 0.4575, 0.0008)]
)
def test_published_p_values(n: int, tau: float, p: float) -> None:
    """arXiv 2510.03659 Table 1: the same tau and n have the same p, to the noise of its permutations."""
    x, y = with_tau(n, tau)
    assert tau_b(x, y) == pytest.approx(tau, abs=1e-3)
    found = permutation_null(x, y, draws=10, generator=gen())
    assert found is not None
    assert found.p == pytest.approx(p, abs=4 * np.sqrt(p / 10_000) + 5e-4)


@pytest.mark.parametrize(("n", "edge"), [(18, 0.34), (30, 0.25)])
def test_published_null_intervals(n: int, edge: float) -> None:
    x, y = gen(n).standard_normal((2, n))
    found = permutation_null(x, y, draws=10, generator=gen())
    assert found is not None
    assert (found.low, found.high) == pytest.approx((-edge, edge), abs=0.015)


@pytest.mark.parametrize("tied", [False, True])
def test_p_is_uniform_under_the_null(tied: bool) -> None:
    ps = []
    for i in range(250):
        x, y = gen("uniform", i).standard_normal((2, 40))
        if tied:
            x, y = np.round(2 * x), np.round(2 * y)
        found = permutation_null(x, y, draws=499, generator=gen("draws", i))
        assert found is not None
        ps.append(found.p)
    assert kstest(ps, "uniform").pvalue > 0.01
    planted = permutation_null(x, x + 0.5 * y, draws=999, generator=gen("planted"))
    assert planted is not None and planted.p < 0.01, "control: an association is found"
