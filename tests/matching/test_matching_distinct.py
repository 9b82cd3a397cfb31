"""Every row's cheapest column is another one: that is the matching, proved. Where two are alike it is not taken."""

import lap
import numpy as np
import pytest
import torch
from torch import Tensor

from saelab.matching import assignment
from saelab.matching.assignment import assign
from saelab.matching.cost import Costs, places
from saelab.matching.distinct import distinct, likely
from saelab.matching.prices import hot_prices, samples_of, spread

N, D = 700, 64


def copies(seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.nn.functional.normalize(torch.randn(N, D, generator=g), dim=1)
    return a, (a + 0.05 * torch.randn(N, D, generator=g))[torch.randperm(N, generator=g)]


def exact(costs: Costs) -> np.ndarray:
    return np.square(costs.a.double().numpy()[:, None] - costs.b.double().numpy()[None]).sum(-1)


def test_near_copies_are_matched_and_proved_without_a_solver() -> None:
    costs = Costs(*copies())
    whole = exact(costs)
    found = assign(costs)
    assert (found.method, found.rounds) == ("distinct", 1)
    assert found.cost == pytest.approx(lap.lapjv(whole)[0], rel=1e-12)
    reduced = whole - found.u[:, None] - found.v
    assert reduced.min() >= -1e-12, "the prices are feasible over all pairs"
    assert found.u.sum() + found.v.sum() == pytest.approx(found.cost, rel=1e-12)
    assert (reduced - 1e-3).min() < -1e-12, "control: prices a little higher would prove nothing"


@pytest.mark.parametrize("repeated", [1, 344])
def test_rows_with_one_cheapest_column_are_left_to_the_solver(repeated: int) -> None:
    a, b = copies()
    a[:repeated] = a[repeated : 2 * repeated].clone()
    costs = Costs(a, b)
    samples = samples_of(costs)
    _, v = hot_prices(samples, spread(costs))
    assert distinct(costs, v) is None
    assert likely(samples, v, spread(costs)) == (repeated == 1), "of one pair only one row is sampled"
    found = assign(costs)
    assert found.method == "blocked"
    assert found.cost == pytest.approx(lap.lapjv(exact(costs))[0], rel=1e-9)


def test_a_column_within_the_rounding_is_priced_in_float64() -> None:
    a, b = copies()
    twins = torch.tensor([0, 1])
    b[1] = b[0] + 1e-8 * torch.randn(D, generator=torch.Generator().manual_seed(1))
    a[:] = torch.nn.functional.normalize(a, dim=1)
    costs = Costs(torch.cat([a[2:], b[twins].clone()]), torch.cat([b[2:], b[twins]]))
    found, whole = assign(costs), exact(costs)
    optimum = lap.lapjv(whole)[0]
    assert found.cost == pytest.approx(optimum, rel=1e-9)
    assert found.lower_bound <= optimum * (1 + 1e-12) and found.gap <= 1e-9 * found.cost


def test_strangers_are_not_taken_for_near_copies() -> None:
    a, b = copies()
    for other, near in ((b, True), (torch.randn(N, D, generator=torch.Generator().manual_seed(3)), False)):
        costs = Costs(a, other)
        unit, samples = spread(costs), samples_of(costs)
        assert likely(samples, hot_prices(samples, unit)[1], unit) == near


def test_prices_of_no_use_give_no_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = Costs(*copies())
    v = torch.zeros(N)
    v[3] = 10.0  # every row's cheapest column
    plain = distinct(costs, torch.zeros(N))
    assert distinct(costs, v) is None and plain is not None
    monkeypatch.setattr(assignment, "likely", lambda *_: False)
    asked = assign(costs)
    assert asked.method == "blocked", "control: the solver's way"
    assert asked.cost == pytest.approx(plain.cost, rel=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 8), (7, 131)])
@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_places_of_a_mask_are_those_of_nonzero(shape: tuple[int, int], share: float) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < share
    assert torch.equal(torch.stack(places(mask), dim=1), mask.nonzero())
