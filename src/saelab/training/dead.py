"""Latents that have not fired for a while, and the auxiliary loss that revives them (AuxK; arXiv 2406.04093, A.2).

    r = x - x̂ (a constant),  r̂ = relu(pre)_{top k_aux of the dead} W_dec,  loss = α ||r - r̂||² / ||r - mean r||²

As in the paper: normalised by the residual's variance, no bias in r̂, ReLU on the codes, k_aux = d / 2 (d of the
residual). The gradient reaches the dead rows of encoder, b_enc and decoder, and nothing else: b_dec inside pre counts
as a constant. A latent is dead when it has been silent for a number of tokens (not steps, so batch sizes compare).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.saes.base import Weights
from saelab.saes.ranks import ALONE, Ranks
from saelab.saes.sparse_ops import SparseEntries, SpreadEntries, top_k

# Above this density of their codes the dead latents' products are taken densely (docs/benchmarks.md).
DENSITY = {torch.float32: 0.06, torch.bfloat16: 0.01}


def silence(silent: Int[Tensor, " F"], fired: Float[Tensor, " F"], tokens: int) -> Int[Tensor, " F"]:
    """Tokens since each latent last fired, after a batch of `tokens`."""
    return torch.where(fired > 0, torch.zeros_like(silent), silent + tokens)


def reached(
    weights: Weights, x: Float[Tensor, "B D"], dead: Int[Tensor, " M"], share: float, ranks: Ranks = ALONE
) -> Float[Tensor, " M"]:
    """What the pre-activations of each dead latent exceed on a share of the rows (mean over the ranks)."""
    read = x if weights.across else x - weights.b_dec
    pre = torch.addmm(weights.b_enc[dead], read, weights.encoder[dead].T)
    rank = max(1, round(share * len(x)))
    return ranks.total(pre.topk(rank, dim=0, sorted=False).values.amin(0)) / ranks.size


def aux_entries(pre: Float[Tensor, "B F"], dead: Int[Tensor, " M"], width: int) -> SparseEntries:
    """The codes of AuxK as entries of the dead latents [B, M]; `width`: d of the residual."""
    return top_k(pre.index_select(1, dead), max(1, width // 2))


def add_aux_gradient(
    grads: dict[str, Tensor],
    weights: Weights,
    entries: SparseEntries,
    x: Float[Tensor, "B D"],
    residual: Float[Tensor, "B E"],
    *,
    dead: Int[Tensor, " M"],
    coefficient: float,
    dtype: torch.dtype = torch.float32,
    ranks: Ranks = ALONE,
) -> float:
    """Add the gradient of AuxK to `grads` in place; returns the loss.

    entries: from `aux_entries`. dtype: precision of dense products, which are taken where the codes are not few.
    """
    mean = ranks.total(residual.sum(0)) / (residual.shape[0] * ranks.size)
    strength = coefficient / float(ranks.total((residual - mean).square().sum()).clamp(min=1e-12))
    few = len(entries.pre) <= DENSITY[dtype] * entries.n_rows * entries.n_latents
    laid = entries if few else SpreadEntries(entries, dtype)
    codes, decoder = laid.pre, weights.decoder.index_select(0, dead)
    error = laid.decode(codes, decoder) - residual
    g = error * (2 * strength)
    grads["decoder"].index_add_(0, dead, laid.outer(codes, g))
    d_codes = laid.project(g, decoder)
    bias, read = laid.per_latent(d_codes), laid.outer(d_codes, x)
    grads["encoder"].index_add_(0, dead, read if weights.across else read.addr_(bias, weights.b_dec, alpha=-1.0))
    grads["b_enc"].index_add_(0, dead, bias)
    return strength * float(error.square().sum())
