"""Seeded shuffled batches over shards: batch i is a pure function of (seed, i), so a resumed run starts at i.

The endless stream is pass after pass. A pass is a permutation of all rows: of the whole where it fits in memory; else
the shards are shuffled, gathered into blocks of at least `block_rows` rows, and each block is shuffled by itself.
Batch i is rows [iB, (i+1)B) of the stream, so batches run on from pass to pass and no row is left out. Nothing here
knows files or where rows come from.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.seeds import numpy_generator, seed_of

# Rows shuffled together at the least when the data does not fit in memory (about what trains SAEs well elsewhere).
LEAST_BLOCK = 250_000


def shuffled_batches(
    sizes: Sequence[int],
    read: Callable[[int], Float[Tensor, "N D"]],
    *,
    batch_size: int,
    stop: int,
    seed: int,
    start: int = 0,
    block_rows: int = LEAST_BLOCK,
) -> Iterator[Float[Tensor, "B D"]]:
    """Batches `start` up to `stop` of `batch_size` rows each, as float32.

    sizes: rows of each shard. read: the rows of shard k. One block is held at a time, in the dtype that `read` gives.
    """
    held: tuple[int, ...] = ()
    rows = torch.empty(0)
    parts: list[Tensor] = []
    missing, step = batch_size, start
    for shards, order in _segments(sizes, seed, block_rows, start * batch_size):
        if step >= stop:
            return
        if shards != held:
            rows = torch.empty(0)  # let go of the old block before the next is read
            rows, held = _gather(shards, sizes, read), shards
        while len(order):
            taken, order = order[:missing], order[missing:]
            parts.append(rows[taken].float())
            missing -= len(taken)
            if not missing:
                yield parts[0] if len(parts) == 1 else torch.cat(parts)
                parts, missing, step = [], batch_size, step + 1
                if step >= stop:
                    return


def _segments(sizes: Sequence[int], seed: int, block_rows: int, skip: int) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """From row `skip` of the stream on, for ever: the shards of a block and the (rest of the) order of its rows."""
    number, skip = divmod(skip, sum(sizes))
    while True:
        for block, shards in enumerate(_blocks(sizes, seed, number, block_rows)):
            rows = sum(sizes[k] for k in shards)
            if skip >= rows:
                skip -= rows
                continue
            generator = torch.Generator().manual_seed(seed_of(seed, "rows", number, block))
            yield shards, torch.randperm(rows, generator=generator)[skip:]
            skip = 0
        number += 1


def _blocks(sizes: Sequence[int], seed: int, number: int, block_rows: int) -> list[tuple[int, ...]]:
    """The shards of pass `number` in shuffled order, cut into blocks of at least `block_rows` rows."""
    blocks: list[list[int]] = []
    room = 0
    for k in numpy_generator(seed, "shards", number).permutation(len(sizes)):
        if room <= 0:
            blocks.append([])
            room = block_rows
        blocks[-1].append(int(k))
        room -= sizes[k]
    if room > 0 and len(blocks) > 1:
        last = blocks.pop()
        blocks[-1] += last
    return [tuple(sorted(block)) for block in blocks]


def _gather(shards: tuple[int, ...], sizes: Sequence[int], read: Callable[[int], Tensor]) -> Tensor:
    """The rows of several shards in one tensor, without a second copy of the whole."""
    rows, at = torch.empty(0), 0
    for number, k in enumerate(shards):
        part = read(k)
        if number == 0:
            rows = torch.empty(sum(sizes[j] for j in shards), part.shape[1], dtype=part.dtype)
        rows[at : at + len(part)] = part
        at += len(part)
    return rows
