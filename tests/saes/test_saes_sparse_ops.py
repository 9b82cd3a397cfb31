"""Products over active entries equal the dense ones; selections equal torch.topk."""

import pytest
import torch
from torch import Tensor

from saelab.saes import sparse_ops
from saelab.saes.ranks import ALONE
from saelab.saes.sparse_ops import (
    SPARSE_DENSITY,
    DenseEntries,
    SparseEntries,
    SpreadEntries,
    above,
    in_levels,
    largest,
    listed,
    listed_above,
    product_in,
    row_top_k,
    stacked,
    top_k,
)

B, F, D = 30, 64, 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(entries: SparseEntries, values: Tensor) -> Tensor:
    out = torch.zeros(entries.n_rows, entries.n_latents)
    out[entries.rows.long(), entries.columns.long()] = values
    return out


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_sparse_products_equal_dense_ones(share: float) -> None:
    pre = normal(B, F)
    mask = torch.rand(B, F, generator=torch.Generator().manual_seed(3)) < share
    mask[4] = False  # a row with nothing
    entries, plain = listed(mask, pre), DenseEntries(pre * mask)
    values = normal(int(mask.sum()), seed=5)
    full = dense(entries, values)
    rows, decoder, vector = normal(B, D, seed=6), normal(F, D, seed=7), normal(F, seed=8)
    assert torch.equal(dense(entries, entries.pre), pre * mask)
    assert torch.allclose(entries.decode(values, decoder), plain.decode(full, decoder), atol=1e-5)
    assert torch.allclose(
        dense(entries, entries.project(rows, decoder)), plain.project(rows, decoder) * mask, atol=1e-5
    )
    assert torch.allclose(entries.outer(values, rows), plain.outer(full, rows), atol=1e-5)
    assert torch.allclose(entries.per_latent(values), plain.per_latent(full), atol=1e-5)
    assert torch.equal(dense(entries, entries.at(vector)), vector * mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spread_products_equal_listed_ones(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the precision of `dtype`, for values other than those before, with rows taken in parts."""
    monkeypatch.setattr(sparse_ops, "ROWS", 7)
    pre = normal(B, F)
    mask = pre > 0.8
    mask[4], mask[7:15] = False, False
    entries = listed(mask, pre)
    spread, close = SpreadEntries(entries, dtype), {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 0.2}
    rows, decoder = normal(B, D, seed=6), normal(F, D, seed=7)
    for values in (entries.pre, normal(len(entries.pre), seed=5)):
        torch.testing.assert_close(spread.decode(values, decoder), entries.decode(values, decoder), **close)
        torch.testing.assert_close(spread.outer(values, rows), entries.outer(values, rows), **close)
        assert torch.equal(spread.per_latent(values), entries.per_latent(values))
    torch.testing.assert_close(spread.project(rows, decoder), entries.project(rows, decoder), **close)
    assert spread.project(rows, decoder).dtype == spread.decode(entries.pre, decoder).dtype == torch.float32


@pytest.mark.parametrize(("columns", "k"), [(64, 3), (256, 9), (100, 5), (96, 40), (16, 16)])
def test_row_top_k_is_exact(columns: int, k: int) -> None:
    pre = normal(50, columns)
    values, found = row_top_k(pre, k)
    expected = torch.topk(pre, k, dim=1)
    assert torch.equal(values.sort(dim=1, descending=True).values, expected.values)
    assert torch.equal(found.sort(dim=1).values, expected.indices.sort(dim=1).values)
    assert torch.equal(pre.gather(1, found), values)


def test_top_k_keeps_positive_entries_only() -> None:
    pre = normal(20, 32) - 2.5
    entries = top_k(pre, 6)
    kept = dense(entries, entries.pre)
    assert torch.equal((kept > 0).sum(1), (pre > 0).sum(1).clamp(max=6))
    assert bool((entries.pre > 0).all())


@pytest.mark.parametrize(("columns", "k"), [(64, 3), (1000, 9), (101, 5), (96, 40), (16, 16), (8, 20)])
@pytest.mark.parametrize("tied", [False, True], ids=["apart", "tied"])
def test_top_k_is_exact(columns: int, k: int, tied: bool) -> None:
    """The k largest by value, in rising columns, also where values are equal, rows empty or k is all there is."""
    pre = normal(50, columns)
    pre = (4 * pre).round() / 4 if tied else pre
    pre[3], pre[4] = -1.0, 0.5
    entries = top_k(pre, k)
    best = torch.topk(pre, min(k, columns), dim=1).values.clamp(min=0)
    for row, (found, expected) in enumerate(zip(dense(entries, entries.pre), best, strict=True)):
        assert torch.equal(found[found > 0].sort(descending=True).values, expected[expected > 0]), row
    assert torch.equal(entries.pre, pre[entries.rows.long(), entries.columns.long()])
    assert bool((entries.rows.long() * columns + entries.columns).diff().gt(0).all())


def test_ranks_are_places_in_the_order_of_a_row() -> None:
    pre = normal(20, 32)
    entries = top_k(pre, 6)
    expected = (pre[:, None, :] > pre[:, :, None]).sum(2)
    assert torch.equal(dense(entries, entries.rank.float() + 1), (expected + 1.0) * (dense(entries, entries.pre) > 0))
    assert entries.rank.min() == 0 and entries.rank.max() == 5


@pytest.mark.parametrize("bound", [-1.0, 0.0, 0.5, 1.2])
def test_the_largest_do_not_depend_on_the_bound(bound: float) -> None:
    pre = normal(B, F)
    entries = largest(listed_above(pre, bound), 100, enough=False, ranks=ALONE)
    assert entries is not None
    expected = torch.topk(pre.flatten(), 100).values
    assert torch.equal(entries.pre.sort(descending=True).values, expected)
    assert torch.equal(dense(entries, entries.pre), pre * (pre >= expected[-1]))


def test_too_few_candidates_are_said_so() -> None:
    few = listed_above(normal(B, F) - 2.6, 0.0)
    assert 0 < len(few.pre) < 100
    assert largest(few, 100, enough=False, ranks=ALONE) is None
    assert largest(few, 100, enough=True, ranks=ALONE) is few


@pytest.mark.parametrize("rows", [1, 7, B])
def test_stacked_groups_of_rows_are_the_whole(rows: int) -> None:
    pre = normal(B, F)
    whole = listed_above(pre, 0.8)
    parts = stacked([listed_above(part, 0.8) for part in pre.split(rows)])
    for name in ("rows", "columns", "pre"):
        assert torch.equal(getattr(parts, name), getattr(whole, name))
    assert (parts.n_rows, parts.n_latents) == (B, F)


def test_levels_split_the_rows() -> None:
    pre = normal(B, F)
    entries = listed(pre > 0.8, pre)
    split = in_levels(entries, torch.bucketize(entries.columns, torch.tensor([5, 20]), right=True), 3)
    assert split.n_rows == 3 * B
    assert bool((split.rows[1:] >= split.rows[:-1]).all())
    full = dense(split, split.pre).view(3, B, F)
    assert torch.equal(full.sum(0), dense(entries, entries.pre))
    assert not full[0, :, 5:].any() and not full[1, :, :5].any() and not full[1, :, 20:].any()
    rows = normal(B, D, seed=6)  # products with per-token rows see the blocks as one
    assert torch.allclose(split.outer(split.pre, rows), entries.outer(entries.pre, rows), atol=1e-5)


def test_the_layout_follows_the_density() -> None:
    pre = normal(200, F)
    assert isinstance(above(pre, 2.0), SparseEntries)
    assert isinstance(above(pre, 0.0), DenseEntries)
    assert isinstance(above(pre, torch.full((F,), 3.0)), SparseEntries)
    assert set(SPARSE_DENSITY) == {torch.float32, torch.bfloat16}


def test_reduced_precision_products_stay_close() -> None:
    a, b = normal(20, 40), normal(40, 30, seed=1)
    assert torch.equal(product_in(torch.float32)(a, b), a @ b)
    rough = product_in(torch.bfloat16)(a, b)
    assert rough.dtype == torch.float32
    assert 0 < (rough - a @ b).norm() < 0.02 * (a @ b).norm()
