"""What the ledger's rows are: their tables, their records, and what a failure of SQLite means for a person.

Must never know what a cell computes, or open anything.
"""

import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saelab.core.errors import ArtefactError, ResourceError, SaelabError, UserError

SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, owner INTEGER, started REAL, seconds REAL, artefacts TEXT NOT NULL DEFAULT '{}',
    error TEXT, own TEXT NOT NULL DEFAULT '{}', consumed TEXT NOT NULL DEFAULT '{}',
    anew INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE IF NOT EXISTS damage (
    stage TEXT NOT NULL, name TEXT NOT NULL, file TEXT NOT NULL, noticed REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS launchers (
    number INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, space TEXT NOT NULL, pid INTEGER NOT NULL,
    started TEXT NOT NULL, host TEXT NOT NULL, beat INTEGER NOT NULL DEFAULT 0
);
"""

LEAST = 1 << 17  # bytes: with less free, an error of the disk is a full disk
CELL = "key, stage, name, state, attempts, seconds, artefacts, error, own, consumed, anew"


@dataclass(frozen=True)
class CellRow:
    """What the ledger holds of a cell.

    artefacts, consumed: sha256 by path relative to the run folder; own: the settings and sums that are its own in its
    key; anew: what a former attempt left was not cleared away yet.
    """

    key: str
    stage: str
    name: str
    state: str
    attempts: int
    seconds: float | None
    artefacts: dict[str, str]
    error: str | None
    own: dict[str, Any]
    consumed: dict[str, str]
    anew: bool


@dataclass(frozen=True)
class Damage:
    """A file of a finished cell that was found changed or missing, and when (seconds since 1970)."""

    stage: str
    name: str
    file: str
    noticed: float


def cell_row(found: tuple[Any, ...]) -> CellRow:
    """A row of the columns `CELL`. Raises `ValueError` or `TypeError` where it is damaged."""
    key, stage, name, state, attempts, seconds, artefacts, error, own, consumed, anew = found
    sums, settings, before = (dict(json.loads(text)) for text in (artefacts, own, consumed))
    return CellRow(key, stage, name, state, attempts, seconds, sums, error, settings, before, bool(anew))


def _room(path: Path) -> int:
    """Bytes that are free where a file lies."""
    try:
        return shutil.disk_usage(path.parent).free
    except OSError:
        return LEAST


def sentence(error: sqlite3.Error, path: Path, locked: str) -> SaelabError:
    """What SQLite's failure means for a person. locked: for how long and by whom, where it was locked."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _room(path) < LEAST):
        return ResourceError(
            f"The disk is full: {path} could not be written.",
            hint="Free some space and run the same command again; finished work is kept.",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ResourceError(
            f"{path} has been locked {locked}.",
            hint="If it is stopped, continue or end it, and run the same command again.",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return UserError(f"{path} cannot be written: {error}.", hint="Name a folder that exists and may be written.")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM):
        return ResourceError(f"{path} could not be read or written: {error}.", hint="Check the disk.")
    return ArtefactError(
        f"{path} is not a readable ledger: {error}.",
        hint="Move it away: the same command makes a new one, and does the run's cells again.",
    )
