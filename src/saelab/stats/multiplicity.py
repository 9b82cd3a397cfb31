"""p-values of a family of tests, corrected together: Holm (any false finding) and Benjamini-Hochberg (share of false).

A family is the set of tests one would have reported any of; it is named in the tables beside the corrected p. A test
without a p (None) is not part of the family.
"""

from collections.abc import Sequence

import numpy as np
import scipy
from jaxtyping import Float


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's (1979) step-down p: the chance of any false finding in the family is at most p."""
    values = _known(ps)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(values.size, 0, -1))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(stepped, 1.0)
    return _in_place(ps, adjusted)


def benjamini_hochberg(ps: Sequence[float | None]) -> list[float | None]:
    """Benjamini and Hochberg's (1995) step-up p: the expected share of false findings among those at or below p."""
    values = _known(ps)
    return _in_place(
        ps, np.asarray(scipy.stats.false_discovery_control(values), dtype=float) if values.size else values
    )


def _known(ps: Sequence[float | None]) -> Float[np.ndarray, "M"]:
    return np.array([p for p in ps if p is not None], dtype=float)


def _in_place(ps: Sequence[float | None], adjusted: Float[np.ndarray, "M"]) -> list[float | None]:
    found = iter(adjusted.tolist())
    return [None if p is None else next(found) for p in ps]
