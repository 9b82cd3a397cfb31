"""Costs of pairing features, never stored whole.

    c_ij = w_dec |D'_i - D'_j|^2 + w_enc |E'_i - E'_j|^2 + w_b (b'_i - b'_j)^2        (arXiv 2410.07656, Eq. 3, sums)

is the squared distance between rows of one matrix per SAE, so every pass is one product of row blocks. Blocks are
float32 and carry a bound on their rounding; single edges are computed from differences in float64. "Minimal MSE =
maximal inner product" holds for full bijections only, so costs are kept as distances. Nothing here knows SAEs or
solvers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.matching.fold import Features

Parts = Literal["all", "decoder", "encoder", "bias"]
BLOCK_ENTRIES = 1 << 21  # of one block of costs: 8 MB, near the caches
EDGES_TOGETHER = 1 << 15


@dataclass(frozen=True)
class Costs:
    """The costs between the rows of `a` [n, p] and of `b` [m, p]."""

    a: Float[Tensor, "n p"]
    b: Float[Tensor, "m p"]

    def __post_init__(self) -> None:
        if self.a.shape[1] != self.b.shape[1]:
            raise UserError(f"Features of width {self.a.shape[1]} cannot be matched with {self.b.shape[1]}.")

    @property
    def shape(self) -> tuple[int, int]:
        return self.a.shape[0], self.b.shape[0]

    @cached_property
    def a_square(self) -> Float[Tensor, " n"]:
        return self.a.double().square().sum(1).float()

    @cached_property
    def b_square(self) -> Float[Tensor, " m"]:
        return self.b.double().square().sum(1).float()

    @cached_property
    def rounding(self) -> float:
        """A bound on |computed - true| of an entry of `blocks`: the worst case of a float32 product of this width."""
        largest = float(self.a_square.max()) + float(self.b_square.max())
        return 4e-7 * max(self.a.shape[1], 16) ** 0.5 * largest

    def blocks(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[slice, Float[Tensor, "r m"]]]:
        """Row slices with their costs [r, m] (float32), products taken in `dtype`. A block may be changed in place."""
        right = self.b.to(dtype).T
        left = (self.a * -2).to(dtype)
        rows = max(1, BLOCK_ENTRIES // self.shape[1])
        for start in range(0, self.shape[0], rows):
            part = slice(start, min(start + rows, self.shape[0]))
            block = (left[part] @ right).float()
            yield part, block.add_(self.b_square).add_(self.a_square[part, None])

    def edges(self, i: Int[np.ndarray, " E"], j: Int[np.ndarray, " E"]) -> Float[np.ndarray, " E"]:
        """Costs of pairs, from differences in float64."""
        found = np.empty(len(i))
        for start in range(0, len(i), EDGES_TOGETHER):
            part = slice(start, start + EDGES_TOGETHER)
            apart = self.a[torch.from_numpy(i[part])].double() - self.b[torch.from_numpy(j[part])].double()
            found[part] = apart.square_().sum(1).numpy()
        return found


def costs_between(
    first: Features, second: Features, parts: Parts = "all", weights: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Costs:
    """Costs between two SAEs' features. weights: of decoder, encoder and bias, used with parts="all"."""
    chosen = {"decoder": (1.0, 0.0, 0.0), "encoder": (0.0, 1.0, 0.0), "bias": (0.0, 0.0, 1.0), "all": weights}[parts]
    return Costs(_rows(first, chosen), _rows(second, chosen))


def _rows(f: Features, weights: tuple[float, float, float]) -> Float[Tensor, "n p"]:
    tensors = (f.decoder, f.encoder, f.bias[:, None])
    kept = [t.float() * w**0.5 for t, w in zip(tensors, weights, strict=True) if w > 0]
    return torch.cat(kept, dim=1).contiguous()
