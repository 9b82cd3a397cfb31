"""Schedules, the L0 controller, inputs and dead counters, each by its law."""

from math import exp

import pytest
import torch
from planted import Stored, batches

from saelab.core.errors import UserError
from saelab.training.dead import silence
from saelab.training.inputs import open_inputs, scaling_of
from saelab.training.schedule import learning_rate, ramp
from saelab.training.sparsity import SparsityController


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 100), (10.0, 100), (10.0, 100_000)])
def test_learning_rate_rises_rests_and_falls(warmup: float, steps: int) -> None:
    rates = [learning_rate(2.0, s, steps, warmup=warmup, decay=0.2) for s in range(steps)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[steps // 2] == 2.0
    assert rates[-1] == pytest.approx(2.0 / (0.2 * steps))
    assert min(rates) > 0
    assert ramp(0, steps, warmup=warmup) == pytest.approx(0.1)
    assert ramp(9, steps, warmup=warmup) == ramp(steps - 1, steps, warmup=warmup) == 1.0


@pytest.mark.parametrize("lag", [0.02, 0.1])
def test_the_controller_finds_the_coefficient_of_an_unknown_plant(lag: float) -> None:
    """L0 follows 200 exp(-c / c*) with a lag; the controller must find c without knowing c*."""
    for scale in (0.01, 1.0):
        controller, l0 = SparsityController(20, -2.3), 200.0
        for step in range(2000):
            c = controller.coefficient(l0, 3e-3, ramp(step, 2000, warmup=0.1))
            l0 += lag * (200 * exp(-c / scale) - l0)
        assert l0 == pytest.approx(20, rel=0.02)


def test_the_offset_pins_l0() -> None:
    """Damped Newton steps on the gate's offset bring a too low or too high L0 to the target."""
    heights = torch.randn(500, 100, generator=torch.Generator().manual_seed(0)) - 1.6
    for start in (-0.4, 0.3):
        controller, offset = SparsityController(5, 0.0), start
        for _ in range(80):
            shifted = heights + offset
            offset += controller.offset(float((shifted > 0).sum()) / 500, shifted, 500)
        assert float((heights + offset > 0).sum()) / 500 == pytest.approx(5, rel=0.02)


def test_scaled_inputs_have_unit_mean_square_about_zero() -> None:
    data = batches(6)
    scaling = scaling_of(data)
    x = scaling(torch.cat(data))
    assert x.mean(0).norm() < 1e-3
    assert float(x.square().sum(1).mean()) == pytest.approx(1, rel=1e-4)


def test_a_source_with_moments_gives_the_same_scaling_and_any_start() -> None:
    data = batches(8)
    source = Stored(data)
    inputs = open_inputs(source, steps=9, seed=1, batch=16, start=0)
    assert inputs.scaling.scale == pytest.approx(scaling_of(data).scale, rel=1e-3)
    all_of_them = list(inputs.batches)
    assert len(all_of_them) == 9
    late = list(open_inputs(source, steps=9, seed=1, batch=16, start=7).batches)
    assert len(late) == 2 and torch.equal(late[1], all_of_them[8])


@pytest.mark.parametrize("start", [0, 3, 11])
def test_a_list_is_gone_through_again(start: int) -> None:
    data = batches(5)
    got = list(open_inputs(data, steps=13, seed=0, start=start).batches)
    assert len(got) == 13 - start
    assert all(torch.equal(x, data[(start + i) % 5]) for i, x in enumerate(got))


def test_constant_and_misshapen_activations_are_refused() -> None:
    with pytest.raises(UserError, match="do not vary"):
        open_inputs([torch.ones(4, 3)], steps=1, seed=0)
    with pytest.raises(UserError, match=r"\[tokens, d_in\]"):
        open_inputs([torch.ones(4, 3, 2)], steps=1, seed=0)
    with pytest.raises(UserError, match="first: row 2"):
        open_inputs([torch.tensor([[1.0], [2.0], [float("inf")]])], steps=1, seed=0)


def test_silence_counts_tokens() -> None:
    silent = silence(torch.tensor([0, 100, 7]), torch.tensor([0.0, 3.0, 0.0]), 50)
    assert silent.tolist() == [50, 0, 57]
