"""Products over the active entries of a code matrix, with one face for the sparse and the dense case.

A training step needs five products with the codes z [B, F]: decode z W_dec, the codes' gradient g W_decᵀ, the two
weight gradients zᵀ g and dpreᵀ x, and sums per latent. When few entries are active each is taken over those entries
only (`SparseEntries`); early in the training of the threshold architectures many are active and the plain matrix
product is cheaper (`DenseEntries`). An architecture writes its formulas once, over "values on the entries": a vector
[N] in the sparse layout, a matrix [B, F] in the dense one. Values outside an architecture's own support must be zero.

Nothing here knows about architectures, losses or optimisers.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from saelab.saes.ranks import Ranks

with warnings.catch_warnings():
    # torch says once per process that CSR tensors are in beta.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))

Values = Float[Tensor, "*entries"]
Product = Callable[[Tensor, Tensor], Tensor]

# Above this density the dense products are cheaper (measured on CPU at D = 576; docs/benchmarks.md).
SPARSE_DENSITY = {torch.float32: 0.15, torch.bfloat16: 0.08}
ROWS = 256  # whose products with all latents are held at once: 16 MB at 16,384 latents


class Entries(Protocol):
    """The entries of a pre-activation matrix [B, F] that a step computes with."""

    pre: Tensor  # pre-activations on the entries

    def at(self, vector: Float[Tensor, " F"]) -> Tensor:
        """A value per latent, spread over the entries."""
        ...

    def per_latent(self, values: Values) -> Float[Tensor, " F"]:
        """Sum of the values of each latent."""
        ...

    def decode(self, values: Values, decoder: Float[Tensor, "F D"]) -> Float[Tensor, "R D"]:
        """values @ decoder."""
        ...

    def project(self, rows: Float[Tensor, "R D"], decoder: Float[Tensor, "F D"]) -> Tensor:
        """rows @ decoderᵀ, on the entries."""
        ...

    def outer(self, values: Values, rows: Float[Tensor, "R D"]) -> Float[Tensor, "F D"]:
        """valuesᵀ @ rows."""
        ...


@dataclass
class SparseEntries:
    """Listed entries, row by row. `columns` rise within a row; row r owns positions offsets[r] to offsets[r + 1]."""

    rows: Int[Tensor, " N"]
    columns: Int[Tensor, " N"]
    pre: Float[Tensor, " N"]
    n_rows: int
    n_latents: int

    def with_pre(self, pre: Float[Tensor, " N"]) -> "SparseEntries":
        """The same entries with other pre-activations."""
        return replace(self, pre=pre)

    def only(self, keep: Bool[Tensor, " N"]) -> "SparseEntries":
        """Those of the entries where the mask holds."""
        at = _flat_nonzero(keep)
        rows, columns, pre = (tensor.index_select(0, at) for tensor in (self.rows, self.columns, self.pre))
        return SparseEntries(rows, columns, pre, self.n_rows, self.n_latents)

    @cached_property
    def flat(self) -> Int[Tensor, " N"]:
        """Where each entry lies in the matrix, row after row."""
        return self.rows.long() * self.n_latents + self.columns

    @cached_property
    def offsets(self) -> Int[Tensor, " R1"]:
        return _offsets(self.rows, self.n_rows)

    @cached_property
    def by_latent(self) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " F1"]]:
        """(order that sorts the entries by latent, their rows in that order, offsets of each latent)."""
        order = _stable_order(self.columns, self.n_latents)
        return order, self.rows[order], _offsets(self.columns, self.n_latents)

    @cached_property
    def by_row(self) -> tuple[Float[Tensor, "R M"], Int[Tensor, " N"]]:
        """(the positive pre-activations of each row side by side, filled with zeros; where each entry lies in it)."""
        most = int(self.offsets.diff().max()) if self.n_rows else 0
        place = torch.arange(len(self.pre), device=self.pre.device) - self.offsets[self.rows]
        place += self.rows.long() * most
        return self.pre.new_zeros(self.n_rows * most).index_copy_(0, place, self.pre).view(-1, most), place

    @cached_property
    def rank(self) -> Int[Tensor, " N"]:
        """How many entries of its row are larger (of equal ones, come first): 0 for the largest."""
        table, place = self.by_row
        order = table.argsort(dim=1, descending=True, stable=True)
        ranks = torch.arange(table.shape[1], device=order.device).expand_as(order)
        return torch.empty_like(order).scatter_(1, order, ranks).view(-1)[place]

    def at(self, vector: Float[Tensor, " F"]) -> Float[Tensor, " N"]:
        return vector[self.columns]

    def per_latent(self, values: Float[Tensor, " N"]) -> Float[Tensor, " F"]:
        return values.new_zeros(self.n_latents).index_add_(0, self.columns, values)

    def decode(self, values: Float[Tensor, " N"], decoder: Float[Tensor, "F D"]) -> Float[Tensor, "R D"]:
        return _bags(self.columns, self.offsets, values, decoder)

    def project(self, rows: Float[Tensor, "R D"], decoder: Float[Tensor, "F D"]) -> Float[Tensor, " N"]:
        shape = (self.n_rows, self.n_latents)
        pattern = torch.sparse_csr_tensor(self.offsets, self.columns, self.pre, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, rows, decoder.T, beta=0.0).values()

    def outer(self, values: Float[Tensor, " N"], rows: Float[Tensor, "R D"]) -> Float[Tensor, "F D"]:
        order, sorted_rows, offsets = self.by_latent
        if rows.shape[0] != self.n_rows:  # entries of several levels share the rows of the batch
            sorted_rows = sorted_rows % rows.shape[0]
        return _bags(sorted_rows, offsets, values[order], rows)


@dataclass
class DenseEntries:
    """Every entry of the matrix; products in the precision of `product`."""

    pre: Float[Tensor, "B F"]
    product: Product = torch.mm

    def at(self, vector: Float[Tensor, " F"]) -> Float[Tensor, " F"]:
        return vector

    def per_latent(self, values: Float[Tensor, "B F"]) -> Float[Tensor, " F"]:
        return values.sum(0)

    def decode(self, values: Float[Tensor, "B F"], decoder: Float[Tensor, "F D"]) -> Float[Tensor, "B D"]:
        return self.product(values, decoder)

    def project(self, rows: Float[Tensor, "B D"], decoder: Float[Tensor, "F D"]) -> Float[Tensor, "B F"]:
        return self.product(rows, decoder.T)

    def outer(self, values: Float[Tensor, "B F"], rows: Float[Tensor, "B D"]) -> Float[Tensor, "F D"]:
        return self.product(values.T, rows)


class SpreadEntries:
    """Listed entries whose products are taken as dense ones in `dtype`: cheaper where a few per cent are listed.

    One matrix holds the values of whichever product is taken, zero elsewhere.
    """

    def __init__(self, entries: SparseEntries, dtype: torch.dtype):
        self.entries, self.pre = entries, entries.pre
        self.matrix = entries.pre.new_zeros(entries.n_rows, entries.n_latents, dtype=dtype)

    def at(self, vector: Float[Tensor, " F"]) -> Float[Tensor, " N"]:
        return self.entries.at(vector)

    def per_latent(self, values: Float[Tensor, " N"]) -> Float[Tensor, " F"]:
        return self.entries.per_latent(values)

    def decode(self, values: Float[Tensor, " N"], decoder: Float[Tensor, "F D"]) -> Float[Tensor, "R D"]:
        return torch.mm(self._filled(values), decoder.to(self.matrix.dtype)).float()

    def project(self, rows: Float[Tensor, "R D"], decoder: Float[Tensor, "F D"]) -> Float[Tensor, " N"]:
        across, found = decoder.to(self.matrix.dtype).T, []
        ends = [*self.entries.offsets[::ROWS].tolist(), len(self.pre)]
        # Some rows at a time: the product stays in the cache until its entries are read.
        for i, part in enumerate(rows.to(self.matrix.dtype).split(ROWS)):
            flat = self.entries.flat[ends[i] : ends[i + 1]] - i * ROWS * self.entries.n_latents
            found.append(torch.mm(part, across).view(-1).index_select(0, flat))
        return torch.cat(found).float()

    def outer(self, values: Float[Tensor, " N"], rows: Float[Tensor, "R D"]) -> Float[Tensor, "F D"]:
        return torch.mm(self._filled(values).T, rows.to(self.matrix.dtype)).float()

    def _filled(self, values: Float[Tensor, " N"]) -> Float[Tensor, "R F"]:
        self.matrix.view(-1).index_copy_(0, self.entries.flat, values.to(self.matrix.dtype))
        return self.matrix


def product_in(dtype: torch.dtype) -> Product:
    """Matrix product with inputs rounded to `dtype`, result in float32."""
    if dtype == torch.float32:
        return torch.mm
    return lambda a, b: torch.mm(a.to(dtype), b.to(dtype)).float()


def listed(mask: Bool[Tensor, "B F"], pre: Float[Tensor, "B F"]) -> SparseEntries:
    """The entries where the mask holds, row by row."""
    flat = _flat_nonzero(mask)
    n_latents = pre.shape[1]
    rows = torch.div(flat, n_latents, rounding_mode="floor")
    columns = flat - rows * n_latents
    return SparseEntries(rows.int(), columns.int(), pre.reshape(-1).index_select(0, flat), pre.shape[0], n_latents)


def above(
    pre: Float[Tensor, "B F"], bound: Float[Tensor, " F"] | float, dtype: torch.dtype = torch.float32
) -> SparseEntries | DenseEntries:
    """The entries strictly above a bound per latent: listed when few, all of them when that is cheaper.

    `dtype` is the precision of the dense products.
    """
    mask = _greater(pre, bound)
    if _count(mask) > SPARSE_DENSITY[dtype] * mask.numel():
        return DenseEntries(pre, product_in(dtype))
    return listed(mask, pre)


def top_k(pre: Float[Tensor, "B F"], k: int) -> SparseEntries:
    """The k largest positive entries of each row (fewer where a row has fewer positive ones)."""
    candidates = listed(_greater(pre, _below_kth(pre, k)), pre)
    if not len(pre) or int(candidates.offsets.diff().max()) <= k:
        return candidates
    table, place = candidates.by_row
    best = torch.topk(table, k, dim=1, sorted=False).indices
    return candidates.only(torch.zeros_like(table, dtype=torch.bool).scatter_(1, best, True).view(-1)[place])


def _below_kth(pre: Float[Tensor, "B F"], k: int) -> Float[Tensor, "B 1"]:
    """For each row a bound >= 0 that its k largest positive entries exceed, and few others.

    Just below the k-th largest of the maxima of 4 k groups: k entries exceed it, of independent ones a sixth more.
    """
    group = pre.shape[1] // (4 * k) if pre.shape[1] > 12 * k else 1  # few columns: the k-th largest itself
    n_groups = pre.shape[1] // group
    zero = pre.new_zeros(pre.shape[0], 1)
    if n_groups <= k:
        return zero
    maxima = pre[:, : group * n_groups].unflatten(1, (group, n_groups)).amax(1)
    if pre.device.type == "cpu":
        maxima.numpy().partition(n_groups - k, axis=1)  # in place; torch takes three times as long
        kth = maxima[:, n_groups - k, None]
    else:
        kth = maxima.kthvalue(n_groups - k + 1, dim=1, keepdim=True).values
    return torch.nextafter(kth, zero).clamp(min=0)


def row_top_k(pre: Float[Tensor, "B F"], k: int, group: int = 8) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"]]:
    """The k largest entries of each row and their columns, in no order.

    The k largest lie in the k groups with the largest maxima, so only k groups are searched: half the time of
    `torch.topk` on CPU from a few hundred latents on, and exact.
    """
    n_rows, n_latents = pre.shape
    n_groups = n_latents // group
    if pre.device.type != "cpu" or n_latents % group or n_groups <= 2 * k:
        return torch.topk(pre, k, dim=1, sorted=False)
    maxima = pre.view(n_rows, group, n_groups).amax(1)
    best = torch.topk(maxima, k, dim=1, sorted=False).indices
    columns = (best[:, :, None] + n_groups * torch.arange(group)).view(n_rows, -1)
    values, chosen = torch.topk(pre.gather(1, columns), k, dim=1, sorted=False)
    return values, columns.gather(1, chosen)


def listed_above(pre: Float[Tensor, "B F"], bound: float) -> SparseEntries:
    """The positive entries strictly above a bound, however many they are."""
    return listed(_greater(pre, max(bound, 0.0)), pre)


def largest(entries: SparseEntries, count: int, *, enough: bool, ranks: Ranks) -> SparseEntries | None:
    """The `count` largest of the entries of all ranks, or None where there are fewer.

    enough: there are no others to choose from, so fewer will do. Of equal values across ranks more may stay.
    """
    values = ranks.gather(entries.pre)
    surplus = values.numel() - count
    if surplus < 0 and not enough:
        return None
    if surplus <= 0:
        return entries
    if ranks.size > 1:
        keep = (entries.pre >= values.kthvalue(surplus + 1).values).nonzero().squeeze(1)
    else:
        keep = torch.topk(values, count, sorted=False).indices.sort().values
    return SparseEntries(
        entries.rows[keep], entries.columns[keep], entries.pre[keep], entries.n_rows, entries.n_latents
    )


def stacked(parts: Sequence[SparseEntries]) -> SparseEntries:
    """The entries of several groups of rows, one group after another."""
    if len(parts) == 1:
        return parts[0]
    first = 0
    rows: list[Tensor] = []
    for part in parts:
        rows.append(part.rows + first)
        first += part.n_rows
    columns, pre = torch.cat([p.columns for p in parts]), torch.cat([p.pre for p in parts])
    return SparseEntries(torch.cat(rows), columns, pre, first, parts[0].n_latents)


def in_levels(entries: SparseEntries, level: Int[Tensor, " N"], n_levels: int) -> SparseEntries:
    """Give every level rows of its own: entry (r, f) of level l moves to row l * R + r."""
    rows = level.int() * entries.n_rows + entries.rows
    order = _stable_order(rows, entries.n_rows * n_levels)
    return SparseEntries(
        rows[order], entries.columns[order], entries.pre[order], entries.n_rows * n_levels, entries.n_latents
    )


def _bags(
    indices: Int[Tensor, " N"], offsets: Int[Tensor, " R1"], weights: Float[Tensor, " N"], table: Float[Tensor, "M D"]
) -> Float[Tensor, "R D"]:
    """Row r = sum over its entries of weight * table[index]: a sparse-dense product (faster on CPU than torch's
    CSR).
    """
    return embedding_bag(indices, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _offsets(sorted_or_not: Int[Tensor, " N"], n: int) -> Int[Tensor, " R1"]:
    counts = torch.bincount(sorted_or_not, minlength=n)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)]).int()


def _stable_order(keys: Int[Tensor, " N"], n: int) -> Int[Tensor, " N"]:
    """The order that sorts small integer keys, stable."""
    if keys.device.type != "cpu" or n > 1 << 16:
        return torch.argsort(keys, stable=True)
    # NumPy's radix sort of 16-bit keys takes a third of torch's time.
    return torch.from_numpy(keys.numpy().astype("uint16").argsort(kind="stable"))


def _flat_nonzero(mask: Bool[Tensor, "*shape"]) -> Int[Tensor, " N"]:
    if mask.device.type != "cpu":
        return mask.reshape(-1).nonzero().squeeze(1)
    # NumPy lists a sparse mask in a third of torch's time, on one thread.
    return torch.from_numpy(mask.numpy().reshape(-1).nonzero()[0])


def _greater(pre: Float[Tensor, "B F"], bound: Tensor | float) -> Bool[Tensor, "B F"]:
    """Entries above a bound: one, one per latent [F], or one per row [B, 1]."""
    if pre.device.type != "cpu":
        return pre > bound
    return torch.from_numpy(pre.numpy() > (bound.numpy() if isinstance(bound, Tensor) else bound))


def _count(mask: Bool[Tensor, "B F"]) -> int:
    if mask.device.type != "cpu":
        return int(mask.sum())
    from numpy import count_nonzero

    return int(count_nonzero(mask.numpy()))
