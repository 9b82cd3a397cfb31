"""A steering direction, frozen: where it acts, which way, and how far factor 1 moves along it.

Norm convention, the same for every method: `vector` has unit norm, and `distance` is how far the stream moves along it
at factor 1, in raw activation units. Steering by a factor is `x + factor * distance * vector`, so factors compare
across methods and two directions with equal `distance` are of equal norm at every factor.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError
from saelab.lm.edit import Add, Positions


@dataclass(frozen=True, eq=False)
class Direction:
    """A unit vector `[D]` at a site, with the distance that counts as factor 1 and how that distance was found.

    feature: the SAE feature whose decoder row this is, if it is one.
    """

    vector: Float[Tensor, "D"]
    site: str
    distance: float | int
    method: str
    origin: str
    distance_source: str
    feature: int | None = None

    def __post_init__(self) -> None:
        norm = float(self.vector.norm())
        if not abs(norm - 1) < 1e-4:
            raise UserError(f"A direction has unit norm; {self.method} gave one of norm {norm:.4g}.")
        if not self.distance > 0:
            raise UserError(
                f"The distance of {self.method} ({self.origin}) is {self.distance:g}; it must be positive.",
                hint="A feature that never fired has no maximum activation to steer by.",
            )

    def strength(self, factor: float | int) -> float:
        """Distance moved at this factor, in raw activation units."""
        return factor * self.distance

    def edit(self, factor: float | int, positions: Positions = "all") -> Add:
        """The edit for one text (or the same for every row of a batch)."""
        return Add(self.site, self.vector, self.strength(factor), positions)

    def at_distance(self, distance: float | int, source: str) -> "Direction":
        """The same direction with another distance for factor 1."""
        return replace(self, distance=distance, distance_source=source)


def unit(
    vector: Float[Tensor, "D"], *, site: str, distance: float | int, method: str, origin: str, source: str
) -> Direction:
    """A `Direction` from a vector of any positive norm; a zero vector is a `UserError`.

    `distance` is in the units of the *unit* vector: callers that hold a coefficient of `vector` multiply by its norm.
    """
    vector = vector.detach().to("cpu", torch.float32)
    norm = float(vector.norm())
    if not norm > 0:
        raise UserError(f"{method} ({origin}) gave a zero vector: it has no direction.")
    return Direction(vector / norm, site, distance, method, origin, source)
