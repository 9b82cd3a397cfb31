"""Rows of unequal length as one rectangle: padding, masks and position ids.

Left padding with a mask where the last position must be every row's last token (generation); right padding without a
mask elsewhere, since no token looks to its right. Pads are id 0 and are never read.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saelab.core.errors import UserError


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"] | None]:
    """Token ids and the mask of real ones; no mask where all rows are equally long."""
    width = max(len(r) for r in rows)
    tokens = torch.tensor([[0] * (width - len(r)) + list(r) for r in rows])
    if all(len(r) == width for r in rows):
        return tokens, None
    return tokens, torch.tensor([[False] * (width - len(r)) + [True] * len(r) for r in rows])


def pad_right(rows: Sequence[Sequence[int]]) -> Int[Tensor, "B T"]:
    """Token ids, filled up on the right."""
    width = max(len(r) for r in rows)
    return torch.tensor([list(r) + [0] * (width - len(r)) for r in rows])


def position_ids(tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None) -> Int[Tensor, "b T"]:
    """0, 1, 2, ... from each row's first real token; one row for all where nothing is padded."""
    if mask is None:
        return torch.arange(tokens.shape[1], device=tokens.device)[None]
    if not bool(mask[:, -1].all()) or bool((mask[:, 1:] < mask[:, :-1]).any()):
        raise UserError("A mask must be left padding: False, ..., False, True, ..., True in every row.")
    return (mask.long().cumsum(1) - 1).clamp_min(0)


def by_length(lengths: Sequence[int], *, rows: int, tokens: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length: at most `rows` rows and `tokens` padded positions each (or one row)."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) == rows or (len(batch) + 1) * lengths[i] > tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
