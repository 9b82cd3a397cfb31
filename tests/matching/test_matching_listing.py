"""What is not listed is bounded from below at any prices, and the certificate holds over all pairs one by one."""

import numpy as np
import pytest
import torch
from torch import Tensor

from saelab.matching import assignment
from saelab.matching.assignment import assign
from saelab.matching.certificate import below
from saelab.matching.cost import Costs
from saelab.matching.listing import listed
from saelab.matching.prices import hot_prices, samples_of, spread


def rows(n: int, m: int, kind: str) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(n)
    a = torch.randn(m, 16, generator=g)
    if kind == "tied":
        a = a[: m // 150].repeat(150, 1)
    b = a + 0.5 * torch.randn(m, 16, generator=g)
    return a[:n], (a if kind == "tied" else b)[torch.randperm(m, generator=g)]


def exact(costs: Costs) -> np.ndarray:
    return (costs.a.double()[:, None] - costs.b.double()[None]).square().sum(-1).numpy()


@pytest.mark.parametrize("kind", ["copies", "tied"])
@pytest.mark.parametrize("n", [300, 240])
def test_what_is_not_listed_is_no_cheaper_than_said(n: int, kind: str) -> None:
    costs = Costs(*rows(n, 300, kind))
    whole, chance = exact(costs), np.random.default_rng(0)
    samples = samples_of(costs)
    listing = listed(costs, samples, *hot_prices(samples, spread(costs)), k=8)
    assert listing.alone.any() == (kind == "tied")
    others = np.ones(whole.shape, bool)
    others[listing.edges.i, listing.edges.j] = False
    slack = listing.above[listing.edges.i] + listing.beside[listing.edges.j]
    assert (np.abs(listing.edges.weights - whole[~others]) <= slack).all()
    near, raised = 0, 0
    for size in (0.0, 0.1, 1.0, 5.0):
        u, v = listing.u + size * chance.standard_normal(n), listing.v + size * chance.standard_normal(300)
        least = np.where(others, whole - u[:, None] - v, np.inf).min(axis=1)
        said, by_column = listing.unlisted(u, v)
        assert (said <= least).all()
        assert (by_column <= np.where(others, whole - u[:, None] - v, np.inf).min(axis=0)).all()
        near += int((said > least - 2).sum())
        raised += int((said + 2 > least).sum())
    assert near > 0 and raised > 0, "control: the bound says something, and one that is higher would be wrong"


@pytest.mark.parametrize("kind", ["copies", "tied"])
@pytest.mark.parametrize("n", [300, 240])
def test_prices_and_cost_hold_over_all_pairs(n: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "DENSE_BELOW", 16)
    costs = Costs(*rows(n, 300, kind))
    whole = exact(costs)
    found = assign(costs)
    assert found.method == "blocked"
    reduced = whole - found.u[:, None] - found.v
    assert reduced.min() >= -1e-9 and found.v.max() <= (0 if n < 300 else np.inf)
    assert found.cost == pytest.approx(whole[np.arange(n), found.permutation].sum(), rel=1e-13)
    blocks = torch.cat([block.clone() for _, block in costs.blocks()]).double().numpy()
    rounded = blocks[np.arange(n), found.permutation].sum()
    assert rounded != pytest.approx(found.cost, rel=1e-13), "control: float32 costs are not these"
    assert (reduced - 0.1).min() < -1e-9, "control: prices a little higher would prove nothing"


def test_pairs_that_could_be_negative_are_exact_and_the_others_bounds_from_below() -> None:
    costs = Costs(*rows(240, 300, "copies"))
    whole, proved = exact(costs), assign(costs)
    found = below(costs, proved.u, proved.v, margin=0.5)
    true = whole[found.i, found.j]
    reduced = whole - proved.u[:, None] - proved.v
    assert len(found.i) == pytest.approx((reduced < 0.5).sum(), rel=0.01) and found.loose == 0
    assert np.abs(found.weights - true)[found.exact].max() < 1e-12
    assert (found.weights <= true + 1e-12).all() and (found.reduced[~found.exact] > 0).all()
    assert 0 < (true - found.weights)[~found.exact].max() < 1e-3, "control: they are not exact, and near"
    low = below(costs, proved.u + 0.3, proved.v)
    assert low.exact.all() and (low.reduced < 0).all() and len(low.i) > 0
