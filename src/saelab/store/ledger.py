"""The ledger of a run: one row per cell, in SQLite (WAL), readable by any process of its machine.

A cell is done when its row says so *and* its artefacts still have the recorded checksums. A half-written artefact has
no row, so it is never read. The ledger knows keys, states, timings and files; never what a cell computes.
"""

import json
import os
import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from saelab.core.errors import ArtefactError
from saelab.store.files import sha256_of

SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, owner TEXT, started REAL, seconds REAL, artefacts TEXT NOT NULL DEFAULT '{}', error TEXT
);
"""


@dataclass(frozen=True)
class CellRow:
    """What the ledger holds of a cell. `artefacts` maps a path relative to the run folder to its sha256."""

    key: str
    stage: str
    name: str
    state: str
    attempts: int
    seconds: float | None
    artefacts: dict[str, str]
    error: str | None


class Ledger:
    """The cells of one run folder."""

    def __init__(self, path: Path):
        self.root = path.parent
        self.root.mkdir(parents=True, exist_ok=True)
        self.path = path
        try:
            with self._open() as db:
                db.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise ArtefactError(f"{path} is not a readable ledger: {error}.") from None

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection, None, None]:
        with closing(sqlite3.connect(self.path, timeout=60)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            with db:
                yield db

    def take(self, key: str, stage: str, name: str) -> Literal["taken", "done", "held"]:
        """Take a cell for this process, unless it is done or a living process holds it.

        Between looking at a row and taking it nobody may have finished it: a changed row is looked at again, so two
        launchers never do a cell twice.
        """
        owner = _owner()
        while True:
            seen = self.row(key)
            if seen is not None and self._intact(seen):
                return "done"
            with self._open() as db:
                db.execute("BEGIN IMMEDIATE")
                row = db.execute("SELECT state, attempts, owner FROM cells WHERE key = ?", (key,)).fetchone()
                if (row and row[:2]) != (seen and (seen.state, seen.attempts)):
                    continue
                if row and row[0] == "running" and row[2] != owner and _alive(row[2]):
                    return "held"
                db.execute(
                    "INSERT INTO cells (key, stage, name, state, attempts, owner, started)"
                    " VALUES (?, ?, ?, 'running', 1, ?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET state = 'running', attempts = attempts + 1,"
                    " owner = excluded.owner, started = excluded.started, error = NULL",
                    (key, stage, name, owner, time.time()),
                )
            return "taken"

    def holder(self, key: str) -> tuple[str, bool]:
        """The machine whose process holds a cell, and whether it is this one."""
        with self._open() as db:
            row = db.execute("SELECT owner FROM cells WHERE key = ?", (key,)).fetchone()
        node = str(row[0]).split(":")[0] if row and row[0] else ""
        return node, node in ("", os.uname().nodename)

    def finish(self, key: str, seconds: float, artefacts: Sequence[Path]) -> None:
        """Record a cell as done with the checksums of its files."""
        sums = {str(p.relative_to(self.root)): sha256_of(p) for p in artefacts}
        with self._open() as db:
            db.execute(
                "UPDATE cells SET state = 'done', seconds = ?, artefacts = ?, owner = NULL WHERE key = ?",
                (seconds, json.dumps(sums, sort_keys=True), key),
            )

    def fail(self, key: str, error: str) -> None:
        """Record a cell as failed (or interrupted) with its sentence."""
        with self._open() as db:
            db.execute("UPDATE cells SET state = 'failed', error = ?, owner = NULL WHERE key = ?", (error, key))

    def row(self, key: str) -> CellRow | None:
        """The row of a cell, or None."""
        return next(iter(self._select("WHERE key = ?", (key,))), None)

    def rows(self) -> list[CellRow]:
        """All rows, in the order the cells were first claimed."""
        return self._select("ORDER BY rowid", ())

    def done(self, key: str) -> bool:
        """True when the cell is recorded as done and every artefact still has its checksum."""
        row = self.row(key)
        return row is not None and self._intact(row)

    def _intact(self, row: CellRow) -> bool:
        files = row.artefacts.items()
        return row.state == "done" and all((p := self.root / f).exists() and sha256_of(p) == s for f, s in files)

    def _select(self, clause: str, values: tuple[str, ...]) -> list[CellRow]:
        columns = "key, stage, name, state, attempts, seconds, artefacts, error"
        with self._open() as db:
            found = db.execute(f"SELECT {columns} FROM cells {clause}", values).fetchall()
        return [CellRow(*r[:6], artefacts=json.loads(r[6]), error=r[7]) for r in found]


def _owner() -> str:
    """This process: machine, number, and when it started (a number may be given out again after a crash)."""
    return f"{os.uname().nodename}:{os.getpid()}:{_started(os.getpid())}"


def _started(pid: int) -> str:
    """When a process started, in the system's clock ticks; empty where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _alive(owner: str | None) -> bool:
    """Whether the owner is a living process of this machine; another machine's is taken as living."""
    if not owner:
        return False
    node, pid, started = owner.split(":")
    if node != os.uname().nodename:
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return started == _started(int(pid))
