"""Resampled pair sums are the statistic of the resampled data; intervals are the textbook's and cover."""

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import kendalltau

from saelab.core.seeds import numpy_generator
from saelab.stats import resample
from saelab.stats.kendall import signs, tau_b


def gen(*names: str | int) -> np.random.Generator:
    return numpy_generator("test resample", *names)


def pairs(n: int, rho: float, *names: str | int) -> tuple[np.ndarray, np.ndarray]:
    x, noise = gen("pairs", *names).standard_normal((2, n))
    return x, rho * x + np.sqrt(1 - rho**2) * noise


@pytest.mark.parametrize("tied", [False, True])
def test_a_resample_is_tau_b_of_the_repeated_rows(tied: bool) -> None:
    """Rows drawn twice are tied in both columns, and tau_b leaves such pairs out of all its three sums."""
    x, y = pairs(20, 0.6)
    if tied:
        x, y = np.round(x), np.round(y)
    drawn = resample.bootstrap(20, 50, gen("draw"))
    for weights, value in zip(drawn.weights, resample.tau_of(drawn, signs(x), signs(y)), strict=True):
        rows = np.repeat(np.arange(20), weights.astype(int))
        assert value == pytest.approx(float(kendalltau(x[rows], y[rows]).statistic), abs=1e-9)


def test_repeats_do_not_pull_tau_to_zero() -> None:
    """The mean of the resamples is the estimate; tau_a of the same resamples is pulled by (n - 1) / n (control)."""
    x, y = pairs(15, 0.8)
    drawn = resample.bootstrap(15, 20_000, gen("pull"))
    value = tau_b(x, y)
    assert value is not None
    assert resample.tau_of(drawn, signs(x), signs(y)).mean() == pytest.approx(value, abs=0.01)
    tau_a = drawn.pair_sum(signs(x) * signs(y)).mean() / (15 * 14)
    assert tau_a == pytest.approx(value * 14 / 15, abs=0.01)


def test_many_resamples_are_summed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pairs(12, 0.3)
    drawn = resample.bootstrap(12, 40, gen("blocks"))
    whole = drawn.pair_sum(signs(x) * signs(y))
    monkeypatch.setattr(resample, "BLOCK", 12 * 7)
    assert np.array_equal(drawn.pair_sum(signs(x) * signs(y)), whole)


def test_bca_is_scipys() -> None:
    """On a skewed mean, where BCa and percentile part, scipy's BCa agrees within the noise of the draws."""
    values = gen("skew").exponential(size=30)
    drawn = gen("b").multinomial(30, np.full(30, 1 / 30), size=40_000) @ values / 30
    left = (values.sum() - values) / 29
    found = resample.bca(drawn, float(values.mean()), values.mean() - left)
    other = scipy_bootstrap((values,), np.mean, n_resamples=40_000, method="BCa", rng=gen("c")).confidence_interval
    plain = resample.percentile(drawn)
    assert found is not None and plain is not None
    assert found == pytest.approx((other.low, other.high), abs=0.01)
    assert found[1] - plain[1] > 0.02, "control: the percentile interval is another one"


def test_intervals_say_no_where_resamples_say_nothing() -> None:
    same = np.ones(100)
    assert resample.bca(same, 1.0, np.ones(5)) is None
    assert resample.percentile(same) is None
    assert resample.cluster_t(same, 1.0, 5) is None
    assert resample.two_sided(same) is None
    holes = np.where(np.arange(100) < 20, np.nan, np.arange(100.0))
    assert resample.percentile(holes) is None, "a fifth of the resamples is not defined"


def grid(m: int, k: int, spread: float, rho: tuple[float, float], *names: str | int) -> tuple[np.ndarray, ...]:
    """m clusters of k rows; rho between cluster shifts (variance `spread`) and between residuals; the clusters."""
    a, b = pairs(m, rho[0], "shift", *names)
    e, f = pairs(m * k, rho[1], "rest", *names)
    index = np.repeat(np.arange(m), k)
    return np.sqrt(spread) * a[index] + e, np.sqrt(spread) * b[index] + f, index.astype(str).astype(object)


