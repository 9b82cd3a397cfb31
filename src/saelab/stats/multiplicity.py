"""p-values of a family of tests, corrected together: Holm (any false finding) and Benjamini-Hochberg (share of false).

A family is the set of tests one would have reported any of; it is named in the tables beside the corrected p. A test
without a p (None) is not part of the family.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
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


def corrected(table: pl.DataFrame, families: Sequence[str | None]) -> pl.DataFrame:
    """The table with p_holm, p_bh and `family`, which names the family with its number of tests.

    families: one name per row, None where the row is in none. A row without a p is in no family.
    """
    ps: list[float | None] = table["p"].to_list()
    adjusted: dict[str, list[float | None]] = {"p_holm": [None] * len(ps), "p_bh": [None] * len(ps)}
    named: list[str | None] = [None] * len(ps)
    for family in dict.fromkeys(f for f in families if f):
        places = [i for i, f in enumerate(families) if f == family and ps[i] is not None]
        for name, correct in (("p_holm", holm), ("p_bh", benjamini_hochberg)):
            for place, value in zip(places, correct([ps[i] for i in places]), strict=True):
                adjusted[name][place] = value
        for place in places:
            named[place] = f"{len(places)} {family}"
    columns = [pl.Series(k, v, dtype=pl.Float64) for k, v in adjusted.items()]
    return table.with_columns(*columns, pl.Series("family", named, dtype=pl.String))
