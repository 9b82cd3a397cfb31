"""ReLU SAE with an L1 penalty (Anthropic, April 2024 update; spec A.1).

    z = relu((x - b_dec) W_enc + b_enc),   loss = ||x - x̂||² + λ Σ_j z_j ||W_dec[j]||

Decoder rows have unit norm here, so the penalty's norms are 1: the same functions as with free norms, and one policy
for all architectures. λ is found by the controller (training/sparsity.py) so that L0 meets `target_l0`.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saelab.core.names import Look
from saelab.saes.base import (
    START_L0,
    Rule,
    RuleGradient,
    Sae,
    SaeConfig,
    StepContext,
    TrainConfig,
    Weights,
    bound_for,
    folded,
)
from saelab.saes.sparse_ops import DenseEntries, SparseEntries, Values, above


class ReluSae(Sae):
    """Every positive pre-activation is a code."""

    saelens_name = "standard"

    def activate(self, pre: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        return pre.clamp(min=0)


class ReluRule(Rule):
    """All positive entries, each pushed down by λ."""

    finished = ReluSae

    first_coefficient = 0.1

    def __init__(self, target_l0: int, dtype: torch.dtype):
        self.target_l0 = target_l0
        self.dtype = dtype

    def initial(self, weights: Weights, sample: Float[Tensor, "B D"]) -> None:
        weights.b_enc -= bound_for(sample @ weights.encoder.T, START_L0 * self.target_l0)

    def entries(self, pre: Float[Tensor, "B F"], weights: Weights, reach: float = 1.0) -> SparseEntries | DenseEntries:
        return above(pre, 0.0, self.dtype)

    def gradient(
        self, entries: SparseEntries | DenseEntries, weights: Weights, d_codes: Values, step: StepContext
    ) -> RuleGradient:
        on = entries.pre > 0
        per_token = step.coefficient / step.n
        penalty = per_token * float((entries.pre * on).sum())
        return RuleGradient((d_codes + per_token) * on, penalty=penalty)

    def shift(self, weights: Weights, amount: float) -> None:
        weights.b_enc += amount

    def module(self, weights: Weights, scale: float, mean: Float[Tensor, " D"], cfg: SaeConfig) -> Sae:
        return ReluSae(cfg, folded(weights, scale, mean))


class ReluConfig(TrainConfig):
    """A ReLU SAE of `d_sae` latents with `target_l0` of them active per token on average."""

    architecture: Literal["relu"] = "relu"
    target_l0: int = Field(ge=1, description="Active latents per token, on average.")

    paper: ClassVar[dict[str, Any]] = {"aux_coefficient": 0.0}
    has_threshold: ClassVar[bool] = False
    look: ClassVar[Look] = Look("ReLU", "#2f6db3", "#74ace8")
    saebench_name: ClassVar[str | None] = "standard"

    @property
    def level(self) -> int:
        return self.target_l0

    def rule(self, dtype: torch.dtype) -> ReluRule:
        return ReluRule(self.target_l0, dtype)
