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
from saelab.saes.sparse_ops import row_top_k


def silence(silent: Int[Tensor, " F"], fired: Float[Tensor, " F"], tokens: int) -> Int[Tensor, " F"]:
    """Tokens since each latent last fired, after a batch of `tokens`."""
    return torch.where(fired > 0, torch.zeros_like(silent), silent + tokens)


def add_aux_gradient(
    grads: dict[str, Tensor],
    weights: Weights,
    pre: Float[Tensor, "B M"],
    x: Float[Tensor, "B D"],
    residual: Float[Tensor, "B E"],
    *,
    dead: Int[Tensor, " M"],
    coefficient: float,
    ranks: Ranks = ALONE,
) -> float:
    """Add the gradient of AuxK to `grads` in place; returns the loss. `pre`: pre-activations of the dead latents."""
    k_aux = max(1, residual.shape[1] // 2)
    codes = pre.clamp(min=0)
    if dead.numel() > k_aux:
        values, columns = row_top_k(codes, k_aux)
        codes = torch.zeros_like(codes).scatter_(1, columns, values)
    decoder = weights.decoder[dead]
    error = codes @ decoder - residual
    mean = ranks.total(residual.sum(0)) / (residual.shape[0] * ranks.size)
    strength = coefficient / float(ranks.total((residual - mean).square().sum()).clamp(min=1e-12))
    g = error * (2 * strength)
    d_codes = (g @ decoder.T) * (codes > 0)
    bias = d_codes.sum(0)
    grads["decoder"].index_add_(0, dead, codes.T @ g)
    read = d_codes.T @ x
    grads["encoder"].index_add_(0, dead, read if weights.across else read.addr_(bias, weights.b_dec, alpha=-1.0))
    grads["b_enc"].index_add_(0, dead, bias)
    return strength * float(error.square().sum())
