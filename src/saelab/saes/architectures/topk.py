"""TopK SAE (Gao et al. 2024, arXiv 2406.04093, equation 2; spec A.3).

    z = top_k(relu((x - b_dec) W_enc + b_enc)),   loss = ||x - x̂||² / E||x - E x||² + AuxK

The k largest per token, at training and at inference; no threshold. Latents are compared by pre-activation, decoder
rows have unit norm (so SAELens' rescaling by decoder norms changes nothing). Differs from the peers in AuxK only as far
as they differ among themselves: training/dead.py lists the choices.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.names import Look
from saelab.saes.base import Rule, Sae, SaeConfig, TrainConfig, Weights, folded
from saelab.saes.sparse_ops import SparseEntries, row_top_k, top_k


class TopKSae(Sae):
    """Keeps the k largest positive pre-activations of each token."""

    saelens_name = "topk"

    def __init__(self, cfg: SaeConfig, weights: dict[str, Tensor]):
        if cfg.k is None:
            raise UserError("A TopK SAE needs its k.", hint="Declare it: k=... (--k).")
        super().__init__(cfg, weights)
        self.k = cfg.k

    def activate(self, pre: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        flat = pre.reshape(-1, pre.shape[-1])
        values, columns = row_top_k(flat, self.k)
        return torch.zeros_like(flat).scatter_(1, columns, values.clamp(min=0)).view_as(pre)


class TopKRule(Rule):
    """The k largest per token."""

    finished = TopKSae

    def __init__(self, k: int):
        self.k = k

    def entries(self, pre: Float[Tensor, "B F"], weights: Weights, reach: float = 1.0) -> SparseEntries:
        return top_k(pre, self.k)

    def module(self, weights: Weights, scale: float, mean: Float[Tensor, " D"], cfg: SaeConfig) -> Sae:
        return TopKSae(cfg, folded(weights, scale, mean))


class TopKConfig(TrainConfig):
    """A TopK SAE of `d_sae` latents, `k` of them active per token."""

    architecture: Literal["topk"] = "topk"
    k: int = Field(ge=1, description="Active latents per token.")
    fitted_start: bool = True

    paper: ClassVar[dict[str, Any]] = {}
    has_threshold: ClassVar[bool] = False
    look: ClassVar[Look] = Look("TopK", "#24805a", "#5fc296")

    @property
    def level(self) -> int:
        return self.k

    @property
    def kept(self) -> int | None:
        return self.k

    @model_validator(mode="after")
    def _k_fits(self) -> "TopKConfig":
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}")
        return self

    def rule(self, dtype: torch.dtype) -> TopKRule:
        return TopKRule(self.k)
