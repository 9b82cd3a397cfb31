"""Planted data for training tests: sparse combinations of known unit directions around a mean, in LM-like units."""

from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor


def directions(n: int = 64, d: int = 32, seed: int = 1) -> Tensor:
    """Random unit rows."""
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)


def batches(
    n: int = 60, rows: int = 256, d: int = 32, *, scale: float = 30.0, active: int = 4, dictionary: Tensor | None = None
) -> list[Tensor]:
    """Batches [rows, d]; `active` directions are on per row on average."""
    g = torch.Generator().manual_seed(2)
    planted = directions(64, d) if dictionary is None else dictionary
    mean = 50 * torch.randn(d, generator=g)
    size = (rows, len(planted))
    out = []
    for _ in range(n):
        codes = (0.5 + torch.rand(size, generator=g)) * (torch.rand(size, generator=g) < active / len(planted))
        out.append(scale * (codes @ planted + 0.01 * torch.randn(rows, d, generator=g)) + mean)
    return out


class Stored:
    """Activations with an order of their own, as activations.shards has: batch i depends on (seed, i) alone."""

    def __init__(self, data: list[Tensor], pause: float = 0.0):
        self.rows = torch.cat(data)
        self.pause = pause
        mean = self.rows.mean(0)
        self.moments = SimpleNamespace(mean=mean, mean_square=float(self.rows.double().square().sum(1).mean()))

    def batches(self, batch_size: int, /, *, steps: int, seed: int, start: int) -> Iterator[Tensor]:
        """Batches start to steps - 1."""
        for i in range(start, steps):
            g = torch.Generator().manual_seed(seed * 1000 + i)
            yield self.rows[torch.randint(len(self.rows), (batch_size,), generator=g)]