def test_each_cluster_once_is_the_data() -> None:
    x, y, clusters = grid(4, 5, 1.0, (0.5, 0.5))
    x, clusters = np.round(x), np.where(clusters == "3", "2", clusters)  # ties, and clusters of unequal size
    members = clusters[None, :] == np.array(["0", "1", "2"], dtype=object)[:, None]
    once = resample.Clusters(np.ones((1, 3)), members.astype(float))
    assert resample.tau_of(once, signs(x), signs(y))[0] == pytest.approx(tau_b(x, y), abs=1e-9)


def test_copies_of_a_cluster_are_not_a_pair_of_clusters() -> None:
    """Clusters far apart and concordant, nothing inside: resampled tau keeps the share of pairs between clusters."""
    x, y, clusters = grid(4, 10, 1e6, (1.0, 0.0))
    drawn = resample.cluster_bootstrap(clusters, 400, gen("copies"))
    values = resample.tau_of(drawn, signs(x), signs(y))
    assert values.mean() == pytest.approx(tau_b(x, y), abs=0.02)
    naive = resample.Rows((drawn.counts @ drawn.members).astype(np.float32))
    pulled = resample.tau_of(naive, signs(x), signs(y)).mean()
    assert pulled < values.mean() - 0.1, "control: taken as rows, copies pull tau towards the inside"


def test_a_draw_of_one_cluster_only_is_redrawn() -> None:
    clusters = np.array(["a"] * 4 + ["b"] * 4 + ["c"] * 3, dtype=object)
    drawn = resample.cluster_bootstrap(clusters, 500, gen("redraw"))
    assert ((drawn.counts > 0).sum(axis=1) >= 2).all() and (drawn.counts.sum(axis=1) == 3).all()
    assert drawn.members.sum(axis=1).tolist() == [4, 4, 3]


def bca_of(n: int, tau: float, i: int) -> tuple[float, float]:
    x, y = pairs(n, float(np.sin(np.pi * tau / 2)), "cover", n, i)
    value, sx, sy = tau_b(x, y), signs(x), signs(y)
    assert value is not None
    influence = value - resample.tau_of(resample.leave_one_out(n), sx, sy)
    drawn = resample.bootstrap(n, 800, gen("cover", i))
    found = resample.bca(resample.tau_of(drawn, sx, sy), value, influence)
    assert found is not None
    return found


def test_bca_covers_and_half_of_it_does_not() -> None:
    """300 samples of 30 rows (2,000 of all sizes: benchmarks/coverage.py): 95 % within four standard errors."""
    found = np.array([bca_of(30, 0.3, i) for i in range(300)])
    covered = (found[:, 0] <= 0.3) & (found[:, 1] >= 0.3)
    assert 0.90 <= covered.mean() <= 0.995
    middle, half = found.mean(axis=1), np.diff(found, axis=1)[:, 0] / 4
    assert (np.abs(middle - 0.3) <= half).mean() < 0.8


def test_clusters_need_the_cluster_interval() -> None:
    """Ten LMs whose shifts correlate: taking the rows as independent covers far too seldom, clusters do not."""
    truth = 2 / np.pi * (5 / 59 * np.arcsin(0.3) + 54 / 59 * np.arcsin((4 * 0.5 + 0.3) / 5))
    naive, clustered = [], []
    for i in range(150):
        x, y, clusters = grid(10, 6, 4.0, (0.5, 0.3), "cl", i)
        value, sx, sy = tau_b(x, y), signs(x), signs(y)
        assert value is not None
        rows = resample.percentile(resample.tau_of(resample.bootstrap(60, 400, gen("n", i)), sx, sy))
        drawn = resample.tau_of(resample.cluster_bootstrap(clusters, 400, gen("c", i)), sx, sy)
        whole = resample.cluster_t(drawn, value, 10)
        assert rows is not None and whole is not None
        naive.append(rows[0] <= truth <= rows[1])
        clustered.append(whole.low <= truth <= whole.high)
    assert np.mean(naive) < 0.75
    assert np.mean(clustered) > 0.89
