"""A transcoder from the weights that training leaves: both ends in raw units, an activation function that files hold.

With x' = (x - m) / s at the site that is read and y' = (y - n) / t at the one that is written, trained codes
z' = act(x' E + b) with y' ~ z' D + c are, in raw units of the written site,

    z = t z' = act(x W_enc + b_enc),   W_enc = (t / s) E,   b_enc = t b - m W_enc,   ŷ = z D + n + t c

A gated encoder is a JumpReLU: 1[u + b_gate > 0] relu(u e^r + b_mag) switches on where u e^r + b_mag exceeds
b_mag - e^r b_gate. This file must never know an optimiser or a file format.
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError
from saelab.saes.architectures.gated import GatedSae
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Rule, Sae, SaeConfig, Weights
from saelab.saes.transcoder import ActFn, Transcoder, transcoder

_ACT_FNS: dict[type[Sae], ActFn] = {ReluSae: "relu", JumpReluSae: "jumprelu", TopKSae: "topk", GatedSae: "jumprelu"}


def transcoder_from(
    rule: Rule,
    weights: Weights,
    *,
    read: tuple[Float[Tensor, " D"], float],
    written: tuple[Float[Tensor, " E"], float],
    about: SaeConfig,
    site_out: str | None,
) -> Transcoder:
    """The finished transcoder. read, written: mean and scale of both ends; about: what its files say."""
    (mean, scale), (mean_out, scale_out) = read, written
    blank = torch.zeros_like(weights.encoder)
    half = rule.module(replace(weights, decoder=blank, b_dec=blank[0].clone()), scale_out, blank[0].clone(), about)
    act_fn = _ACT_FNS.get(type(half))
    if act_fn is None:
        name = type(half).__name__
        raise UserError(f"A {about.architecture} cannot write to another site: no transcoder encodes as {name}.")
    own = _as_jumprelu(half) if isinstance(half, GatedSae) else half.weights()
    encoder = own["W_enc"] * (scale_out / scale)
    found = {
        "W_enc": encoder,
        "b_enc": own["b_enc"] - mean @ encoder,
        "W_dec": weights.decoder.clone(),
        "b_dec": mean_out + scale_out * weights.b_dec,
    }
    found |= {name: own[name] for name in ("threshold",) if name in own}
    said: dict[str, Any] = {"site": about.site, "site_out": site_out, "lm": about.lm, "metadata": about.metadata}
    architecture = {"training_architecture": about.architecture}
    return transcoder(found, act_fn=act_fn, k=about.k, **said | {"metadata": about.metadata | architecture})


def _as_jumprelu(gated: GatedSae) -> dict[str, Tensor]:
    own, gain = gated.weights(), gated.r_mag.exp()
    threshold = (own["b_mag"] - gain * own["b_enc"]).clamp(min=0)
    return {"W_enc": own["W_enc"] * gain, "b_enc": own["b_mag"], "threshold": threshold}
