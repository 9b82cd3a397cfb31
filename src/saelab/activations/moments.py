"""Mean, mean norm and mean square of activations: what SAE initialisation and input normalisation need.

    mean = E x,   mean_norm = E |x|,   mean_square = E |x|^2,   variance = E |x - mean|^2 = mean_square - |mean|^2

Sums are kept in float64, so the order of the batches does not show. Attention sinks would wreck every one of these:
they are masked before rows come here. Nothing here knows files.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError


@dataclass(frozen=True)
class Moments:
    """Moments of `count` rows, in raw activation units; `variance` is summed over the D axes."""

    mean: Float[Tensor, " D"]
    mean_norm: float
    mean_square: float
    count: int

    @property
    def variance(self) -> float:
        """E |x - mean|^2, the denominator of the fraction of variance unexplained."""
        return self.mean_square - float(self.mean.double().square().sum())


class MomentsFitter:
    """Takes batches of rows, yields `Moments`."""

    def __init__(self, d: int):
        self._sum = torch.zeros(d, dtype=torch.float64)
        self._norms = torch.zeros((), dtype=torch.float64)
        self._squares = torch.zeros((), dtype=torch.float64)
        self._count = 0

    def update(self, rows: Float[Tensor, "B D"]) -> None:
        """Add rows (any float type)."""
        rows = rows.double()
        squares = rows.square().sum(dim=1)
        self._sum += rows.sum(dim=0)
        self._norms += squares.sqrt().sum()
        self._squares += squares.sum()
        self._count += len(rows)

    def finish(self) -> Moments:
        """The moments of all rows so far; without any, a `UserError`."""
        if not self._count:
            raise UserError("There are no activations to take moments of.", hint="Give more text.")
        return Moments(
            mean=(self._sum / self._count).float(),
            mean_norm=float(self._norms / self._count),
            mean_square=float(self._squares / self._count),
            count=self._count,
        )
