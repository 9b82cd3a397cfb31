"""Tables coming in: a file or a frame checked for the columns that are asked for, and numbers with missing rows known.

A missing column is a `UserError` with the nearest names; a null, NaN or infinite number is missing. Nothing here
computes a statistic.
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
    """A column as float64, NaN where it is missing or not finite; text is a `UserError`."""
    require(table, [column])
    dtype = table[column].dtype
    if not (dtype.is_numeric() or dtype == pl.Boolean or dtype == pl.Null):
        raise UserError(
            f"Column {column!r} holds {dtype}, not numbers.",
            hint=nearest(column, [c for c in table.columns if table[c].dtype.is_numeric()]),
        )
    values = table[column].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def labels(table: pl.DataFrame, column: str) -> Shaped[np.ndarray, "N"]:
    """A column of labels as text; a missing label is a `UserError`, since a row without one belongs to no group."""
    require(table, [column])
    absent = table[column].null_count()
    if absent:
        raise UserError(f"{absent} rows have no value in column {column!r}.", hint="Fill them or leave them out.")
    return np.array([label(v) for v in table[column].to_list()], dtype=object)


def label(value: object) -> str:
    """A value as a reader expects it: 50.0 is 50."""
    return f"{value:g}" if isinstance(value, float) else str(value)


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
