"""The stream: a permutation in every pass, batch i a function of (seed, i) alone, blocks large enough to mix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saelab.activations.stream import shuffled_batches

shard_sizes = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(lambda s: sum(s) > 0)


def numbered(sizes: list[int]) -> list[Tensor]:
    """Shards whose rows are numbered from 0 on, so that every row is known by its value."""
    rows = torch.arange(sum(sizes), dtype=torch.bfloat16 if sum(sizes) < 256 else torch.float32)
    return list(torch.stack([rows, -rows], dim=1).split(sizes))


def drawn(
    sizes: list[int], *, batch: int, stop: int, seed: int = 0, start: int = 0, block: int = 10**9
) -> list[Tensor]:
    shards = numbered(sizes)
    return list(
        shuffled_batches(
            sizes, shards.__getitem__, batch_size=batch, stop=stop, seed=seed, start=start, block_rows=block
        )
    )


@given(shard_sizes, st.integers(1, 12), st.integers(1, 300), st.integers(0, 99))
@settings(deadline=None, max_examples=200)
def test_every_pass_is_a_permutation(sizes: list[int], batch: int, block: int, seed: int) -> None:
    total = sum(sizes)
    passes = 3
    steps = -(-passes * total // batch)
    batches = drawn(sizes, batch=batch, stop=steps, seed=seed, block=block)
    assert all(b.shape == (batch, 2) and b.dtype == torch.float32 for b in batches)
    stream = torch.cat(batches)
    assert torch.equal(stream[:, 1], -stream[:, 0]), "rows stay whole"
    for k in range(passes):
        one = stream[k * total : (k + 1) * total, 0]
        assert sorted(one.tolist()) == list(range(total))


@given(shard_sizes, st.integers(1, 12), st.integers(1, 300), st.integers(0, 20))
@settings(deadline=None, max_examples=100)
def test_resuming_at_a_step_equals_never_stopping(sizes: list[int], batch: int, block: int, start: int) -> None:
    whole = drawn(sizes, batch=batch, stop=20, block=block)
    rest = drawn(sizes, batch=batch, stop=20, start=start, block=block)
    assert len(whole) == 20
    assert len(rest) == 20 - start
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_passes_and_seeds_differ() -> None:
    first, second = torch.cat(drawn([100], batch=50, stop=4))[:, 0].split(100)
    assert not torch.equal(first, second)
    other = torch.cat(drawn([100], batch=50, stop=2, seed=1))[:, 0]
    assert not torch.equal(first, other)


def test_blocks_hold_at_least_what_was_asked_and_draw_from_far_apart_shards() -> None:
    sizes = [50] * 40
    held: list[set[int]] = []

    def read(k: int) -> Tensor:
        held[-1].add(k)
        return numbered(sizes)[k]

    seen = 0
    held.append(set())
    for batch in shuffled_batches(sizes, read, batch_size=10, stop=200, seed=0, block_rows=400):
        seen += len(batch)
        if seen % 400 == 0:
            held.append(set())
    blocks = [b for b in held if b]
    assert [len(b) for b in blocks] == [8] * 5, "eight shards of 50 rows in each block of 400"
    assert set.union(*blocks) == set(range(40))
    spread = [max(b) - min(b) for b in blocks]
    assert min(spread) > 8, "the shards of a block are not neighbours"


@pytest.mark.parametrize("block", [10**9, 500])
def test_neighbouring_rows_are_torn_apart(block: int) -> None:
    """Autocorrelation of row numbers within the stream is that of noise; the control, unshuffled, is near one."""
    stream = torch.cat(drawn([250] * 8, batch=100, stop=20, block=block))[:, 0]

    def correlation(x: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([x[:-1], x[1:]]))[0, 1])

    limit = 0.1 if block > 2000 else 0.6  # a block holds two of eight shards, so neighbours share their block
    assert abs(correlation(stream)) < limit
    assert correlation(torch.arange(2000.0)) > 0.99
