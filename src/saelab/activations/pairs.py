"""The activations of two sites side by side, [x, y] in one row: what a transcoder is trained on.

Row i is the same token at both, so the two must come from one harvest. Batches are those that either site alone would
give by the same seed. Nothing here knows SAEs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.activations.moments import Moments
from saelab.activations.shards import ActivationShards
from saelab.activations.stream import LEAST_BLOCK, shuffled_batches
from saelab.core.errors import UserError


@dataclass(frozen=True)
class PairMoments:
    """Moments of both sites: mean and mean square of the joined rows, and each site's own (`parts`)."""

    parts: tuple[Moments, Moments]

    @property
    def mean(self) -> Float[Tensor, " D"]:
        """The means, side by side."""
        return torch.cat([part.mean for part in self.parts])

    @property
    def mean_square(self) -> float:
        """E ||[x, y]||^2."""
        return sum(part.mean_square for part in self.parts)


class PairedShards:
    """The shards of the site that is read and of the one that is rebuilt."""

    def __init__(self, read: ActivationShards, written: ActivationShards):
        """Raises `UserError` where the two are not of one harvest."""
        if read.manifest.key != written.manifest.key:
            raise UserError(
                f"The activations of {read.site} and {written.site} come from two harvests, so their rows are not the "
                "same tokens.",
                hint="Harvest both sites in one call.",
            )
        self.read, self.written = read, written
        self.n = read.n

    @property
    def moments(self) -> PairMoments:
        """Moments of both."""
        return PairMoments((self.read.moments, self.written.moments))

    def batches(self, batch_size: int, *, steps: int, seed: int = 0, start: int = 0) -> Iterator[Float[Tensor, "B D"]]:
        """Shuffled batches of float32 rows, from step `start` up to `steps`: see `ActivationShards.batches`."""
        if not 0 < batch_size <= self.n:
            raise UserError(f"A batch of {batch_size} rows cannot be drawn from {self.n} rows of {self.read.site}.")
        width = 4 if self.read.manifest.dtype == "float32" else 2
        fitting = self.read.memory // ((self.read.d + self.written.d) * width)
        return shuffled_batches(
            [s.rows for s in self.read.manifest.shards],
            lambda k: torch.cat([self.read.read(k).rows, self.written.read(k).rows], 1),
            batch_size=batch_size,
            stop=steps,
            seed=seed,
            start=start,
            block_rows=fitting if fitting >= self.n else max(LEAST_BLOCK, fitting // 2),
        )
