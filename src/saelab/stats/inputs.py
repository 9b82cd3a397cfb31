"""Tables coming in: a file or a frame checked for the columns that are asked for, and numbers with missing rows known.

A missing column is a `UserError` with the nearest names; a null, NaN or infinite number is missing; numbers that differ
by rounding alone are one number (`TIED`). Nothing here computes a statistic.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from saelab.core.errors import ArtefactError, UserError, nearest
from saelab.store.tables import plain, read_table

READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": read_table,
    ".csv": plain(pl.read_csv),
    ".tsv": plain(partial(pl.read_csv, separator="\t")),
    ".jsonl": plain(pl.read_ndjson),
}


TIED = 1e-9  # two numbers are tied that differ by less than this share of the column's largest magnitude


def open_table(path: Path) -> pl.DataFrame:
    """Read .parquet, .csv, .tsv or .jsonl; a missing file or another ending is a `UserError`."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.", hint="Check the path.")
    if path.suffix not in READERS:
        raise UserError(f"{path.name} is not a table saelab reads.", hint=f"Give one of {', '.join(READERS)}.")
    try:
        return READERS[path.suffix](path)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path} is not a readable {path.suffix[1:]} table: {error}.") from None


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
            f"Column {column!r} holds {dtype}, not numbers.",
            hint=nearest(column, [c for c in table.columns if table[c].dtype.is_numeric()]),
        )
    values = table[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return tied(np.where(np.isfinite(values), values, np.nan))


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
