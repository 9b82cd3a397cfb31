"""Frames coming in: checked for the columns that are asked for, and numbers with missing rows known.

A missing column is a `UserError` with the nearest names; a null, NaN or infinite number is missing; numbers that differ
by rounding alone are one number (`TIED`). Nothing here computes a statistic.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from saelab.core.errors import UserError, nearest
from saelab.stats.table_files import is_number

TIED = 1e-9  # two numbers are tied that differ by less than this share of the column's largest magnitude


def require(table: pl.DataFrame, columns: Sequence[str]) -> None:
    """A `UserError` with the nearest names for the first column that the table lacks."""
    for column in columns:
        if column not in table.columns:
            raise UserError(f"The table has no column {column!r}.", hint=nearest(column, table.columns))


def numbers(table: pl.DataFrame, column: str) -> Float[np.ndarray, "N"]:
    """A column as float64, NaN where it is missing or not finite, ties made exact; text is a `UserError`."""
    require(table, [column])
    dtype = table[column].dtype
    if not (dtype.is_numeric() or dtype == pl.Boolean or dtype == pl.Null):
        raise UserError(
            f"Column {column!r} holds {_no_number(table[column])}, not numbers.",
            hint=nearest(column, [c for c in table.columns if table[c].dtype.is_numeric()]),
        )
    values = table[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return tied(np.where(np.isfinite(values), values, np.nan))


def _no_number(values: pl.Series) -> str:
    """The first value of a column that is no number, with its row."""
    if values.dtype != pl.String:
        return str(values.dtype)
    wrong = [(i, v) for i, v in enumerate(values.to_list()) if v is not None and not is_number(v)]
    more = f" and in {len(wrong) - 1} more rows" if wrong[1:] else ""
    return f"{wrong[0][1]!r} in row {wrong[0][0] + 1}{more}" if wrong else "text"


def one_row_each(table: pl.DataFrame, names: Sequence[str] = ("sae", "name", "id")) -> None:
    """A `UserError` where a table of SAEs names one twice: its first column of these names tells rows apart."""
    column = next((n for n in names if n in table.columns), None)
    if column is None or table[column].dtype.is_float():
        return
    values = table[column].to_list()
    seen: dict[object, int] = {}
    for i, value in enumerate(values):
        if value is not None and (first := seen.setdefault(value, i)) != i:
            raise UserError(
                f"{column} {str(value)!r} stands in rows {first + 1} and {i + 1}.",
                hint="Keep one row per SAE; of a table of features ask with --features (feature_agreement).",
            )


def tied(values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """The values with each that is nearer than `TIED` to the next smaller one set to it; NaN stays.

    0.1 + 0.2 and 0.3 are one score: without this the last digit of a sum would decide a pair's order.
    """
    known = np.flatnonzero(np.isfinite(values))
    if known.size == 0:
        return values
    order = known[np.argsort(values[known], kind="stable")]
    ordered = values[order]
    first = np.concatenate([[True], np.diff(ordered) > TIED * np.abs(ordered).max()])
    found = values.copy()
    found[order] = ordered[first][np.cumsum(first) - 1]
    return found


def labels(table: pl.DataFrame, column: str) -> Shaped[np.ndarray, "N"]:
    """A column of labels as text; a missing label is a `UserError`, since a row without one belongs to no group."""
    require(table, [column])
    values = table[column].to_list()
    absent = [i for i, v in enumerate(values) if v is None or v != v]  # NaN is not equal to itself
    if absent:
        more = f" (and {len(absent) - 1} more)" if absent[1:] else ""
        raise UserError(
            f"Row {absent[0] + 1}{more} has no value in column {column!r}.", hint="Fill it or leave it out."
        )
    return np.array([label(v) for v in values], dtype=object)


def label(value: object) -> str:
    """A value as a reader expects it, exactly: 50.0 is 50, and 1234567.0 is not 1234568.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def complete(table: pl.DataFrame, columns: Sequence[str], sort: Sequence[str] = ()) -> tuple[pl.DataFrame, int]:
    """The rows in which every one of the numeric columns is there, and how many were left out.

    Sorted by `sort` and the columns, so that what is drawn for a row does not depend on where it stood.
    """
    require(table, sort)
    keep = np.ones(table.height, dtype=bool)
    for column in columns:
        keep &= np.isfinite(numbers(table, column))
    kept = table.filter(pl.Series(keep, dtype=pl.Boolean))
    return kept.sort(list(dict.fromkeys([*sort, *columns]))), int((~keep).sum())
