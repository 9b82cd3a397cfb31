"""HierarchicalTopK SAE (Balagansky et al. 2025, arXiv 2505.24473): one SAE for many L0s.

    x̂_j = Σ over the j largest of relu((x - b_dec) W_enc + b_enc) of z_i W_dec[i] + b_dec
    loss = mean over j in J of ||x - x̂_j||² + AuxK

J holds the nested levels `ks`, the largest of which is trained for; the paper's J is 1, ..., k or a part of it. All of
them cost one set of products: an entry's rank in its row says which part of the cumulative sums it belongs to. The
finished SAE is a TopK that keeps `k`, and any level below it can be read from the same weights. AuxK is of the residual
of the largest level.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from saelab.core.names import Look
from saelab.saes.architectures.topk import TopKRule
from saelab.saes.base import TrainConfig
from saelab.saes.sparse_ops import SparseEntries


class HierarchicalTopKRule(TopKRule):
    """TopK at the largest level, with a reconstruction for each."""

    def __init__(self, ks: tuple[int, ...]):
        super().__init__(ks[-1])
        self.levels = ks

    def level(self, entries: SparseEntries) -> Int[Tensor, " N"]:
        bounds = torch.tensor(self.levels[:-1]).to(entries.columns.device)
        return torch.bucketize(entries.rank, bounds, right=True, out_int32=True)


class HierarchicalTopKConfig(TrainConfig):
    """A HierarchicalTopK SAE of `d_sae` latents, trained for all of `ks` at once and read with `k` per token."""

    architecture: Literal["hierarchicaltopk"] = "hierarchicaltopk"
    k: int = Field(ge=1, description="Active latents per token of the finished SAE.")
    fitted_start: bool = True
    ks: tuple[int, ...] = Field(
        default=(), description="Levels trained at once, k among them; by default k and its halves, five at most."
    )

    paper: ClassVar[dict[str, Any]] = {}
    has_threshold: ClassVar[bool] = False
    look: ClassVar[Look] = Look("HierarchicalTopK", "#0b7a86", "#58c3cf")

    @property
    def level(self) -> int:
        return self.k

    @property
    def kept(self) -> int | None:
        return self.k

    @model_validator(mode="before")
    @classmethod
    def _complete_ks(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(k := data.get("k"), int):
            ks = data.get("ks") or [max(1, k // n) for n in (16, 8, 4, 2)]
            if isinstance(ks, list | tuple) and all(
                isinstance(n, int) for n in ks
            ):  # else its field says what is wrong
                return data | {"ks": tuple(sorted({*ks, k}))}
        return data

    @model_validator(mode="after")
    def _ks_fit(self) -> "HierarchicalTopKConfig":
        if not self.ks or self.ks[0] < 1 or self.ks[-1] > self.d_sae:
            raise ValueError(f"ks {self.ks} must lie between 1 and d_sae = {self.d_sae}")
        return self

    def rule(self, dtype: torch.dtype) -> HierarchicalTopKRule:
        return HierarchicalTopKRule(self.ks)
