"""TopK SAE under Aligned Training (Brzozowski and Chung 2026, arXiv 2605.18629): encoder row . decoder row = 1.

    e_j = v_j + (1 - v_j . d_j) d_j,   so e_j . d_j = 1 for unit d_j,   z = top_k(relu((x - b_dec) W_enc + b_enc))

The v are what is trained, the decoder rows d and the v get the exact gradient through e; after each update v is set to
e, which changes no function. The paper asks for the product of one; this way of writing it is the nearest point to v
that has it. No AuxK: the paper has no dead latents without.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.names import Look
from saelab.saes.architectures.annealing import AnnealedConfig
from saelab.saes.architectures.topk import TopKRule
from saelab.saes.base import Weights

ONE = 1e-3  # how far the products of a finished SAE may be from 1 to go on from it


class AlignedRule(TopKRule):
    """TopK whose encoder rows are held where they meet their decoder rows with a product of one."""

    def initial(self, weights: Weights, sample: Float[Tensor, "B D"]) -> None:
        self.constrain(weights)

    def resume(self, weights: Weights, own: dict[str, Tensor]) -> None:
        if float((_products(weights) - 1).abs().max()) > ONE:
            raise UserError(
                "Training cannot begin with this SAE: the products of its encoder and decoder rows are not 1.",
                hint="Go on as topk (--arch topk).",
            )
        self.constrain(weights)

    def constrain(self, weights: Weights) -> None:
        weights.encoder.addcmul_(weights.decoder, 1 - _products(weights))

    def constrained(self, grads: dict[str, Tensor], weights: Weights) -> None:
        along = (grads["encoder"] * weights.decoder).sum(1, keepdim=True)
        grads["decoder"].addcmul_(weights.encoder, along, value=-1.0)
        grads["encoder"].addcmul_(weights.decoder, along, value=-1.0)


def _products(weights: Weights) -> Float[Tensor, "F 1"]:
    return (weights.encoder * weights.decoder).sum(1, keepdim=True)


class AlignedConfig(AnnealedConfig):
    """An aligned TopK SAE of `d_sae` latents, `k` of them active per token."""

    architecture: Literal["aligned"] = "aligned"
    fitted_start: bool = False
    aux_coefficient: float = Field(default=0.0, ge=0, description="Weight of AuxK, which revives dead latents.")

    paper: ClassVar[dict[str, Any]] = {}
    has_threshold: ClassVar[bool] = False
    look: ClassVar[Look] = Look("Aligned TopK", "#a1531b", "#e2a06a")

    @property
    def kept(self) -> int | None:
        return self.k

    @model_validator(mode="after")
    def _fits(self) -> "AlignedConfig":
        if self.d_out is not None:
            raise ValueError("a transcoder's encoder and decoder rows belong to two sites and have no product")
        if self.fitted_start:
            raise ValueError("fitted_start shortens the encoder, and an aligned one has no other length")
        return self

    def rule(self, dtype: torch.dtype) -> AlignedRule:
        return AlignedRule(self.k, self.k_at)
