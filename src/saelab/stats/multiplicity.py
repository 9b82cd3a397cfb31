"""p-values of a family of tests, corrected together: Holm (any false finding) and Benjamini-Hochberg (share of false).

A family is the set of tests one would have reported any of; it is named in the tables beside the corrected p. A test
without a p (None) is not part of the family.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down p: the chance of any false finding in the family is at most p."""

    def adjust(ordered: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M"]:
        return np.maximum.accumulate(ordered * np.arange(ordered.size, 0, -1))

    return _corrected(ps, adjust)


def benjamini_hochberg(ps: Sequence[float | None]) -> list[float | None]:
    """Benjamini and Hochberg's (1995) step-up p: the expected share of false findings among those at or below p."""

    def adjust(ordered: Float[np.ndarray, "M"]) -> Float[np.ndarray, "M"]:
        scaled = ordered * ordered.size / np.arange(1, ordered.size + 1)
        return np.minimum.accumulate(scaled[::-1])[::-1]

    return _corrected(ps, adjust)


def _corrected(
    ps: Sequence[float | None], adjust: Callable[[Float[np.ndarray, "M"]], Float[np.ndarray, "M"]]
) -> list[float | None]:
    places = [i for i, p in enumerate(ps) if p is not None]
    values = np.array([p for p in ps if p is not None], dtype=float)
    order = np.argsort(values, kind="stable")
    found: list[float | None] = [None] * len(ps)
    for place, value in zip(order, adjust(values[order]) if values.size else [], strict=True):
        found[places[int(place)]] = min(1.0, float(value))
    return found
