"""Dictionaries of several sites: crosscoders (Lindsey et al. 2024) and cross-layer transcoders (Ameisen et al. 2025).

Codes come in B sets of F latents, [..., B, F]. What a set writes to a site is z_b W_dec_b, and a site is the sum:

    crosscoder    one pre-activation from all S sites; set b is its codes at the site written there, and B = T
                  pre = sum_s x_s W_enc[s] + b_enc           z_b = act_b(pre)
    cross_layer   set b reads site b alone, and B = S
                  pre_b = x_b W_enc[b] + b_enc[b]            z_b = act_b(pre_b)

    ŷ_t = sum over the sets b that write t of z_b W_dec_b[t] + b_dec[t] [+ x_t W_skip[t]^T]

Neither is an `Sae`: what reads, splices or scores one site cannot take one by mistake. Codes are in the unit that was
trained on, since no one scale would suit several sites. This file must never know a file format.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from saelab.core.config import Config
from saelab.core.errors import ArtefactError, UserError
from saelab.saes.directions import Directions, site_in
from saelab.saes.transcoder import ActFn, activated


class CrosscoderConfig(Config):
    """What a dictionary of several sites is.

    sites, sites_out: read and written, in the order of their tensors. writes[b]: positions in `sites_out` that set b
    writes, rising. d_sae: latents of one set. joint: whether a TopK keeps its k of all sets together.
    """

    kind: Literal["crosscoder", "cross_layer"]
    act_fn: ActFn
    sites: tuple[str, ...] = Field(min_length=1)
    sites_out: tuple[str, ...] = Field(min_length=1)
    writes: tuple[tuple[int, ...], ...]
    d_in: int = Field(ge=1)
    d_out: int = Field(ge=1)
    d_sae: int = Field(ge=1)
    k: int | None = Field(default=None, ge=1)
    joint: bool = False
    lm: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> "CrosscoderConfig":
        wanted = len(self.sites_out if self.kind == "crosscoder" else self.sites)
        if len(self.writes) != wanted:
            raise ValueError(f"{len(self.writes)} sets, where {wanted} were expected")
        if any(a >= b for w in self.writes for a, b in pairwise((-1, *w, len(self.sites_out)))):
            raise ValueError("a set writes a site that is not there, or one twice")
        if self.kind == "crosscoder" and self.writes != tuple((b,) for b in range(wanted)):
            raise ValueError("set b of a crosscoder writes site b alone")
        if self.joint and self.act_fn != "topk":
            raise ValueError("only a TopK is joint")
        if self.act_fn == "topk" and not 1 <= (self.k or 0) <= self.d_sae * (wanted if self.joint else 1):
            raise ValueError(f"k = {self.k} of {self.d_sae} latents")
        return self


class Crosscoder(nn.Module):
    """A crosscoder or cross-layer transcoder for inference: frozen float32 weights.

    Weights: W_enc [S, D_in, F], b_enc [F] (cross_layer: [S, F]), W_dec_b [F, writes of b, D_out] for every set b,
    b_dec [T, D_out]; threshold [B, F] (jumprelu), gain [B, F] (what a TopK multiplies by before it compares, where it
    does) and W_skip [T, D_out, D_in] (cross_layer, where it has them).
    """

    def __init__(self, cfg: CrosscoderConfig, weights: dict[str, Tensor]):
        super().__init__()
        self.cfg = cfg
        n_in, n_out, sets, latents = len(cfg.sites), len(cfg.sites_out), len(cfg.writes), cfg.d_sae
        shapes: dict[str, tuple[int, ...]] = {"W_enc": (n_in, cfg.d_in, latents), "b_dec": (n_out, cfg.d_out)}
        shapes["b_enc"] = (latents,) if cfg.kind == "crosscoder" else (n_in, latents)
        shapes |= {f"W_dec_{b}": (latents, len(written), cfg.d_out) for b, written in enumerate(cfg.writes)}
        shapes |= {"threshold": (sets, latents)} if cfg.act_fn == "jumprelu" else {}
        shapes |= {"gain": (sets, latents)} if "gain" in weights else {}
        shapes |= {"W_skip": (n_out, cfg.d_out, cfg.d_in)} if "W_skip" in weights else {}
        for name, shape in shapes.items():
            if name not in weights or tuple(weights[name].shape) != shape:
                found = tuple(weights[name].shape) if name in weights else "missing"
                raise ArtefactError(f"{name} is {found}; a {cfg.kind} of this config has {shape}.")
            self.register_buffer(name, weights[name].detach().to(torch.float32).contiguous())

    def __repr__(self) -> str:
        cfg = self.cfg
        size = f"{len(cfg.writes)} sets of {cfg.d_sae:,} latents"
        return f"<Crosscoder {cfg.kind}: reads {', '.join(cfg.sites)}; writes {', '.join(cfg.sites_out)}; {size}>"

    def weights(self) -> dict[str, Tensor]:
        """All weights by name."""
        return dict(self.named_buffers())

    def encode(self, x: Float[Tensor, "... S D"]) -> Float[Tensor, "... B F"]:
        """Codes z ≥ 0 of activations, a row for every site that is read."""
        cfg, w = self.cfg, self.weights()
        if tuple(x.shape[-2:]) != (len(cfg.sites), cfg.d_in):
            wanted = f"{len(cfg.sites)} sites of width {cfg.d_in}"
            raise UserError(f"It reads {wanted} ([..., S, D]), but got {tuple(x.shape)}.")
        if cfg.kind == "crosscoder":
            shared = torch.einsum("...sd,sdf->...f", x.to(torch.float32), w["W_enc"]) + w["b_enc"]
            pre = shared.unsqueeze(-2).expand(*shared.shape[:-1], len(cfg.writes), cfg.d_sae)
        else:
            pre = torch.einsum("...sd,sdf->...sf", x.to(torch.float32), w["W_enc"]) + w["b_enc"]
        threshold, gain = w.get("threshold"), w.get("gain")
        if not cfg.joint:
            return activated(pre, cfg.act_fn, threshold=threshold, k=cfg.k, gain=gain)
        flat = None if gain is None else gain.flatten()
        return activated(pre.flatten(-2), cfg.act_fn, k=cfg.k, gain=flat).unflatten(-1, pre.shape[-2:])

    def decode(self, codes: Float[Tensor, "... B F"]) -> Float[Tensor, "... T D"]:
        """What the codes add to every site that is written; without skip connections, which read x itself."""
        w, z = self.weights(), codes.to(torch.float32)
        out = w["b_dec"].expand(*z.shape[:-2], *w["b_dec"].shape).clone()
        for b, written in enumerate(self.cfg.writes):
            for i, t in enumerate(written):
                out[..., t, :] += z[..., b, :] @ w[f"W_dec_{b}"][:, i]
        return out

    def forward(self, x: Float[Tensor, "... S D"]) -> Float[Tensor, "... T D"]:
        """The sites that are written from those that are read."""
        rebuilt, w = self.decode(self.encode(x)), self.weights()
        return (
            rebuilt + torch.einsum("...td,ted->...te", x.to(torch.float32), w["W_skip"]) if "W_skip" in w else rebuilt
        )

    def directions(self, site: str | None = None) -> Directions:
        """The decoder rows of one site that is written.

        A latent's number is its own in a crosscoder, and set * d_sae + its own in a cross-layer transcoder.
        """
        cfg = self.cfg
        t = site_in(cfg.sites_out, site)
        rows, numbers = [], []
        for b, written in enumerate(cfg.writes):
            if t in written:
                rows.append(self.weights()[f"W_dec_{b}"][:, written.index(t)])
                numbers.append(torch.arange(cfg.d_sae) + (b * cfg.d_sae if cfg.kind == "cross_layer" else 0))
        return Directions(torch.cat(rows), cfg.sites_out[t], torch.cat(numbers), cfg.lm)


def stacked(tensors: Sequence[Tensor], what: str, dim: int = 0) -> Tensor:
    """`torch.stack`, with tensors of different shapes an `ArtefactError`."""
    shapes = {tuple(t.shape) for t in tensors}
    if len(shapes) != 1:
        raise ArtefactError(f"The {what} of the sites have different shapes: {', '.join(map(str, sorted(shapes)))}.")
    return torch.stack(list(tensors), dim)


def crosscoder(weights: dict[str, Tensor], decoders: list[dict[int, Tensor]], **about: Any) -> Crosscoder:
    """One with the widths of its weights. decoders[b]: site's place -> what set b writes there, [F, D_out]."""
    if weights["W_enc"].ndim != 3 or weights["b_dec"].ndim != 2:
        raise ArtefactError("A dictionary of several sites has encoders [S, D, F] and biases [T, D].")
    (_, d_in, d_sae), d_out = weights["W_enc"].shape, weights["b_dec"].shape[1]
    writes = tuple(tuple(sorted(decoder)) for decoder in decoders)
    written = {
        f"W_dec_{b}": stacked([decoder[t] for t in writes[b]], "decoders", 1) for b, decoder in enumerate(decoders)
    }
    cfg = CrosscoderConfig.parse({"d_in": d_in, "d_out": d_out, "d_sae": d_sae, "writes": writes} | about)
    return Crosscoder(cfg, weights | written)
