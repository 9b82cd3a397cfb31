"""Training that goes on from a finished SAE begins where that one is: the same weights, and its own loss."""

from pathlib import Path

import pytest
import torch
from planted import Stored, batches
from torch import Tensor

from saelab.core.errors import UserError
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.saes.formats import load_sae
from saelab.training.config import TrainingConfig
from saelab.training.inputs import Inputs, open_inputs
from saelab.training.run import run, run_key
from saelab.training.start import started, trained_as
from saelab.training.sweep import enrol, train

SIZE = {"d_in": 32, "d_sae": 64}
DATA = batches(16)


def inputs(data: list[Tensor] = DATA, steps: int = 16) -> Inputs:
    return open_inputs(data, steps=steps, seed=0)


def fvu(sae: Sae, x: Tensor) -> float:
    return float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())


@pytest.fixture(scope="module")
def finished() -> dict[str, Sae]:
    configs = [training_config(name, level=4, lr=0.01, **SIZE) for name in ARCHITECTURES]
    return dict(zip(ARCHITECTURES, train(configs, DATA, steps=240), strict=True))


@pytest.mark.parametrize("unit", [2.0**-10, 1.0, 1000.0])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_begins_with_the_weights_and_the_loss_of_the_finished_one(
    name: str, unit: float, finished: dict[str, Sae]
) -> None:
    """In whatever units the new activations are: their scaling is another, the SAE in raw units is the same."""
    sae, cfg = finished[name], training_config(name, level=4, **SIZE)
    apart = inputs([x * unit for x in DATA])
    weights = started(sae, cfg, apart.scaling)
    back = cfg.rule(torch.float32).module(weights, apart.scaling.scale, apart.scaling.mean, sae.cfg)
    for key, tensor in sae.weights().items():
        size = max(float(tensor.abs().max()), apart.scaling.scale if key == "b_dec" else 0.0)
        assert torch.allclose(back.weights()[key], tensor, rtol=0, atol=1e-6 * size), key

    here = inputs()
    own, fresh = (
        enrol([cfg], inputs(), steps=16, seed=0, precision="float32", starts=start)[0] for start in ([sae], [None])
    )
    x = here.scaling(here.first)
    first, control = own.step(x), fresh.step(x)
    # A BatchTopK keeps what is largest in this batch, its finished SAE what lies above its mean threshold.
    assert first.fvu == pytest.approx(
        fvu(sae, here.first), rel=0.25 if "batch" in name or name == "matryoshka" else 0.02
    )
    assert control.fvu > 1.5 * first.fvu, "a fresh one is far from it"
    assert abs(first.l0 - 4) < 1


def test_what_is_trained_further_gets_better_and_says_what_it_began_with(
    tmp_path: Path, finished: dict[str, Sae]
) -> None:
    sae, stored = finished["topk"], Stored(DATA)
    configs = {"more": training_config("topk", level=4, **SIZE)}
    asked = TrainingConfig(steps=128, batch=256, precision="float32")
    run(asked, configs, stored, saes=tmp_path / "saes", folder=tmp_path / "training", starts={"more": sae})
    more = load_sae(tmp_path / "saes" / "more")
    rows = torch.cat(DATA)
    assert fvu(more, rows) < fvu(sae, rows) < 0.5
    assert more.cfg.metadata["started_from"]["sha256"] and "started_from" not in sae.cfg.metadata
    keys = {run_key(asked, configs, stored, 0, s) for s in (None, {"more": sae}, {"more": finished["relu"]})}
    assert len(keys) == 3, "a checkpoint of one is none of another"


def test_other_conventions_give_the_same_codes() -> None:
    """Decoder rows of any norm, and an encoder that b_dec is not subtracted for."""
    g = torch.Generator().manual_seed(3)
    norms = 0.5 + torch.rand(64, generator=g)
    draw = {"W_enc": (32, 64), "W_dec": (64, 32), "b_enc": (64,), "b_dec": (32,), "threshold": (64,)}
    weights = {name: torch.randn(shape, generator=g) for name, shape in draw.items()}
    weights["threshold"] = weights["threshold"].abs() * 30
    cfg = SaeConfig(architecture="jumprelu", subtract_b_dec=False, **SIZE)
    sae, here = JumpReluSae(cfg, weights), inputs()
    asked = training_config("jumprelu", level=4, **SIZE)
    begun = started(sae, asked, here.scaling)
    assert torch.allclose(begun.decoder.norm(dim=1), torch.ones(64), atol=1e-6) and not torch.allclose(
        norms, begun.b_enc
    )
    made = asked.rule(torch.float32).module(
        begun, here.scaling.scale, here.scaling.mean, cfg.model_copy(update={"subtract_b_dec": True})
    )
    x, own = here.first, weights["W_dec"].norm(dim=1)
    # On thresholds themselves rounding decides; elsewhere codes are those of before times the rows' norms.
    clear = ((sae.pre_activations(x) - sae.threshold).abs() > 1e-2) & (sae.pre_activations(x).abs() > 1e-2)
    assert torch.allclose((made.encode(x) / own)[clear], sae.encode(x)[clear], rtol=1e-3, atol=1e-2)
    assert clear.float().mean() > 0.99 and bool((sae.encode(x) > 0).any())


def test_what_does_not_fit_is_a_sentence(finished: dict[str, Sae]) -> None:
    here = inputs()

    def refused(name: str, sae: Sae, said: str, **size: int) -> None:
        with pytest.raises(UserError, match=said):
            started(sae, training_config(name, level=4, **{**SIZE, **size}), here.scaling)

    refused("jumprelu", finished["topk"], "encodes as topk .*can")
    refused("topk", finished["topk"], "64 features of width 32, and what is trained has 128", d_sae=128)
    refused("batchtopk", finished["jumprelu"], "thresholds of their own")
    uneven = finished["topk"].weights() | {"W_dec": finished["topk"].W_dec * torch.linspace(1, 2, 64)[:, None]}
    refused("topk", type(finished["topk"])(finished["topk"].cfg, uneven), "differ in norm")
    assert trained_as(finished["batchtopk"]) == ["batchtopk", "jumprelu", "matryoshka"]
    settings = finished["relu"].cfg.model_copy(update={"settings": {"normalise": "layer_norm"}})
    assert trained_as(ReluSae(settings, finished["relu"].weights())) == []
