"""Transcoders: codes of one site that rebuild another, such as an MLP's output from its input (Dunefsky et al. 2024).

    z = act(x W_enc + b_enc),   ŷ = z W_dec + b_dec [+ x W_skip^T]

They are read where an SAE format holds them, and are no `Sae`: what splices, scores or matches at one site cannot take
one by mistake; what can take either says `AnySae`. This file must never know a file format.
"""

import copy
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from saelab.core.config import Config
from saelab.core.errors import ArtefactError, UserError
from saelab.saes.base import Sae
from saelab.saes.directions import Directions, site_in

ActFn = Literal["relu", "jumprelu", "topk"]


class TranscoderConfig(Config):
    """What a transcoder is. `site`: where it reads; `site_out`: what it rebuilds."""

    act_fn: ActFn
    d_in: int = Field(ge=1)
    d_out: int = Field(ge=1)
    d_sae: int = Field(ge=1)
    site: str | None = None
    site_out: str | None = None
    lm: str | None = None
    k: int | None = Field(default=None, ge=1)
    metadata: dict[str, Any] = Field(default_factory=dict)


def activated(
    pre: Float[Tensor, "... F"],
    act_fn: ActFn,
    *,
    threshold: Float[Tensor, "..."] | None = None,
    k: int | None = None,
    gain: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "... F"]:
    """Codes from pre-activations. gain: what a TopK multiplies by before it compares (decoder norms)."""
    positive = pre.clamp(min=0)
    if act_fn == "jumprelu" and threshold is not None:
        return positive * (pre > threshold)
    if act_fn == "topk" and k is not None:
        top = (positive if gain is None else positive * gain).topk(k, dim=-1).indices
        return torch.zeros_like(pre).scatter_(-1, top, positive.gather(-1, top))
    return positive


class Transcoder(nn.Module):
    """A transcoder for inference: frozen float32 weights. Weights: W_enc [D_in, F], b_enc, W_dec [F, D_out], b_dec, and
    threshold [F] (jumprelu) and W_skip [D_out, D_in] where it has them.
    """

    def __init__(self, cfg: TranscoderConfig, weights: dict[str, Tensor]):
        super().__init__()
        self.cfg = cfg
        self.W_dec: Float[Tensor, "F E"]
        self.b_dec: Float[Tensor, " E"]
        shapes = {"W_enc": (cfg.d_in, cfg.d_sae), "b_enc": (cfg.d_sae,), "W_dec": (cfg.d_sae, cfg.d_out)}
        shapes |= {"b_dec": (cfg.d_out,)} | ({"threshold": (cfg.d_sae,)} if cfg.act_fn == "jumprelu" else {})
        shapes |= {"W_skip": (cfg.d_out, cfg.d_in)} if "W_skip" in weights else {}
        if cfg.act_fn == "topk" and not cfg.k:
            raise UserError("A TopK transcoder needs its k.", hint="Declare it: k=...")
        if cfg.k is not None and cfg.k > cfg.d_sae:
            raise UserError(f"k = {cfg.k} is more than d_sae = {cfg.d_sae}.")
        for name, shape in shapes.items():
            if name not in weights or tuple(weights[name].shape) != shape:
                found = tuple(weights[name].shape) if name in weights else "missing"
                raise ArtefactError(f"{name} is {found}; a transcoder of this config has {shape}.")
            self.register_buffer(name, weights[name].detach().to(torch.float32).contiguous())

    def __repr__(self) -> str:
        cfg = self.cfg
        ends = (
            f"from {cfg.site or 'a site unsaid'} to {cfg.site_out or 'a site unsaid'} of {cfg.lm or 'a model unsaid'}"
        )
        return f"<Transcoder {cfg.act_fn} {ends}: {cfg.d_sae:,} latents>"

    def weights(self) -> dict[str, Tensor]:
        """All weights by name."""
        return {name: tensor for name, tensor in self.named_buffers()}

    def encode(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        """Codes z ≥ 0 of activations of the site that is read."""
        if x.shape[-1] != self.cfg.d_in:
            raise UserError(f"The transcoder reads vectors of width {self.cfg.d_in}, but got width {x.shape[-1]}.")
        w = self.weights()
        pre = x.to(torch.float32) @ w["W_enc"] + w["b_enc"]
        return activated(pre, self.cfg.act_fn, threshold=w.get("threshold"), k=self.cfg.k)

    def decode(self, codes: Float[Tensor, "... F"]) -> Float[Tensor, "... D"]:
        """What the codes add to the other site; without the skip connection, which reads x itself."""
        w = self.weights()
        return codes.to(torch.float32) @ w["W_dec"] + w["b_dec"]

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... E"]:
        """The other site from this one."""
        rebuilt, w = self.decode(self.encode(x)), self.weights()
        return rebuilt + x.to(torch.float32) @ w["W_skip"].T if "W_skip" in w else rebuilt

    def directions(self, site: str | None = None) -> Directions:
        """The decoder rows, which write to `site_out`."""
        out = self.cfg.site_out or "an unnamed site"
        site_in((out,), site)
        return Directions(self.weights()["W_dec"], out, torch.arange(self.cfg.d_sae), self.cfg.lm)


AnySae = Sae | Transcoder


def on_device(sae: AnySae, device: torch.device) -> AnySae:
    """The same SAE with its weights on a device; itself where they lie there."""
    if sae.W_dec.device == device:
        return sae
    there = copy.copy(sae)
    there._buffers = {name: tensor.to(device) for name, tensor in sae.named_buffers()}
    return there


def acts_at(sae: AnySae) -> str | None:
    """Where its features act: the site of an SAE, what a transcoder writes."""
    return sae.cfg.site if isinstance(sae, Sae) else sae.cfg.site_out


def transcoder(weights: dict[str, Tensor], **about: Any) -> Transcoder:
    """A transcoder with the widths of its weights; `about` are the other fields of its config."""
    for name in ("W_enc", "W_dec"):
        if weights[name].ndim != 2:
            raise ArtefactError(f"{name} has {weights[name].ndim} dimensions; a transcoder's has two.")
    (d_in, d_sae), d_out = weights["W_enc"].shape, weights["W_dec"].shape[1]
    return Transcoder(TranscoderConfig.parse({"d_in": d_in, "d_sae": d_sae, "d_out": d_out} | about), weights)
