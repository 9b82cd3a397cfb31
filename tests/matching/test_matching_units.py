"""A matching is the same in any unit of the activations, can be checked by anyone, and refuses what is no SAE."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_matching_fold import D, F, Jump, jump, shuffled

from saelab.core.errors import UserError
from saelab.matching.cost import Costs
from saelab.matching.match import match, verify
from saelab.matching.partial import match_partially


def measured_in(sae: Jump, unit: float) -> Jump:
    """The same SAE of activations that are `unit` times as large."""
    return replace(sae, b_enc=sae.b_enc * unit, b_dec=sae.b_dec * unit, threshold=sae.threshold * unit)


def noisy(sae: Jump, seed: int) -> Jump:
    g = torch.Generator().manual_seed(seed)
    return replace(sae, W_dec=sae.W_dec + 0.6 * torch.randn(F, D, generator=g))


@pytest.mark.parametrize("power", [-10, -3, 7, 17])
@pytest.mark.parametrize(("parts", "grows"), [("decoder", 2), ("encoder", -2)])
@pytest.mark.parametrize("fold", ["theta", "mean", "max"])
def test_powers_of_two_change_nothing(fold: Any, parts: Any, grows: int, power: int) -> None:
    unit = 2.0**power
    order = torch.randperm(F, generator=torch.Generator().manual_seed(3))
    a, b = jump(), noisy(shuffled(jump(), order), 1)
    x = torch.randn(400, D, generator=torch.Generator().manual_seed(2))
    plain = match(a, b, fold=fold, parts=parts, activations=(x, x))
    moved = match(measured_in(a, unit), measured_in(b, unit), fold=fold, parts=parts, activations=(x * unit, x * unit))
    assert np.array_equal(moved.permutation, plain.permutation)
    assert moved.cost == plain.cost * unit**grows and moved.lower_bound == plain.lower_bound * unit**grows
    assert np.array_equal(moved.pair_cost, plain.pair_cost * unit**grows)
    other = match(a, measured_in(b, unit), fold=fold, parts=parts, activations=(x, x * unit))
    assert other.cost != pytest.approx(plain.cost, rel=0.1), "control: one of the two in another unit"


def test_costs_beyond_the_solvers_limit() -> None:
    """lap refuses costs of 1e6 and more; Gemma's biases and norms are there."""
    a, b = measured_in(jump(), 1e5), noisy(measured_in(shuffled(jump(), torch.arange(F).flip(0)), 1e5), 1)
    found = match(a, b, fold="none", parts="all")
    assert float(found.pair_cost.max()) > 1e6
    assert found.gap <= 1e-9 * found.cost
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    far = Costs(rows * 2.0**14, (rows + 0.1) * 2.0**14)
    near = Costs(rows, rows + 0.1)
    assert np.array_equal(match_partially(far, 0.5)[0], match_partially(near, 0.5)[0])
    assert match_partially(far, 0.5)[1] == match_partially(near, 0.5)[1] * 2.0**28


@pytest.mark.parametrize("fewer", [None, "first", "second"])
def test_anyone_can_check_the_certificate(fewer: str | None) -> None:
    a, b = jump(), noisy(shuffled(jump(), torch.arange(F).flip(0)), 1)
    a, b = part_of(a, 40) if fewer == "first" else a, part_of(b, 40) if fewer == "second" else b
    found = match(a, b)
    checked = verify(found, a, b)
    assert checked.cost == pytest.approx(found.cost, rel=1e-12)
    assert checked.lower_bound == pytest.approx(found.lower_bound, rel=1e-9) and checked.gap <= 1e-8 * found.cost
    worse, pairs = found.permutation.copy(), np.flatnonzero(found.permutation >= 0)[:2]
    worse[pairs] = worse[pairs[::-1]]
    assert verify(replace(found, permutation=worse), a, b).gap > 1e-3 * found.cost, "control: other pairs"
    assert found.prices is not None
    u, v = found.prices
    lower = np.random.default_rng(0).random(len(v)) * found.cost
    assert verify(replace(found, prices=(u, v - lower)), a, b).gap > 1e-3 * found.cost, "control: other prices"
    twice = worse.copy()
    twice[pairs[0]] = twice[pairs[1]]
    with pytest.raises(UserError, match="no full matching"):
        verify(replace(found, permutation=twice), a, b)
    with pytest.raises(UserError, match="partial"):
        verify(match(a, b, reject=0.5), a, b)


