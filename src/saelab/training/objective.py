"""One batch's loss and its gradients, written out over the active entries (no autograd).

    loss = (1/B) Σ ||y - x̂||² + the rule's own terms + AuxK,   y = x, or a transcoder's other site

On y scaled to unit mean squared deviation the first term is the fraction of variance unexplained (FVU) of the
batch. With g = dL/dx̂ = 2 (x̂ - y) / B and the rule's dL/dlinear on the entries:
    dW_dec = zᵀ g,   dz = g W_decᵀ on the entries,   dW_enc = (x - b_dec)ᵀ dlinear,   db_enc = Σ dlinear
    db_dec = Σ g - W_enc Σ dlinear                (a transcoder reads x itself: b_dec is left out of both)
Nested reconstructions (levels): x̂_i are cumulative sums of the blocks' parts, and a block's g is the sum over the
levels that contain it. Pre-activations are taken a few rows at a time and only the entries are kept, so no [B, F]
matrix is held where a step is sparse. With several processes (ranks) B counts all rows, every term is a sum over the
ranks, and the sums are taken here. The tests compare every gradient with dense autograd. This file must never know an
architecture by name.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.saes.base import Rule, StepContext, Weights
from saelab.saes.ranks import ALONE, Ranks
from saelab.saes.sparse_ops import ROWS, DenseEntries, SparseEntries, in_levels, stacked
from saelab.training.dead import add_aux_gradient, aux_entries


@dataclass(frozen=True)
class BatchResult:
    """What one batch gave: figures for the metrics table, and which latents fired."""

    loss: float
    fvu: float
    l0: float
    fired: Float[Tensor, " F"]  # number of tokens each latent was active on
    heights: Tensor  # of the active entries above their threshold


def gradients(
    weights: Weights,
    rule: Rule,
    x: Float[Tensor, "B D"],
    coefficient: float,
    dtype: torch.dtype,
    *,
    dead: Int[Tensor, " M"] | None = None,
    aux_coefficient: float = 0.0,
    progress: float = 0.0,
    target: Float[Tensor, "B E"] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[dict[str, Tensor], BatchResult]:
    """Gradients by weight name, and the figures. `x`: scaled inputs of this rank; `dtype`: precision of dense
    products; `progress`: the share of the run that is done, for rules whose loss changes with it; `target`: what is
    rebuilt, where it is not x.
    """
    y = x if target is None else target
    n = x.shape[0] * ranks.size
    if dead is not None and (not dead.numel() or aux_coefficient <= 0):
        dead = None
    rule.begin(progress)
    entries, aux = select(weights, rule, x, dtype, dead=dead, ranks=ranks)
    if dtype != torch.float32 and isinstance(entries, SparseEntries):
        exact = entries.project(x, weights.encoder) + entries.at(_linear_bias(weights))
        entries = entries.with_pre(exact)
    rule.track(entries, weights, ranks)
    if rule.levels:
        assert isinstance(entries, SparseEntries)
        entries = in_levels(entries, rule.level(entries), len(rule.levels))
    codes = rule.codes(entries, weights)
    active = codes > 0
    fired = entries.per_latent(active.to(codes.dtype))
    l0 = float(fired.sum()) / n

    error = reconstruct(entries, codes, weights, rule) - y
    g = _block_gradients(error, rule, n)
    step = StepContext(y, n, coefficient, l0, progress)
    own = rule.gradient(entries, weights, entries.project(g, weights.decoder), step)
    bias = entries.per_latent(own.linear)
    read, written = entries.outer(own.linear, x), g[: x.shape[0]].sum(0)
    grads = {
        "encoder": read if weights.across else read.addr_(bias, weights.b_dec, alpha=-1.0),
        "decoder": entries.outer(codes, g),
        "b_enc": bias,
        "b_dec": written if weights.across else written - bias @ weights.encoder,
    } | own.own
    final = error[-1] if error.ndim == 3 else error
    fvu = float(final.square().sum()) / n
    loss = float(error.square().sum()) / (n * max(1, len(rule.levels))) + own.penalty
    if dead is not None and aux is not None:
        asked = {"dead": dead, "coefficient": aux_coefficient, "dtype": dtype, "ranks": ranks}
        loss += add_aux_gradient(grads, weights, aux, x, -final, **asked)
    rule.constrained(grads, weights)
    if ranks.size > 1:
        loss, fvu, l0, fired = _summed(ranks, grads, loss, fvu, l0, fired)
    return grads, BatchResult(loss, fvu, l0, fired, rule.heights(entries, weights))


def _summed(
    ranks: Ranks, grads: dict[str, Tensor], loss: float, fvu: float, l0: float, fired: Tensor
) -> tuple[float, float, float, Tensor]:
    """Sum gradients (in place) and figures over the ranks."""
    for name, grad in grads.items():
        grads[name] = ranks.total(grad)
    figures = ranks.total(torch.tensor([loss, fvu, l0], dtype=torch.float64, device=fired.device))
    return float(figures[0]), float(figures[1]), float(figures[2]), ranks.total(fired)


def select(
    weights: Weights,
    rule: Rule,
    x: Float[Tensor, "B D"],
    dtype: torch.dtype,
    *,
    dead: Int[Tensor, " M"] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[SparseEntries | DenseEntries, SparseEntries | None]:
    """The entries a step computes with, and those of AuxK if any latents are dead.

    The product's inputs are rounded to `dtype`, the rest is float32. Where a rule finds some rows dense, all are.
    """
    bias, encoder = _linear_bias(weights), weights.encoder.to(dtype).T
    reach = 1.0
    while True:
        blocks: list[SparseEntries] = []
        aux: list[SparseEntries] = []
        for rows in x.split(ROWS):
            pre = _pre_activations(rows, encoder, bias)
            block = rule.entries(pre, weights, reach)
            if isinstance(block, DenseEntries):
                if len(rows) < len(x):
                    pre = _pre_activations(x, encoder, bias)
                    block = rule.entries(pre, weights, reach)
                return block, None if dead is None else aux_entries(pre, dead, len(weights.b_dec))
            blocks.append(block)
            if dead is not None:
                aux.append(aux_entries(pre, dead, len(weights.b_dec)))
        entries = rule.settle(stacked(blocks), x.shape[0], reach, ranks)
        if entries is not None:
            return entries, stacked(aux) if aux else None
        reach = reach / 2 if reach > 1e-3 else 0.0


def fitted_length(
    weights: Weights, rule: Rule, x: Float[Tensor, "B D"], dtype: torch.dtype, target: Tensor | None = None
) -> float:
    """The multiple of the codes that rebuilds x, or the target, best (least squares); below 1 where x̂ overshoots. b_dec
    counts as zero.
    """
    entries, _ = select(weights, rule, x, dtype)
    x_hat = entries.decode(rule.codes(entries, weights), weights.decoder)
    square = float(x_hat.square().sum())
    return float((x_hat * (x if target is None else target)).sum()) / square if square > 0 else 1.0


def _pre_activations(
    x: Float[Tensor, "B D"], encoder: Float[Tensor, "D F"], bias: Float[Tensor, " F"]
) -> Float[Tensor, "B F"]:
    """(x - b_dec) W_enc + b_enc; `bias` holds what does not depend on x."""
    if encoder.dtype == torch.float32:
        return torch.addmm(bias, x, encoder)
    return torch.mm(x.to(encoder.dtype), encoder) + bias


def _linear_bias(weights: Weights) -> Float[Tensor, " F"]:
    return weights.b_enc if weights.across else weights.b_enc - weights.encoder @ weights.b_dec


def reconstruct(
    entries: SparseEntries | DenseEntries, codes: Tensor, weights: Weights, rule: Rule
) -> Float[Tensor, "*levels B D"]:
    """x̂, or one x̂ per level."""
    parts = entries.decode(codes, weights.decoder)
    if rule.levels:
        parts = parts.view(len(rule.levels), -1, parts.shape[1]).cumsum(0)
    return parts + weights.b_dec


def _block_gradients(error: Float[Tensor, "*levels B D"], rule: Rule, n: int) -> Float[Tensor, "R D"]:
    """dL/d(part of each block): 2 error / n, summed over the levels that contain the block."""
    if not rule.levels:
        return error * (2.0 / n)
    scaled = error * (2.0 / (n * len(rule.levels)))
    return scaled.flip(0).cumsum(0).flip(0).reshape(-1, error.shape[-1])
