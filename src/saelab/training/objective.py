"""One batch's loss and its gradients, written out over the active entries (no autograd).

    loss = (1/B) Σ ||x - x̂||² + the rule's own terms + AuxK

On inputs scaled to unit mean squared deviation the first term is the fraction of variance unexplained (FVU) of the
batch. With g = dL/dx̂ = 2 (x̂ - x) / B and the rule's dL/dlinear on the entries:
    dW_dec = zᵀ g,   dz = g W_decᵀ on the entries,   dW_enc = (x - b_dec)ᵀ dlinear,   db_enc = Σ dlinear
    db_dec = Σ g - W_enc Σ dlinear
Nested dictionaries (levels): x̂_i are cumulative sums of the blocks' parts, and a block's g is the sum over the levels
that contain it. The tests compare every gradient with dense autograd. This file must never know an architecture by
name.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.saes.base import Rule, StepContext, Weights
from saelab.saes.sparse_ops import DenseEntries, SparseEntries, in_levels
from saelab.training.dead import add_aux_gradient


@dataclass(frozen=True)
class Outcome:
    """What one batch gave: figures for the metrics table, and which latents fired."""

    loss: float
    fvu: float
    l0: float
    fired: Float[Tensor, " F"]  # number of tokens each latent was active on
    heights: Tensor  # of the active entries above their gate


def gradients(
    weights: Weights,
    rule: Rule,
    x: Float[Tensor, "B D"],
    coefficient: float,
    dtype: torch.dtype,
    *,
    dead: Int[Tensor, " M"] | None = None,
    aux_coefficient: float = 0.0,
) -> tuple[dict[str, Tensor], Outcome]:
    """Gradients by weight name, and the figures. `x`: scaled inputs; `dtype`: precision of dense products."""
    n = x.shape[0]
    pre = pre_activations(weights, x, dtype)
    entries = rule.entries(pre, weights)
    if dtype != torch.float32 and isinstance(entries, SparseEntries):
        exact = entries.project(x, weights.encoder) + entries.at(_linear_bias(weights))
        entries = entries.with_pre(exact)
    rule.track(entries, weights)
    if rule.levels:
        assert isinstance(entries, SparseEntries)
        entries = in_levels(entries, rule.levels)
    codes = rule.codes(entries, weights)
    active = codes > 0
    fired = entries.per_latent(active.to(codes.dtype))
    l0 = float(fired.sum()) / n

    error = reconstruct(entries, codes, weights, rule) - x
    g = _block_gradients(error, rule)
    own = rule.gradient(entries, weights, entries.project(g, weights.decoder), StepContext(x, coefficient, l0))
    bias = entries.per_latent(own.linear)
    grads = {
        "encoder": entries.outer(own.linear, x).addr_(bias, weights.b_dec, alpha=-1.0),
        "decoder": entries.outer(codes, g),
        "b_enc": bias,
        "b_dec": g[:n].sum(0) - bias @ weights.encoder,
    } | own.own
    fvu = float(error[-1].square().sum() if error.ndim == 3 else error.square().sum()) / n
    loss = float(error.square().sum()) / (n * max(1, len(rule.levels))) + own.penalty
    if dead is not None and dead.numel() and aux_coefficient > 0:
        final = error[-1] if error.ndim == 3 else error
        loss += add_aux_gradient(grads, weights, pre, x, -final, dead=dead, coefficient=aux_coefficient)
    return grads, Outcome(loss, fvu, l0, fired, rule.heights(entries, weights))


def pre_activations(weights: Weights, x: Float[Tensor, "B D"], dtype: torch.dtype) -> Float[Tensor, "B F"]:
    """(x - b_dec) W_enc + b_enc; the product's inputs rounded to `dtype`, the rest in float32."""
    bias = _linear_bias(weights)
    if dtype == torch.float32:
        return torch.addmm(bias, x, weights.encoder.T)
    return torch.mm(x.to(dtype), weights.encoder.to(dtype).T) + bias


def _linear_bias(weights: Weights) -> Float[Tensor, " F"]:
    return weights.b_enc - weights.encoder @ weights.b_dec


def reconstruct(
    entries: SparseEntries | DenseEntries, codes: Tensor, weights: Weights, rule: Rule
) -> Float[Tensor, "*levels B D"]:
    """x̂, or one x̂ per level."""
    parts = entries.decode(codes, weights.decoder)
    if rule.levels:
        parts = parts.view(len(rule.levels), -1, parts.shape[1]).cumsum(0)
    return parts + weights.b_dec


def _block_gradients(error: Float[Tensor, "*levels B D"], rule: Rule) -> Float[Tensor, "R D"]:
    """dL/d(part of each block): 2 error / B, summed over the levels that contain the block."""
    if not rule.levels:
        return error * (2.0 / error.shape[0])
    scaled = error * (2.0 / (error.shape[1] * len(rule.levels)))
    return scaled.flip(0).cumsum(0).flip(0).reshape(-1, error.shape[-1])
