"""SAEs that normalise every token at run time: OpenAI's TopK releases for GPT-2, and two kinds in SAELens.

    x' = (x - m) / (s + ε),   z' = act(x' W_enc + b_enc),   x̂ = s (z' W_dec + b_dec) + m

    layer_norm             m = mean_i x_i,  s = std_i x_i (divided by D - 1),  ε = 1e-5
    constant_norm_rescale  m = 0,           s = ||x|| / sqrt(D),               ε = 0
    centred                m = mean_i x_i,  s = 1: SAEs of a language model whose weights were centred (TransformerLens)

No weights express this, and z' alone does not determine x̂: the libraries hand m and s from encode to decode out of
sight. Here they are codes like the others. Codes are z = s z', in raw units, and the last ones are carried: s, with
direction b_dec, then max(m, 0) and max(-m, 0), along the ones and against them. So x̂ = z W_dec (+ b_dec for `centred`),
decode is linear, and L0 counts the numbers that a token's normalisation brings past the latents. Encoder, biases and
threshold are in the units of x'. This file must never know a file format.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError, nearest
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae
from saelab.saes.sparse_ops import row_top_k

# kind -> what is carried behind the latents
CARRIED: dict[str, tuple[str, ...]] = {
    "layer_norm": ("spread", "mean", "minus mean"),
    "constant_norm_rescale": ("spread",),
    "centred": ("mean", "minus mean"),
}
EPSILON = 1e-5
INNER: dict[str, type[Sae]] = {m.saelens_name: m for m in (ReluSae, TopKSae, JumpReluSae)}


class NormalisedSae(Sae):
    """An encoder of normalised tokens: `cfg.settings` say how they are normalised and which of INNER encodes them."""

    saelens_name = "normalised"
    extra = ("gate",)  # the threshold in units of x'; sums of weights, which runs keep, hold this name
    gate: Tensor

    @property
    def kind(self) -> str:
        """How tokens are normalised: a key of CARRIED."""
        return self.cfg.settings["normalise"]

    def activate(self, pre: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        codes = pre * ((pre > self.gate) & (pre > 0))
        if self.cfg.k is None or self.cfg.settings["inner"] != TopKSae.saelens_name:
            return codes
        flat = codes.reshape(-1, codes.shape[-1])
        values, columns = row_top_k(flat, self.cfg.k)
        return torch.zeros_like(flat).scatter_(1, columns, values).view_as(codes)

    def encode(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        """Codes of the latents in raw units, then what is carried."""
        x = x.to(torch.float32)
        mean, spread = moments(x, self.kind)
        shifted = (x - mean) / (spread + EPSILON if self.kind == "layer_norm" else spread.clamp_min(1e-30))
        codes = self.activate(self.pre_activations(shifted)) * spread
        values = {"spread": spread, "mean": mean.clamp(min=0), "minus mean": (-mean).clamp(min=0)}
        carried = CARRIED[self.kind]
        return torch.cat([codes[..., : -len(carried)], *(values[name] for name in carried)], dim=-1)

    def inner(self) -> Sae:
        """The plain SAE that reads normalised tokens, without b_dec in its input."""
        n = self.cfg.d_sae - len(CARRIED[self.kind])
        weights = {name: t[..., :n] for name, t in self.weights().items() if name in ("W_enc", "b_enc", "gate")}
        weights["W_dec"] = self.W_dec[:n]
        weights["b_dec"] = self.W_dec[n] if "spread" in CARRIED[self.kind] else self.b_dec
        weights["threshold"] = weights.pop("gate")
        return INNER[self.cfg.settings["inner"]](self.cfg.model_copy(update={"d_sae": n, "settings": {}}), weights)


def moments(x: Float[Tensor, "... D"], kind: str) -> tuple[Float[Tensor, "... 1"], Float[Tensor, "... 1"]]:
    """Each token's m and s."""
    zero = torch.zeros_like(x[..., :1])
    mean = zero if kind == "constant_norm_rescale" else x.mean(-1, keepdim=True)
    if kind == "layer_norm":
        return mean, x.std(-1, keepdim=True)
    return mean, zero + 1 if kind == "centred" else x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5


def normalised(sae: Sae, kind: str) -> NormalisedSae:
    """The SAE of which `sae` is the inner one: what it reads and writes is normalised by `kind`.

    Raises `UserError` for an unknown kind, and for an encoder that is not ReLU, TopK or JumpReLU.
    """
    if kind not in CARRIED:
        raise UserError(f"There is no normalisation {kind!r}.", hint=nearest(kind, CARRIED))
    if type(sae) not in INNER.values():
        raise UserError(
            f"An SAE that encodes as {sae.saelens_name} and normalises every token ({kind}) is not read.",
            hint="Run-time normalisation is read around ReLU, TopK and JumpReLU encoders.",
        )
    weights, carried = sae.weights(), CARRIED[kind]
    n, d = len(carried), sae.cfg.d_in
    b_enc = weights["b_enc"]
    if sae.cfg.subtract_b_dec:
        b_enc = (b_enc.double() - weights["b_dec"].double() @ weights["W_enc"].double()).float()
    ones = torch.ones(d)
    rows = {"spread": weights["b_dec"], "mean": ones, "minus mean": -ones}
    extended = {
        "W_enc": torch.cat([weights["W_enc"], torch.zeros(d, n)], dim=1),
        "b_enc": torch.cat([b_enc, torch.zeros(n)]),
        "gate": torch.cat([weights.get("threshold", torch.zeros_like(b_enc)), torch.zeros(n)]),
        "W_dec": torch.cat([weights["W_dec"], torch.stack([rows[name] for name in carried])]),
        "b_dec": torch.zeros(d) if "spread" in carried else weights["b_dec"],
    }
    settings = {"normalise": kind, "inner": sae.saelens_name}
    update = {"d_sae": sae.cfg.d_sae + n, "subtract_b_dec": False, "settings": settings}
    return NormalisedSae(sae.cfg.model_copy(update=update), extended)
