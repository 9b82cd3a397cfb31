"""Matryoshka BatchTopK SAE (Bussmann et al. 2025, arXiv 2503.17547, equation 4; spec A.6).

    x̂_i = z[:M_i] W_dec[:M_i] + b_dec for nested widths M_1 < ... < M_g = d_sae,   loss = mean_i ||x - x̂_i||² + AuxK

One BatchTopK over all latents; AuxK on the residual of the whole dictionary. The levels are averaged, so the loss keeps
the scale of a plain SAE's (SAELens sums them, dictionary_learning divides by g twice). The products of the nested
levels cost no more than those of one dictionary: every group of latents gets rows of its own (sparse_ops.in_levels),
and the sums over levels are cumulative sums over [g, B, D].
"""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from saelab.core.names import Look
from saelab.saes.architectures.annealing import AnnealedConfig
from saelab.saes.architectures.batch_topk import BatchTopKRule


class MatryoshkaConfig(AnnealedConfig):
    """A Matryoshka BatchTopK SAE."""

    architecture: Literal["matryoshka"] = "matryoshka"
    widths: tuple[int, ...] = Field(
        default=(), description="Nested widths, rising; the last is d_sae, added if absent."
    )
    threshold_momentum: float = Field(default=0.9, ge=0, lt=1, description="Of the threshold of the finished SAE.")

    paper: ClassVar[dict[str, Any]] = {"threshold_momentum": 0.999}
    look: ClassVar[Look] = Look("Matryoshka", "#7d6f14", "#cdbd5e")
    saebench_name: ClassVar[str | None] = "matryoshka_batch_topk"

    @model_validator(mode="before")
    @classmethod
    def _complete_widths(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("d_sae"), int):
            d_sae = data["d_sae"]
            widths = data.get("widths") or [max(1, d_sae // n) for n in (16, 8, 4, 2)]
            if isinstance(widths, list | tuple):  # else its field says what is wrong
                data = data | {"widths": (*widths, *([] if list(widths[-1:]) == [d_sae] else [d_sae]))}
        return data

    @model_validator(mode="after")
    def _widths_rise(self) -> "MatryoshkaConfig":
        if list(self.widths) != sorted(set(self.widths)) or self.widths[-1] != self.d_sae or self.widths[0] < 1:
            raise ValueError(f"widths {self.widths} must rise from at least 1 to d_sae = {self.d_sae}")
        return self

    def rule(self, dtype: torch.dtype) -> BatchTopKRule:
        rule = BatchTopKRule(self.k, self.threshold_momentum, self.k_at)
        rule.levels = self.widths
        return rule