def test_a_certificate_is_of_these_two_saes_alone() -> None:
    """Prices say nothing of features that they are not of. Control: the two that were matched."""
    a, b = jump(), noisy(jump(), 1)
    both = [torch.cat([getattr(s, name) for s in (b, a)]) for name in ("W_dec", "b_enc", "threshold")]
    wider = Jump(torch.cat([b.W_enc, a.W_enc], 1), both[0], both[1], b.b_dec, both[2], b.cfg)
    found = match(a, b)
    assert match(a, wider).cost < 0.9 * found.cost and verify(found, a, b).gap <= 1e-8 * found.cost
    for other in (wider, part_of(b, 40)):
        with pytest.raises(UserError, match="the SAEs have"):
            verify(found, a, other)
    for outside in (F, -2):
        pairs = found.permutation.copy()
        pairs[0] = outside
        with pytest.raises(UserError, match="no full matching"):
            verify(replace(found, permutation=pairs), a, b)


def part_of(sae: Jump, n: int) -> Jump:
    """The first n features."""
    return Jump(sae.W_enc[:, :n], sae.W_dec[:n], sae.b_enc[:n], sae.b_dec, sae.threshold[:n], sae.cfg)


def test_features_that_are_all_zero_or_very_long_or_short() -> None:
    """Zero costs have a matching; directions know no length. Control: other directions, another cost."""
    a, b = jump(), noisy(jump(), 1)
    nothing = [replace(s, W_dec=torch.zeros_like(s.W_dec)) for s in (a, b)]
    assert (match(*nothing).cost, match(*nothing).gap) == (0.0, 0.0)
    plain = match(a, b)
    for length in (1e25, 1e-13, 1e-25):
        moved = match(replace(a, W_dec=a.W_dec * length), b)
        assert moved.cost == pytest.approx(plain.cost, rel=1e-5) and np.array_equal(
            moved.permutation, plain.permutation
        )
    assert match(noisy(a, 2), b).cost != pytest.approx(plain.cost, rel=1e-5)


def test_a_null_that_cannot_be_drawn_is_a_sentence() -> None:
    a = jump()
    alike = replace(a, W_dec=torch.ones_like(a.W_dec))
    for b, said in ((part_of(a, 1), "one feature"), (alike, "all alike")):
        with pytest.raises(UserError, match=said):
            match(alike, b, reject="null")


def test_python_inputs_are_checked() -> None:
    a, b = jump(), jump(1)
    for name in ("W_dec", "W_enc", "b_enc", "b_dec", "threshold"):
        spoilt = getattr(a, name).clone()
        spoilt[..., 3] = float("nan")
        with pytest.raises(UserError, match=f"{name} holds values that are NaN"):
            match(replace(a, **{name: spoilt}), b, fold="theta")
    never = a.threshold.clone()
    never[3] = float("inf")
    assert match(replace(a, threshold=never), b, fold="none").cost > 0, "a dead feature, where thresholds play no part"
    learning = replace(a, W_dec=torch.nn.Parameter(a.W_dec))
    assert match(learning, b).cost == match(a, b).cost
    asked: list[tuple[dict[str, Any], str]] = [
        ({"weights": (-1.0, 1.0, 1.0)}, "each 0 or from"), ({"weights": (0.0, 0.0, 0.0)}, "not all 0"),
        ({"weights": (float("nan"), 1.0, 1.0)}, "each 0 or from"), ({"weights": (1e300, 1.0, 1.0)}, "to 1e+12"),
        ({"reject": -1.0}, "must be positive"), ({"reject": float("inf")}, "finite"),
        ({"fold": "mean", "activations": (torch.zeros(0, D), torch.zeros(0, D))}, "two tensors"),
        ({"fold": "mean", "activations": (torch.full((3, D), torch.nan), torch.ones(3, D))}, "two tensors"),
    ]  # fmt: skip
    for wrong, said in asked:
        with pytest.raises(UserError) as error:
            match(a, b, parts="all", **wrong)
        assert said in f"{error.value} {error.value.hint}"
