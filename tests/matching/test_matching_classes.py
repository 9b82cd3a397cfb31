"""Classes of features, families of near-copies, paths: against planted dictionaries in which the truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saelab.matching import partial
from saelab.matching.classes import CARRIED, CHANGED, DIED, ONE, UNSURE, classed, partial_cosine
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


def turned(rows: torch.Tensor, cosine: float, towards: torch.Tensor) -> torch.Tensor:
    """Unit rows at a cosine from the given ones."""
    other = unit(towards - (towards * rows).sum(1, keepdim=True) * rows)
    return cosine * rows + (1 - cosine**2) ** 0.5 * other


def families(seed: int) -> Costs:
    """A clustered dictionary of 400 rows: 100 one to one (cosine .9), 50 that split in two, 100 that merge by two, 150
    that die; as many are born. Children and ancestors lie at cosine .7 from the whole, and .9 from where that is.
    """
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(25, D, generator=g)
    rows = unit(torch.randn(1000, D, generator=g) + 0.5 * centres[torch.randint(25, (1000,), generator=g)])
    own, dead, born, whole, mixed, u, v, noise, rest = rows.split([100, 150, 150, 50, 50, 50, 50, 100, 300])
    other = iter(rest.split(50))
    first, second, third, fourth = (
        turned(turned(x, 0.7, s * y), 0.9, next(other)) for x, y in ((whole, u), (mixed, v)) for s in (1, -1)
    )
    a = torch.cat([own, whole, third, fourth, dead])
    return Costs(a, torch.cat([turned(own, 0.9, noise), first, second, mixed, born]))


def test_splits_and_merges_are_told_at_the_stated_rates() -> None:
    wrong = dict.fromkeys(("split", "merge", "one", "died", "born"), 0.0)
    for seed in range(3):
        costs = families(seed)
        found = classed(costs, null_reject(costs, 0.01, seed=seed))
        relations, names = np.array(found.relations, dtype=object), np.array(found.names)
        for k in range(50):  # the two halves of a whole: one is the partner, the other has split off
            split = {int(found.permutation[100 + k]), *np.flatnonzero(found.off == 100 + k).tolist()}
            wrong["split"] += split != {100 + k, 150 + k}
            merge = {*np.flatnonzero(found.into == 200 + k), *np.flatnonzero(found.permutation == 200 + k)}
            wrong["merge"] += merge != {150 + k, 200 + k}
        wrong["one"] += (found.permutation[:100] != np.arange(100)).sum() + (relations[:100] != ONE).sum()
        wrong["died"] += (names[250:] != DIED).sum()
        wrong["born"] += (~found.born[250:]).sum()
        members = found.family[np.r_[100:250]]
        assert (members >= 0).mean() > 0.97 and (found.family[:100] == -1).mean() > 0.97
    rates = {"split": wrong["split"] / 150, "merge": wrong["merge"] / 150, "one": wrong["one"] / 300}
    rates |= {"died": wrong["died"] / 450, "born": wrong["born"] / 450}
    assert max(rates[k] for k in ("split", "merge", "one")) <= 0.03, rates
    assert max(rates[k] for k in ("died", "born")) <= 0.08, rates  # clusters are shared, so strangers can be neighbours


def test_a_near_neighbour_is_no_part_of_a_feature() -> None:
    """Control: b has a neighbour that is like it and adds nothing of the feature; no split is told."""
    g = torch.Generator().manual_seed(3)
    a, fresh = (unit(torch.randn(N, D, generator=g)) for _ in range(2))
    b = turned(a, 0.9, fresh)
    beside = turned(b, 0.8, unit(torch.randn(N, D, generator=g)))
    found = classed(Costs(a, torch.cat([b, beside])), 0.6)
    assert ((a * beside).sum(1) > 0.6).all(), "they are admissible, and nearest to the feature"
    assert (found.permutation == np.arange(N)).all() and (found.off >= 0).sum() <= 0.02 * N
    half = unit(a - 0.8 * b)  # what the partner leaves of the feature
    assert (classed(Costs(a, torch.cat([b, turned(half, 0.9, beside)])), 0.6).off >= 0).sum() >= 0.5 * N, "control"


def test_partial_cosines_are_those_of_the_residuals() -> None:
    g = torch.Generator().manual_seed(4)
    i, j, p = (unit(torch.randn(20, D, generator=g, dtype=torch.float64) + 1) for _ in range(3))
    residuals = [unit(x - (x * p).sum(1, keepdim=True) * p) for x in (i, j)]
    known = [(x * y).sum(1).numpy() for x, y in ((i, j), (i, p), (j, p))]
    assert np.allclose(partial_cosine(*known), (residuals[0] * residuals[1]).sum(1).numpy(), atol=1e-12)
    one = np.ones(1)
    assert partial_cosine(one, one, one) == 0, "a copy leaves nothing"


def test_copies_that_cannot_be_told_apart_are_ambiguous() -> None:
    g = torch.Generator().manual_seed(1)
    a = unit(torch.randn(N, D, generator=g))
    a[1:4] = unit(a[:1] + 0.002 * torch.randn(3, D, generator=g))
    b = unit(a + 0.05 * torch.randn(N, D, generator=g))
    found = classed(Costs(a, b), 0.5)
    assert found.relations[:4] == [UNSURE] * 4
    assert found.relations[4:] == [ONE] * (N - 4) and (found.family[4:] == -1).all()
    far = unit(torch.randn(N, D, generator=g))
    a[1:4] = far[1:4]
    assert classed(Costs(a, unit(a + 0.05 * far)), 0.5).relations == [ONE] * N, "control"


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
