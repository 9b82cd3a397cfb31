"""Costs of pairing features, never stored whole.

    c_ij = w_dec |D'_i - D'_j|^2 + w_enc |E'_i - E'_j|^2 + w_b (b'_i - b'_j)^2        (arXiv 2410.07656, Eq. 3, sums)

is the squared distance between rows of one matrix per SAE, so every pass is one product of row blocks. Blocks are
float32 and carry a bound on their rounding; single edges are computed from differences in float64. "Minimal MSE =
maximal inner product" holds for full bijections only, so costs are kept as distances. Blocks are made on the device
of the rows. Nothing here knows SAEs or solvers.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.errors import UserError, nearest
from saelab.matching.fold import FoldedFeatures

Parts = Literal["all", "decoder", "encoder", "bias"]
BLOCK_ENTRIES = 1 << 21  # of one block of costs: 8 MB, near the caches
LEAST_HEIGHT = 128  # rows of a block, whatever its width: fewer read the columns too often
EDGES_TOGETHER = 128  # pairs, and
ROWS_TOGETHER = 512  # rows that are read in float64 at once, in the caches
LEAST_WEIGHT = 1e-12  # of a tensor; what is further from 1 is lost in float32
EPSILON = 2.0**-24  # half a unit in the last place of float32


@dataclass(frozen=True)
class Costs:
    """The costs between the rows of `a` [n, p] and of `b` [m, p]. widths: of the tensors that the rows hold side by
    side (none given: one tensor).
    """

    a: Float[Tensor, "n p"]
    b: Float[Tensor, "m p"]
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.a.shape[1] != self.b.shape[1]:
            raise UserError(f"Features of width {self.a.shape[1]} cannot be matched with {self.b.shape[1]}.")

    @property
    def shape(self) -> tuple[int, int]:
        return self.a.shape[0], self.b.shape[0]

    @cached_property
    def a_square(self) -> Float[Tensor, " n"]:
        return _squares(self.a)

    @cached_property
    def b_square(self) -> Float[Tensor, " m"]:
        return _squares(self.b)

    @cached_property
    def scale(self) -> float:
        """Mean squared norm of a row of a plus that of one of b: the size of a cost between unrelated features. 1 where
        all rows are zero.
        """
        return float(self.a_square.double().mean() + self.b_square.double().mean()) or 1.0

    @property
    def unit(self) -> float:
        """The power of two that is next to the length of a row. Costs in its square are near 1 whatever the unit of the
        activations was, and rounded alike; solvers have limits of their own on the size of a cost.
        """
        return 2.0 ** round(math.log2(self.scale) / 2)

    def over(self, unit: float) -> "Costs":
        """The same features measured in another unit; their costs are those over unit^2."""
        if unit == 1:
            return self
        found = replace(self, a=self.a / unit, b=self.b / unit)
        found.__dict__.update(a_square=self.a_square / unit**2, b_square=self.b_square / unit**2)
        return found

    @cached_property
    def rounding(self) -> float:
        """A bound on |computed - true| of an entry of `blocks` without offsets, over |a_i|^2 + |b_j|^2: the worst case,
        whatever the order in which a product of this width is summed.
        """
        return (self.a.shape[1] + 8) * EPSILON * 1.01

    def part(self, rows: Any = slice(None), columns: Any = slice(None)) -> "Costs":
        """The costs of some rows and columns: slices, or indices where the features lie."""
        found = replace(self, a=self.a[rows], b=self.b[columns])
        found.__dict__.update(a_square=self.a_square[rows], b_square=self.b_square[columns])
        return found

    def transposed(self) -> "Costs":
        found = replace(self, a=self.b, b=self.a)
        found.__dict__.update(a_square=self.b_square, b_square=self.a_square)
        return found

    def blocks(
        self, *, rows: Float[Tensor, " n"] | None = None, columns: Float[Tensor, " m"] | None = None
    ) -> Iterator[tuple[slice, Float[Tensor, "r m"]]]:
        """Row slices with their costs [r, m] plus the given offsets (float32).

        A block may be changed in place, and the next one overwrites it: a new one each time leaves the heap in pieces.
        """
        right = self.b.T
        beside = self.b_square if columns is None else self.b_square + columns
        above = self.a_square if rows is None else self.a_square + rows
        n, m = self.shape
        height = max(LEAST_HEIGHT, BLOCK_ENTRIES // m)
        memory = right.new_empty(min(height, n), m)
        for start in range(0, n, height):
            part = slice(start, min(start + height, n))
            block = torch.addmm(beside, self.a[part], right, alpha=-2, out=memory[: part.stop - start])
            yield part, block.add_(above[part, None])

    def nominated(
        self, *, rows: Float[Tensor, " n"], columns: Float[Tensor, " m"]
    ) -> Iterator[tuple[slice, Float[Tensor, "r m"], Int[Tensor, " E"], Int[Tensor, " E"]]]:
        """`blocks`, each with the places (row within the block, column) of its entries that are not positive."""
        memory: Tensor | None = None  # for all blocks: a new mask for each would leave the heap in pieces
        for part, block in self.blocks(rows=rows, columns=columns):
            memory = torch.empty_like(block, dtype=torch.bool) if memory is None else memory
            yield part, block, *places(torch.le(block, 0, out=memory[: len(block)]))

    def slack(self, u: Float[Tensor, " n"], v: Float[Tensor, " m"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
        """What an entry of `blocks` with the offsets (-u, -v) can be off by: a share of its row, one of its column."""
        of_row = self.rounding * self.a_square + 8 * EPSILON * u.abs()
        return of_row, self.rounding * self.b_square + 8 * EPSILON * v.abs()

    def edges(self, i: Int[np.ndarray, " E"], j: Int[np.ndarray, " E"]) -> Float[np.ndarray, " E"]:
        """Costs of pairs, from differences in float64."""
        found = np.empty(len(i))
        for start in range(0, len(i), EDGES_TOGETHER):
            part = slice(start, start + EDGES_TOGETHER)
            left, right = (x[torch.from_numpy(k[part]).to(x.device)] for x, k in ((self.a, i), (self.b, j)))
            apart = np.subtract(left.cpu().numpy(), right.cpu().numpy(), dtype=np.float64)
            np.einsum("ij,ij->i", apart, apart, out=found[part])
        return found


@dataclass(frozen=True)
class Edges:
    """Pairs with their costs, sorted by row, then column, each pair once."""

    i: Int[np.ndarray, " E"]
    j: Int[np.ndarray, " E"]
    weights: Float[np.ndarray, " E"]

    def __len__(self) -> int:
        return len(self.i)

    def starts(self, n: int) -> Int[np.ndarray, " s"]:
        """Where the edges of each of n rows begin, and where the last end."""
        return np.r_[0, np.cumsum(np.bincount(self.i, minlength=n))].astype(np.int32)

    def kept(self, which: Bool[np.ndarray, " E"]) -> "Edges":
        return Edges(self.i[which], self.j[which], self.weights[which])


def places(mask: Bool[Tensor, "r m"]) -> tuple[Int[Tensor, " E"], Int[Tensor, " E"]]:
    """Where a mask is true (row, column), in order. Few entries are, so eight are looked at together."""
    flat = mask.view(-1)
    whole = flat[: len(flat) // 8 * 8]
    words = whole.view(torch.int64).nonzero()[:, 0]
    inside = whole.view(-1, 8)[words].nonzero()
    at = torch.cat([words[inside[:, 0]] * 8 + inside[:, 1], flat[len(whole) :].nonzero()[:, 0] + len(whole)])
    rows = torch.div(at, mask.shape[1], rounding_mode="floor")
    return rows, at - rows * mask.shape[1]


def _squares(rows: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    parts = [part.double() for part in rows.split(ROWS_TOGETHER)]
    return torch.cat([torch.linalg.vecdot(part, part) for part in parts]).float()


def costs_between(
    first: FoldedFeatures,
    second: FoldedFeatures,
    parts: Parts = "all",
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Costs:
    """Costs between two SAEs' features. weights: of decoder, encoder and bias, used with parts="all".

    Raises `UserError` for parts that there are not, and weights that are no weights.
    """
    if parts not in get_args(Parts):
        raise UserError(f"There are no parts {parts!r} of a feature.", hint=nearest(parts, get_args(Parts)))
    if (
        len(weights) != 3
        or not all(w == 0 or LEAST_WEIGHT <= w <= 1 / LEAST_WEIGHT for w in weights)
        or not any(weights)
    ):
        raise UserError(
            f"weights are of decoder, encoder and bias: three numbers, each 0 or from {LEAST_WEIGHT:g} to "
            f"{1 / LEAST_WEIGHT:g} and not all 0, not {weights}."
        )
    chosen = {"decoder": (1.0, 0.0, 0.0), "encoder": (0.0, 1.0, 0.0), "bias": (0.0, 0.0, 1.0), "all": weights}[parts]
    one, other = (_tensors(f, chosen) for f in (first, second))
    return Costs(torch.cat(one, dim=1), torch.cat(other, dim=1), tuple(t.shape[1] for t in one))


def _tensors(f: FoldedFeatures, weights: tuple[float, float, float]) -> list[Float[Tensor, "n w"]]:
    tensors = (f.decoder, f.encoder, f.bias[:, None])
    return [t.float() * w**0.5 for t, w in zip(tensors, weights, strict=True) if w > 0]
