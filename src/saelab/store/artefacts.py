"""A file that a cell leaves, as a table or as a record: how it is read, written and missed. Knows no name of a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from saelab.core.errors import ArtefactError
from saelab.store.files import read_json, write_json
from saelab.store.tables import read_table, write_table


@dataclass(frozen=True)
class Table:
    """A Parquet file."""

    path: Path

    def read(self, columns: Sequence[str] = ()) -> pl.DataFrame:
        """The table; a missing or broken file, or one that lacks one of `columns`, is an `ArtefactError`."""
        return read_table(self.path, columns)

    def write(self, table: pl.DataFrame) -> Path:
        """Write it atomically; returns the path."""
        write_table(self.path, table)
        return self.path

    @property
    def exists(self) -> bool:
        return self.path.exists()


@dataclass(frozen=True)
class Record:
    """A JSON file that holds one object."""

    path: Path

    def read(self) -> dict[str, Any]:
        """The object; a missing or broken file, or one that holds something else, is an `ArtefactError`."""
        found: dict[str, Any] = read_json(self.path)
        if type(found) is not dict:
            raise ArtefactError(f"{self.path} does not hold a JSON object.")
        return found

    def write(self, data: dict[str, Any]) -> Path:
        """Write it atomically; returns the path."""
        write_json(self.path, data)
        return self.path

    @property
    def exists(self) -> bool:
        return self.path.exists()
