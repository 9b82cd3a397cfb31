"""Options for latents that live: slow biases, gates held on an L0, and thresholds of dead latents set anew."""

from typing import Any

import pytest
import torch
from planted import batches, directions
from torch import Tensor

from saelab.saes.architectures.jump_relu import JumpReluConfig
from saelab.saes.base import Sae
from saelab.saes.catalogue import training_config
from saelab.training.inputs import scaling_of
from saelab.training.step import Trainee

D, F, LEVEL, STEPS = 32, 128, 8, 120


def trainee_of(data: list[Tensor], **options: Any) -> Trainee:
    cfg = training_config("jumprelu", level=LEVEL, d_in=D, d_sae=F, **options)
    return Trainee(cfg, scaling_of(data)(data[0]), steps=STEPS, seed=0, dtype=torch.float32)


def test_a_config_without_them_is_as_before() -> None:
    """Configs seed their first weights: what is not asked for is not said. Control: what is, is."""
    options = {"held_from", "held_rise", "reopen", "bias_lr"}
    assert not options & set(JumpReluConfig(d_in=D, d_sae=F, target_l0=LEVEL).model_dump())
    asked = JumpReluConfig(d_in=D, d_sae=F, target_l0=LEVEL, held_from=0.5, held_rise=0.3, reopen=True, bias_lr=0.1)
    assert options <= set(asked.model_dump())


def test_held_gates_follow_their_l0_without_a_coefficient() -> None:
    """L0 goes from a quarter of the target to it over half of the run, within 15 %. Control: the coefficient's path."""
    data, found = batches(20), {}
    for name, options in {"held": {"held_from": 0.25, "held_rise": 0.5}, "default": {}}.items():
        one, scaling = trainee_of(data, **options), scaling_of(data)
        figures = [one.step(scaling(data[i % 20])) for i in range(STEPS)]
        goals = [LEVEL * 0.25 ** (1 - min(1.0, i / STEPS / 0.5)) for i in range(STEPS)]
        off = [abs(f.l0 / goal - 1) for f, goal in zip(figures, goals, strict=True)]
        found[name] = sum(off[10:]) / len(off[10:])
        assert (max(f.coefficient for f in figures) == 0.0) is (name == "held")
    assert found["held"] < 0.15 < found["default"]


@pytest.mark.parametrize("architecture", ["jumprelu", "topk", "relu"])
def test_biases_learn_at_their_own_rate(architecture: str) -> None:
    """Adam's first step moves an entry by its learning rate: a tenth of it for biases, all of it for the encoder."""
    data = batches(4)
    scaling, moved = scaling_of(data), {}
    for multiple in (0.1, 1.0):
        cfg = training_config(architecture, level=LEVEL, d_in=D, d_sae=F, bias_lr=multiple, lr_warmup=1.0)
        one = Trainee(cfg, scaling(data[0]), steps=10, seed=0, dtype=torch.float32)
        before = {name: tensor.clone() for name, tensor in one.weights.trained().items()}
        one.step(scaling(data[0]))
        moved[multiple] = {n: float((t - before[n]).abs().max()) for n, t in one.weights.trained().items()}
    assert moved[0.1]["b_enc"] == pytest.approx(3e-4, rel=1e-3) and moved[0.1]["b_dec"] == pytest.approx(3e-4, rel=1e-3)
    assert moved[1.0]["b_enc"] == pytest.approx(3e-3, rel=1e-3), "control"
    assert moved[0.1]["encoder"] == pytest.approx(3e-3, rel=1e-3)


@pytest.mark.parametrize("reopen", [True, False])
def test_a_buried_latent_opens_as_often_as_the_others(reopen: bool) -> None:
    """Thresholds out of reach have no gradient, so nothing but this revives their latents (control)."""
    data = batches(20)
    one, scaling = trainee_of(data, reopen=reopen, dead_tokens=512), scaling_of(data)
    buried = torch.arange(0, F, 4)
    one.weights.extra["threshold"][buried] = 10.0
    one.silent[buried] = 512
    x = scaling(data[0])
    one.step(x)
    opened = (x - one.weights.b_dec) @ one.weights.encoder.T + one.weights.b_enc > one.weights.extra["threshold"]
    often = opened[:, buried].float().mean(0)
    if reopen:
        assert often == pytest.approx(torch.full((len(buried),), LEVEL / F), abs=1.01 / len(x))
    else:
        assert float(often.max()) == 0.0


def test_reopened_latents_learn_what_is_planted() -> None:
    """Eight of 64 latents are left and 24 directions planted: with gates set anew nearly all are found, else eight at
    most. Control: of data whose coordinates are shuffled among the rows nothing planted is found either way.
    """
    planted = directions(24, D)
    data = batches(30, dictionary=planted, active=3)
    rows, g = torch.cat(data), torch.Generator().manual_seed(3)
    mixed = torch.stack([column[torch.randperm(len(rows), generator=g)] for column in rows.T], 1)
    found: dict[tuple[str, bool], float] = {}
    for name, stream in {"planted": data, "shuffled": list(mixed.split(256))}.items():
        for reopen in (True, False):
            cfg = training_config("jumprelu", level=3, d_in=D, d_sae=64, reopen=reopen, dead_tokens=1024, lr=0.01)
            scaling = scaling_of(stream)
            one = Trainee(cfg, scaling(stream[0]), steps=150, seed=0, dtype=torch.float32)
            one.weights.extra["threshold"][8:] = 10.0
            for i in range(150):
                one.step(scaling(stream[i % 30]))
            sae = one.finish(scaling)
            assert isinstance(sae, Sae)
            alive = (sae.encode(torch.cat(stream)) > 0).any(0)
            assert float(alive.float().mean()) > 0.8 if reopen else int(alive.sum()) <= 8
            found[name, reopen] = float(((sae.W_dec[alive] @ planted.T).max(0).values > 0.8).float().mean())
    assert found["planted", True] > 0.9 and found["planted", False] <= 8 / 24
    assert found["shuffled", True] == found["shuffled", False] == 0.0
