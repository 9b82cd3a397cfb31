"""TopK SAE (Gao et al. 2024, arXiv 2406.04093, equation 2; spec A.3).

    z = top_k(relu((x - b_dec) W_enc + b_enc)),   loss = ||x - x̂||² / E||x - E x||² + AuxK

The k largest per token, at training and at inference; no threshold. Latents are compared by pre-activation, decoder
rows have unit norm (so SAELens' rescaling by decoder norms changes nothing). Differs from the peers in AuxK only as far
as they differ among themselves: training/dead.py lists the choices.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.names import Look
from saelab.saes.architectures.annealing import AnnealedConfig
from saelab.saes.base import Rule, Sae, SaeConfig, Weights, folded
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

    def keeping(self, k: int) -> "TopKSae":
        """The same weights read at another level, as those of a HierarchicalTopK are meant to be."""
        return TopKSae(SaeConfig.parse(self.cfg.model_dump() | {"k": k}), self.weights())


class TopKRule(Rule):
    """The k largest per token; k_at: of a share of the run, where k changes."""

    finished = TopKSae

    def __init__(self, k: int, k_at: Callable[[float], int] | None = None):
        self.k_at = k_at or (lambda progress: k)
        self.begin(0.0)

    def begin(self, progress: float) -> None:
        self.k = self.k_at(progress)

    def entries(self, pre: Float[Tensor, "B F"], weights: Weights, reach: float = 1.0) -> SparseEntries:
        return top_k(pre, self.k)

    def module(self, weights: Weights, scale: float, mean: Float[Tensor, " D"], cfg: SaeConfig) -> Sae:
        return TopKSae(cfg, folded(weights, scale, mean))


class TopKConfig(AnnealedConfig):
    """A TopK SAE of `d_sae` latents, `k` of them active per token."""

    architecture: Literal["topk"] = "topk"

    paper: ClassVar[dict[str, Any]] = {}
    has_threshold: ClassVar[bool] = False
    look: ClassVar[Look] = Look("TopK", "#24805a", "#5fc296")

    @property
    def kept(self) -> int | None:
        return self.k

    def rule(self, dtype: torch.dtype) -> TopKRule:
        return TopKRule(self.k, self.k_at)
