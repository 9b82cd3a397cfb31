"""BatchTopK SAE (Bussmann et al. 2024, arXiv 2412.06410, section 3; spec A.4).

    training:   z keeps the B k largest of relu((x - b_dec) W_enc + b_enc) in the whole batch
    inference:  z = pre 1[pre > θ],  θ the running mean over steps of the smallest kept entry

θ is one number, so the finished SAE is a JumpReLU with a constant threshold (as SAELens exports it) and reads token by
token. The mean's momentum is 0.9 by default (not 0.999): it must forget the early θ within the last steps of a short
run.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.names import Look
from saelab.saes.architectures.annealing import AnnealedConfig
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.base import Rule, Sae, SaeConfig, Weights, bound_for, folded
from saelab.saes.ranks import ALONE, Ranks
from saelab.saes.sparse_ops import DenseEntries, SparseEntries, largest, listed_above

UNTRACKED = -1.0
ONE = 1e-2  # how far the thresholds of latents may be from one another and count as one
MARGIN = 0.6  # of the smallest entry that the last step kept: what the next one lists


class BatchTopKRule(Rule):
    """The B k largest of the batch, and the threshold that stands for them."""

    finished = JumpReluSae
    scaled = ("threshold",)

    def __init__(self, k: int, momentum: float, k_at: Callable[[float], int] | None = None):
        self.k_at = k_at or (lambda progress: k)
        self.momentum = momentum
        self.begin(0.0)

    def begin(self, progress: float) -> None:
        self.k = self.k_at(progress)

    def initial(self, weights: Weights, sample: Float[Tensor, "B D"]) -> None:
        some = sample[:: max(1, len(sample) // 256)]
        guess = bound_for(some @ weights.encoder.T, float(self.k))
        weights.tracked["threshold"] = torch.full((), UNTRACKED, device=sample.device)
        weights.tracked["smallest"] = torch.full((), guess, device=sample.device)

    def resume(self, weights: Weights, own: dict[str, Tensor]) -> None:
        theta = own["threshold"]
        if float(theta.max()) > (1 + ONE) * float(theta.min()):
            raise UserError(
                "Its latents have thresholds of their own, and a BatchTopK SAE has one for all.",
                hint="Go on as jumprelu (--arch jumprelu).",
            )
        weights.tracked["threshold"] = theta.mean()
        weights.tracked["smallest"] = theta.mean()

    def entries(self, pre: Float[Tensor, "B F"], weights: Weights, reach: float = 1.0) -> SparseEntries:
        # A little below what the last step kept lie all entries that can be kept, and few others. (θ lags behind while
        # the weights learn fast; a bound that is too high costs a second product, one that is too low a longer list.)
        return listed_above(pre, MARGIN * reach * float(weights.tracked["smallest"]))

    def settle(self, entries: SparseEntries, n_rows: int, reach: float, ranks: Ranks = ALONE) -> SparseEntries | None:
        return largest(entries, self.k * n_rows * ranks.size, enough=reach == 0, ranks=ranks)

    def track(self, entries: SparseEntries | DenseEntries, weights: Weights, ranks: Ranks = ALONE) -> None:
        smallest = ranks.gather(entries.pre.min().view(1) if entries.pre.numel() else entries.pre)
        if not smallest.numel():
            return
        theta, last = weights.tracked["threshold"], weights.tracked["smallest"]
        last.copy_(smallest.min())
        theta.copy_(last if float(theta) < 0 else theta.lerp(last, 1 - self.momentum))

    def module(self, weights: Weights, scale: float, mean: Float[Tensor, " D"], cfg: SaeConfig) -> Sae:
        theta = weights.tracked["threshold"].clamp(min=0) * scale
        return JumpReluSae(cfg, folded(weights, scale, mean) | {"threshold": theta.expand(cfg.d_sae).clone()})


class BatchTopKConfig(AnnealedConfig):
    """A BatchTopK SAE of `d_sae` latents, `k` of them active per token on average."""

    architecture: Literal["batchtopk"] = "batchtopk"
    threshold_momentum: float = Field(default=0.9, ge=0, lt=1, description="Of the threshold of the finished SAE.")

    paper: ClassVar[dict[str, Any]] = {"threshold_momentum": 0.999}
    look: ClassVar[Look] = Look("BatchTopK", "#8247b5", "#be97ea")
    saebench_name: ClassVar[str | None] = "batch_topk"

    def rule(self, dtype: torch.dtype) -> BatchTopKRule:
        return BatchTopKRule(self.k, self.threshold_momentum, self.k_at)
