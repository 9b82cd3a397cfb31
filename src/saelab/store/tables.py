"""Long tables as Parquet: one row per (SAE, feature, item, ...), written atomically, checked when read."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import polars as pl

from saelab.core.errors import ArtefactError
from saelab.store.files import replacing


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Write a frame as Parquet (zstd)."""
    with replacing(path) as temporary:
        table.write_parquet(temporary, compression="zstd")


def plain(reader: Callable[[BytesIO], pl.DataFrame]) -> Callable[[Path], pl.DataFrame]:
    """One of polars' readers, of a path as it stands: by itself it would read `[`, `?` and `*` in it as a pattern."""
    return lambda path: reader(BytesIO(path.read_bytes()))


def read_table(path: Path, columns: Sequence[str] = ()) -> pl.DataFrame:
    """Read Parquet; `columns` are those the caller needs, and a missing one is an `ArtefactError`."""
    try:
        table = pl.read_parquet(path, glob=False)
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing.") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ArtefactError(f"{path} is not a readable Parquet table: {error}.") from None
    absent = [c for c in columns if c not in table.columns]
    if absent:
        raise ArtefactError(f"{path} lacks the columns {', '.join(absent)}; it has {', '.join(table.columns)}.")
    return table
