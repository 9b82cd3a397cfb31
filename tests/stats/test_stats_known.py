"""Known answers of definitions and constants: what they are by hand, beside what another constant would give."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import kendalltau, norm, t

from saelab.stats import kendall
from saelab.stats.resample import cluster_t


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_sampled_p_counts_the_data_among_the_draws() -> None:
    """(1 + e) / (1 + R): nothing as extreme in R draws is p = 1 / (1 + R), never 0."""
    x = np.repeat(np.arange(15.0), 2)  # ties: sampled
    found = kendall.permutation_null(x, x, draws=99, generator=generator())
    assert found is not None and found.method == "permutation" and found.p == 1 / 100
    y = np.array([0.0] * 10 + [1.0] * 5 + [0.0] * 6 + [1.0] * 9)
    x2 = np.repeat([0.0, 1.0], 15)
    drawn = kendall.permuted_taus(x2, y, 200, generator())
    observed = kendall.tau_b(x2, y)
    assert observed is not None
    extreme = int((abs(drawn) >= abs(observed) - 1e-12).sum())
    p = kendall.permutation_null(x2, y, draws=200, generator=generator())
    assert p is not None and p.p == (1 + extreme) / 201 != extreme / 200


def test_the_null_interval_is_the_middle_95_per_cent() -> None:
    x, y = np.repeat(np.arange(15.0), 2), generator().permutation(np.repeat(np.arange(15.0), 2))
    drawn = kendall.permuted_taus(x, y, 999, generator())
    found = kendall.permutation_null(x, y, draws=999, generator=generator())
    assert found is not None
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)
    assert abs(found.high - np.quantile(drawn, 0.95)) > 0.01, "control: not a one-sided edge"


def test_the_variance_under_permutation_is_exact_with_ties() -> None:
    """Against all orders; each of the three terms matters."""
    x, y = np.array([1.0, 1, 1, 2, 2, 3, 4]), np.array([1.0, 1, 1, 2, 2, 2, 3])
    taus = np.array([kendalltau(x, order).statistic for order in set(permutations(y))])
    assert kendall.null_variance(x, y) == pytest.approx(float((taus**2).mean()), rel=1e-9)
    n = x.size
    plain = (n * (n - 1) * (2 * n + 5)) / 18 / kendall._scale(x, y) ** 2
    assert plain > 1.05 * kendall.null_variance(x, y), "control: without the tie terms"


def test_the_normal_null_has_its_quantile() -> None:
    x = np.arange(300.0)
    found = kendall.permutation_null(x, generator().permutation(x), draws=1, generator=generator())
    assert found is not None and found.method == "normal"
    assert found.high == pytest.approx(1.959964 * np.sqrt(2 * (2 * 300 + 5) / (9 * 300 * 299)), rel=1e-5)


def test_a_cluster_interval_widens_the_bootstrap_by_m_over_m_minus_1() -> None:
    values = np.tanh(0.3 * norm.ppf((np.arange(2000) + 0.5) / 2000))
    found = cluster_t(values, 0.0, 4)
    spread = np.arctanh(values).std()
    assert found is not None
    assert found.se == pytest.approx(spread * np.sqrt(4 / 3), rel=1e-9)
    assert found.high == pytest.approx(np.tanh(t.ppf(0.975, 3) * spread * np.sqrt(4 / 3)), rel=1e-9)
    assert abs(found.se / spread - 1) > 0.1, "control: 15 % with four clusters"
