"""Transcoders: every gradient as autograd has it, a planted map is found, and files give back what was trained."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.saes.base import Weights
from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.saes.formats import load_transcoder, save_native
from saelab.training.inputs import scaling_of
from saelab.training.objective import gradients
from saelab.training.step import Trainee
from saelab.training.sweep import train, train_transcoders

D_IN, D_OUT, F = 12, 20, 48
SIZE = {"d_in": D_IN, "d_out": D_OUT, "d_sae": F}
REBUILDING = [a for a in ARCHITECTURES if a != "aligned"]  # whose encoder and decoder rows may belong to two sites


def planted(n: int = 40, rows: int = 256, *, shuffled: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Pairs of a sparse sum of directions and its image: a linear MLP, with means and scales of their own."""
    g = torch.Generator().manual_seed(0)
    read = torch.nn.functional.normalize(torch.randn(24, D_IN, generator=g), dim=1)
    weight = torch.randn(D_IN, D_OUT, generator=g) / D_IN**0.5
    pairs = []
    for _ in range(n):
        codes = torch.rand(rows, 24, generator=g) * (torch.rand(rows, 24, generator=g) < 0.1)
        x = 7 * codes @ read
        y = 30 * x @ weight + 100
        pairs.append((x - 3, y[torch.randperm(rows, generator=g)] if shuffled else y))
    return pairs


@pytest.mark.parametrize("architecture", REBUILDING)
def test_gradients_are_those_of_autograd(architecture: str) -> None:
    """Of the reconstruction term and each rule's own, with a target of another width, dead latents included."""
    pairs = planted(1)
    joined = torch.cat(pairs[0], 1)
    scaling = scaling_of([joined], D_IN)
    cfg = training_config(architecture, level=4, **SIZE, fitted_start=False)
    one = Trainee(cfg, scaling(joined), steps=10, seed=0, dtype=torch.float32)
    x, y = one._parts(scaling(joined))
    assert y is not None
    torch.testing.assert_close(y.square().sum(1).mean(), torch.tensor(1.0))
    one.weights.b_dec += 0.1
    step = 1e-3
    found, outcome = gradients(one.weights, one.rule, x, 0.0, torch.float32, target=y)
    for name in ("decoder", "b_dec"):  # smooth in these: codes do not depend on them
        tensor = one.weights.trained()[name]
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
        losses = []
        for sign in (1, -1):
            tensor += sign * step * direction
            losses.append(gradients(one.weights, one.rule, x, 0.0, torch.float32, target=y)[1].loss)
            tensor -= sign * step * direction
        expected = float((found[name] * direction).sum())
        if architecture == "gated":  # its gate's own term counts the decoder as a constant
            continue
        assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(expected, rel=2e-2, abs=1e-3), name
    assert outcome.fvu > 0 and found["encoder"].shape == (F, D_IN) and found["decoder"].shape == (F, D_OUT)


def test_the_encoder_gradient_is_autograd_s() -> None:
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(32, D_IN, generator=g), torch.randn(32, D_OUT, generator=g)
    parts = [torch.randn(F, D_IN, generator=g), torch.randn(F, D_OUT, generator=g), torch.randn(F, generator=g)]
    parts.append(torch.randn(D_OUT, generator=g))
    rule = training_config("topk", level=4, **SIZE).rule(torch.float32)
    found, _ = gradients(Weights(*(p.clone() for p in parts), across=True), rule, x, 0.0, torch.float32, target=y)
    encoder, decoder, b_enc, b_dec = (p.clone().requires_grad_(True) for p in parts)
    pre = (x @ encoder.T + b_enc).clamp(min=0)
    kept = torch.zeros_like(pre).scatter(1, pre.topk(4).indices, 1.0)
    ((pre * kept) @ decoder + b_dec - y).square().sum(1).mean().backward()
    for name, tensor in {"encoder": encoder, "decoder": decoder, "b_enc": b_enc, "b_dec": b_dec}.items():
        torch.testing.assert_close(found[name], tensor.grad, atol=1e-4, rtol=1e-4)


