"""Matching finds the known permutation, is provably optimal, and finds nothing between unrelated dictionaries."""

import lap
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saelab.core.errors import UserError
from saelab.matching.assignment import assign, score
from saelab.matching.baselines import greedy, mutual_nearest, random_pairs
from saelab.matching.certificate import lower_bound
from saelab.matching.cost import Costs
from saelab.matching.partial import match_partially, null_reject
from saelab.matching.prices import hot_prices, samples_of, spread


def unit(x: Tensor) -> Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def instance(family: str, n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two sets of rows: unrelated, noisy copies, clustered, partly replaced, tied, with duplicates."""
    g = torch.Generator().manual_seed(seed)
    a = unit(torch.randn(n, d, generator=g))
    if family == "unrelated":
        return a, unit(torch.randn(n, d, generator=g))
    if family == "clustered":
        centres = unit(torch.randn(max(n // 64, 2), d, generator=g))
        a = a + 1.5 * centres[torch.randint(len(centres), (n,), generator=g)]
    if family in ("tied", "duplicates"):
        a = (a * 4).round() if family == "tied" else a[torch.randint(n // 2, (n,), generator=g)]
        b = a.clone()
        b[: n // 4] = (torch.randn(n // 4, d, generator=g) * 0.5).round()
    else:
        b = a + torch.randn(n, d, generator=g) * d**-0.5 * (0.2 + 1.3 * torch.rand(n, 1, generator=g))
    if family == "replaced":
        b[: int(0.4 * n)] = unit(torch.randn(int(0.4 * n), d, generator=g))
        a = a * torch.randn(n, 1, generator=g).mul(0.6).exp()
    return a, b[torch.randperm(n, generator=g)]


FAMILIES = ("unrelated", "copies", "clustered", "replaced", "tied", "duplicates")


def agrees_with_lapx(family: str, n: int, d: int, seed: int) -> None:
    a, b = instance(family, n, d, seed)
    costs = Costs(a, b)
    found = assign(costs)
    x, y = a.double().numpy(), b.double().numpy()
    dense = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    optimum = lap.lapjv(dense)[0]
    assert found.method in ("blocked", "distinct")
    assert np.array_equal(np.sort(found.permutation), np.arange(n))
    assert found.cost == pytest.approx(optimum, rel=1e-9, abs=1e-9)
    assert abs(found.gap) <= 1e-9 * max(optimum, 1.0)


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_optimum_equals_a_dense_solver(family: str, seed: int) -> None:
    agrees_with_lapx(family, 1024, 48, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "n"), [("duplicates", 4096), ("replaced", 4096), ("copies", 8192)])
def test_the_optimum_equals_a_dense_solver_at_size(family: str, n: int) -> None:
    agrees_with_lapx(family, n, 64, 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("n", "m"), [(300, 400), (700, 1024), (1000, 1024), (1024, 512)])
def test_of_unequal_sides_the_smaller_is_matched_at_the_optimum(family: str, n: int, m: int) -> None:
    a, b = instance(family, max(n, m), 48, n)
    a, b = a[:n], b[:m]
    costs = Costs(a, b)
    found = assign(costs)
    dense = torch.cdist(a.double(), b.double()).square().numpy()
    optimum = dense[linear_sum_assignment(dense)].sum()
    kept = found.permutation[found.permutation >= 0]
    assert len(kept) == len(set(kept.tolist())) == min(n, m)
    assert found.cost == pytest.approx(optimum, rel=1e-9, abs=1e-9)
    assert abs(found.gap) <= 1e-9 * max(optimum, 1.0)
    assert (found.v if n < m else found.u).max() <= 0, "what may be left over has no positive price"
    if n < m:
        other = np.roll(found.permutation, 1)
        assert score(costs, other, found)[1] == pytest.approx(costs.edges(np.arange(n), other).sum() - optimum)


@pytest.mark.parametrize("n", [40, 700])
def test_a_known_shuffle_is_recovered(n: int) -> None:
    g = torch.Generator().manual_seed(n)
    a = torch.randn(n, 64, generator=g)
    order = torch.randperm(n, generator=g)
    b = torch.empty_like(a)
    b[order] = a + 0.01 * torch.randn(n, 64, generator=g)
    assert np.array_equal(assign(Costs(a, b)).permutation, order.numpy())
    assert not np.array_equal(random_pairs(n), order.numpy()), "control"


def test_the_certificate_of_a_wrong_permutation_is_positive() -> None:
    a, b = instance("copies", 600, 48, 3)
    costs = Costs(a, b)
    found = assign(costs)
    assert score(costs, found.permutation, found)[1] == pytest.approx(0, abs=1e-9 * found.cost)
    worse = found.permutation.copy()
    worse[[0, 1]] = worse[[1, 0]]
    for other in (worse, greedy(costs), random_pairs(600)):
        cost, gap = score(costs, other)
        assert gap > 1e-6 and cost > found.cost
    with pytest.raises(UserError, match="no column more than once"):
        score(costs, np.zeros(600, int))


def test_any_prices_give_a_valid_bound() -> None:
    a, b = instance("clustered", 600, 32, 5)
    costs = Costs(a, b)
    optimum = assign(costs).cost
    u, v = (p.double().numpy() for p in hot_prices(samples_of(costs), spread(costs)))
    assert lower_bound(costs, u, v) <= optimum + 1e-9
    assert lower_bound(costs, u + 1.0, v) <= optimum + 1e-9, "also for prices that are far too high"


def test_unrelated_dictionaries_match_at_the_stated_rate_and_related_ones_match() -> None:
    rates, found = [], []
    for seed in range(8):
        a, b = instance("unrelated", 400, 64, seed)
        costs = Costs(a, b)
        rho = null_reject(costs, 0.02, seed=seed)
        rates.append((match_partially(costs, rho)[0] >= 0).mean())
        a, b = instance("replaced", 400, 64, seed)
        costs = Costs(unit(a), unit(b))
        found.append((match_partially(costs, null_reject(costs, 0.02, seed=seed))[0] >= 0).mean())
    assert np.mean(rates) <= 0.03
    assert 0.3 < np.mean(found) < 0.7, "control: 60 % of these have a (noisy) counterpart"


def test_partial_matching_is_optimal() -> None:
    """Against the square problem with every rejection written out."""
    a, b = instance("replaced", 60, 16, 1)
    costs, rho = Costs(a, b), 0.6
    permutation, objective = match_partially(costs, rho)
    c = (a.double()[:, None] - b.double()[None]).square().sum(-1).numpy()
    tau, sigma = (rho * x.double().square().sum(1).numpy() for x in (a, b))
    n = len(a)
    big = np.full((2 * n, 2 * n), 1e6)
    big[:n, :n] = np.where(c <= tau[:, None] + sigma[None], c, 1e6)
    big[np.arange(n), n + np.arange(n)] = tau
    big[n + np.arange(n), np.arange(n)] = sigma
    big[n:, n:] = 0.0
    assert objective == pytest.approx(lap.lapjv(big)[0], rel=1e-9)
    assert 0 < (permutation >= 0).sum() < n


def test_mutual_nearest_pairs_are_in_every_good_matching() -> None:
    a, b = instance("copies", 600, 64, 2)
    costs = Costs(a, b)
    mutual, optimal = mutual_nearest(costs), assign(costs).permutation
    pairs = mutual >= 0
    assert (mutual[pairs] == optimal[pairs]).mean() > 0.95
