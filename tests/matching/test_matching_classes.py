"""Classes of features, families of near-copies, paths: against planted dictionaries in which the truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saelab.matching import partial
from saelab.matching.classes import CARRIED, CHANGED, DIED, classed
from saelab.matching.cost import Costs, costs_between
from saelab.matching.fold import FoldedFeatures
from saelab.matching.partial import match_partially, null_reject, persistence
from saelab.matching.paths import feature_paths, survival

N, D = 300, 128


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=1)


def planted() -> tuple[Costs, np.ndarray]:
    """100 features carried on (cosine .95), 100 changed (cosine .6), 100 died; 100 born. B is shuffled."""
    g = torch.Generator().manual_seed(0)
    a, fresh = (unit(torch.randn(N, D, generator=g)) for _ in range(2))
    cosine = torch.cat([torch.full((100, 1), 0.95), torch.full((100, 1), 0.6), torch.zeros(100, 1)])
    b = unit(cosine * a + (1 - cosine**2).sqrt() * fresh)
    order = torch.randperm(N, generator=g)
    shuffled = torch.empty_like(b)
    shuffled[order] = b
    return Costs(a, shuffled), order.numpy()


def test_planted_classes_are_found() -> None:
    costs, order = planted()
    found = classed(costs, null_reject(costs, 0.01))
    names = found.names
    assert names[:100] == [CARRIED] * 100
    assert names[100:200].count(CHANGED) >= 95 and names[200:].count(DIED) >= 95
    assert np.array_equal(found.permutation[:100], order[:100])
    assert found.born[order[200:]].sum() >= 95 and not found.born[order[:100]].any()
    assert found.counts["ambiguous"] <= 5, "control: no near-copies were planted"
    assert np.allclose(found.distance[:100], 0.05, atol=0.02), "1 - cosine"


def test_near_copies_are_flagged_as_a_family() -> None:
    g = torch.Generator().manual_seed(1)
    a = unit(torch.randn(N, D, generator=g))
    a[1:4] = unit(a[:1] + 0.02 * torch.randn(3, D, generator=g))
    found = classed(Costs(a, a + 0.01 * torch.randn(N, D, generator=g)), 0.5)
    assert len(set(found.family[:4])) == 1 and found.family[0] >= 0
    assert (found.family[4:] == -1).all()


def test_large_and_small_components_are_solved_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(2)
    a, b = (torch.randn(200, 8, generator=g) for _ in range(2))
    costs = Costs(a, b)
    dense = match_partially(costs, 0.6)
    monkeypatch.setattr(partial, "MOST_ENTRIES", 0)
    sparse = match_partially(costs, 0.6)
    assert sparse[1] == pytest.approx(dense[1], rel=1e-12)
    assert 0 < (dense[0] >= 0).sum() < 200


def test_persistence_falls_with_the_threshold() -> None:
    costs, _ = planted()
    shares = persistence(costs, [0.02, 0.2, 0.5, 0.75])
    assert (np.diff(shares) >= 0).all()
    assert (
        shares[0] == 0 and shares[1] == pytest.approx(1 / 3, abs=0.02) and shares[2] == pytest.approx(2 / 3, abs=0.05)
    )


def test_paths_begin_at_births_and_end_at_deaths() -> None:
    steps = [np.array([1, -1, 0]), np.array([-1, 2, 0])]
    table = feature_paths(steps, last=3)
    chains = {p: t["feature"].to_list() for (p,), t in table.group_by("path", maintain_order=True)}
    assert sorted(map(tuple, chains.values())) == [(0, 1, 2), (1,), (1,), (2, 0), (2, 0)][:5]
    assert table.height == 9, "every feature of every site is on one path"
    assert table.group_by("site", "feature").len()["len"].max() == 1
    assert [s.tolist() for s in survival(steps)] == [[2 / 3, 1 / 3], [2 / 3]]


def folded(decoder: torch.Tensor, g: torch.Generator) -> FoldedFeatures:
    """Encoders near the decoders with a direction in common, biases of every size."""
    encoder = decoder + 0.3 * unit(torch.randn(N, D, generator=g)) + 1.0
    return FoldedFeatures(decoder, encoder, (2 * torch.randn(N, generator=g)).exp(), torch.ones(N))


@pytest.mark.parametrize("seed", range(3))
def test_the_null_of_all_tensors_is_not_fooled_by_biases(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    decoder = unit(torch.randn(N, D, generator=g))
    first, other = folded(decoder, g), folded(unit(torch.randn(N, D, generator=g)), g)
    order = torch.randperm(N, generator=g)
    copy = FoldedFeatures(*(x[order] + 0.01 * torch.randn(x.shape, generator=g) for x in (
        first.decoder, first.encoder, first.bias)), first.scale)  # fmt: skip
    unrelated, related = costs_between(first, other), costs_between(first, copy)
    assert (match_partially(unrelated, null_reject(unrelated, 0.02, seed=seed))[0] >= 0).mean() <= 0.06
    found = match_partially(related, null_reject(related, 0.02, seed=seed))[0]
    assert (order.numpy()[found] == np.arange(N))[found >= 0].mean() > 0.99 and (found >= 0).mean() > 0.9
    mixed = replace(unrelated, widths=())  # control: tensors turned into one another
    assert null_reject(mixed, 0.02, seed=seed) > 2 * null_reject(unrelated, 0.02, seed=seed)