QUICK = ("topk", "jumprelu")
TRAINED = [a if a in QUICK else pytest.param(a, marks=pytest.mark.sweep) for a in REBUILDING]


@pytest.mark.parametrize("architecture", TRAINED)
def test_a_planted_map_is_found_and_shuffled_targets_are_not(architecture: str) -> None:
    cfg = training_config(architecture, level=4, **SIZE)
    right, wrong = (
        train_transcoders([cfg], planted(shuffled=shuffled), steps=150, precision="float32")[0]
        for shuffled in (False, True)
    )
    x, y = planted(50)[-1]
    spread = (y - y.mean(0)).square().sum()
    fvu, control = (float((found(x) - y).square().sum() / spread) for found in (right, wrong))
    assert fvu < 0.4 and control > 0.8, (fvu, control)
    assert float((right.encode(x) > 0).float().sum(1).mean()) == pytest.approx(4, rel=0.35)
    torch.testing.assert_close(right.weights()["W_dec"].norm(dim=1), torch.ones(F), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("architecture", REBUILDING)
def test_files_give_back_what_was_trained(architecture: str, tmp_path: Path) -> None:
    joined = torch.cat(planted(1)[0], 1)
    scaling = scaling_of([joined], D_IN)
    one = Trainee(training_config(architecture, level=4, **SIZE), scaling(joined), steps=5, seed=0, dtype=torch.float32)
    for _ in range(5):
        one.step(scaling(joined))
    made = one.finish(scaling, site="mlp_in.1", site_out="mlp_out.1", lm="tiny")
    save_native(made, tmp_path / "kept")
    again = load_transcoder(tmp_path / "kept")
    assert (again.cfg.site, again.cfg.site_out, again.cfg.lm) == ("mlp_in.1", "mlp_out.1", "tiny")
    x = joined[:, :D_IN]
    assert torch.equal(again(x), made(x)) and again.cfg.metadata["training_architecture"] == architecture


@pytest.mark.parametrize("architecture", REBUILDING)
def test_raw_units_are_the_trained_ones(architecture: str) -> None:
    """What the finished one rebuilds is what training rebuilt, scaled back (token by token, so not BatchTopK's)."""
    joined = torch.cat(planted(1)[0], 1)
    scaling = scaling_of([joined], D_IN)
    one = Trainee(
        training_config(architecture, level=4, **SIZE), scaling(joined), steps=30, seed=0, dtype=torch.float32
    )
    for _ in range(30):
        one.step(scaling(joined))
    x, y = one._parts(scaling(joined))
    _, outcome = gradients(one.weights, one.rule, x, 0.0, torch.float32, target=y)
    rebuilt, target = one.finish(scaling)(joined[:, :D_IN]), joined[:, D_IN:]
    fvu = float((rebuilt - target).square().sum() / (target - target.mean(0)).square().sum())
    close = 0.6 if architecture in ("batchtopk", "matryoshka") else 0.1
    assert fvu == pytest.approx(outcome.fvu, rel=1e-3 if close == 0.1 else close)


def test_what_is_no_pair_is_refused() -> None:
    cfg = training_config("topk", level=4, **SIZE)
    with pytest.raises(UserError, match="belong to two sites"):
        training_config("aligned", level=4, **SIZE)
    with pytest.raises(UserError, match="12 wide, and a transcoder that reads 12 has nothing to rebuild"):
        train_transcoders([cfg], [torch.randn(64, D_IN)] * 9, steps=2)
    with pytest.raises(UserError, match="width 15, but the configs say d_in = 12 and d_out = 20"):
        train_transcoders([cfg], [(torch.randn(64, D_IN), torch.randn(64, 3))] * 9, steps=2)
    with pytest.raises(UserError, match="Use train_transcoders"):
        train([cfg], [torch.randn(64, D_IN + D_OUT)] * 9, steps=2)
    with pytest.raises(UserError, match="d_out"):
        train_transcoders([training_config("topk", level=4, d_in=D_IN, d_sae=F)], [torch.randn(64, D_IN)] * 9, steps=2)
