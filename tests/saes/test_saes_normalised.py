"""What is carried beside the latents makes decode linear and exact, whatever the normalisation."""

import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.saes.architectures.gated import GatedSae
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.normalised import CARRIED, moments, normalised

D, F, K = 12, 40, 4
kinds = pytest.mark.parametrize("kind", CARRIED)
modules = pytest.mark.parametrize("module", [ReluSae, TopKSae, JumpReluSae])


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(module: type[Sae], *, subtract: bool = True) -> Sae:
    w = {
        "W_enc": drawn(D, F, seed=1),
        "W_dec": drawn(F, D, seed=2),
        "b_enc": drawn(F, seed=3),
        "b_dec": drawn(D, seed=4),
    }
    w |= {"threshold": drawn(F, seed=5).abs(), "r_mag": drawn(F, seed=6), "b_mag": drawn(F, seed=7)}
    k = K if module is TopKSae else None
    cfg = SaeConfig(architecture=module.saelens_name, d_in=D, d_sae=F, k=k, subtract_b_dec=subtract)
    return module(cfg, {n: w[n] for n in module.weight_names()})


X = 3 * drawn(20, D, seed=8) + 2


@kinds
@modules
@pytest.mark.parametrize("subtract", [True, False])
def test_it_is_the_inner_sae_of_normalised_tokens(kind: str, module: type[Sae], subtract: bool) -> None:
    sae, inside = plain(module, subtract=subtract), normalised(plain(module, subtract=subtract), kind)
    mean, spread = moments(X, kind)
    x = (X - mean) / (spread + 1e-5 * (kind == "layer_norm"))
    codes = sae.encode(x)
    assert (codes != 0).any()
    assert torch.allclose(inside.encode(X)[:, :F], codes * spread, atol=1e-4)
    assert torch.allclose(inside(X), sae.decode(codes) * spread + mean, atol=1e-4)
    assert not torch.allclose(inside(X), sae(X), atol=0.1), "control: the normalisation matters"
    assert torch.allclose(inside.inner().encode(x), codes, atol=1e-4)


@kinds
def test_decode_is_linear_and_codes_are_not_negative(kind: str) -> None:
    sae = normalised(plain(TopKSae), kind)
    codes = sae.encode(X.view(4, 5, D))
    assert codes.shape == (4, 5, F + len(CARRIED[kind])) == (4, 5, sae.cfg.d_sae)
    assert bool((codes >= 0).all())
    assert int((codes > 0).sum(-1).max()) <= K + 2, "of the mean, one side is zero"
    assert torch.equal(sae.decode(torch.zeros(1, sae.cfg.d_sae))[0], sae.b_dec)
    assert torch.allclose(sae.decode(2 * codes) - sae.b_dec, 2 * (sae.decode(codes) - sae.b_dec), atol=1e-4)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_what_the_normalisation_takes_out_comes_back(shift: float) -> None:
    """Layer norm: x̂(a x + b) = a x̂(x) + b. Centred: adding a constant to a token adds it to the reconstruction."""
    sae = normalised(plain(TopKSae), "layer_norm")
    assert torch.allclose(sae(100 * X + shift), 100 * sae(X) + shift, rtol=1e-3, atol=0.1)
    sae = normalised(plain(TopKSae), "centred")
    assert torch.allclose(sae(X + shift), sae(X) + shift, atol=1e-4)


@kinds
def test_a_token_of_zeros_is_no_nan(kind: str) -> None:
    sae = normalised(plain(ReluSae), kind)
    assert bool(torch.isfinite(sae(torch.zeros(1, D))).all())


def test_gated_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="encodes as gated"):
        normalised(plain(GatedSae), "layer_norm")
    with pytest.raises(UserError, match="normalisation 'layernorm'"):
        normalised(plain(ReluSae), "layernorm")
