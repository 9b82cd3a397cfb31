"""The ledger of a run: one row per cell, in SQLite (WAL), readable by any process of its machine.

A cell is done when its row says so *and* its artefacts still have the recorded checksums. A half-written artefact has
no row, so it is never read. Cells are held by launchers with a lease (leases.py): one that has lost its lease, because
it was stopped for so long that another took over, neither finishes a cell nor puts a file in place. The ledger knows
keys, states, timings and files; never what a cell computes.
"""

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from saelab.core.errors import ArtefactError, ResourceError, SaelabError, UserError
from saelab.store import leases
from saelab.store.files import guarded, sha256_of, sweep, unlinked
from saelab.store.leases import Launcher, Watch

SCHEMA = """
CREATE TABLE IF NOT EXISTS cells (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, owner INTEGER, started REAL, seconds REAL, artefacts TEXT NOT NULL DEFAULT '{}',
    error TEXT
);
CREATE TABLE IF NOT EXISTS launchers (
    number INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL, space TEXT NOT NULL, pid INTEGER NOT NULL,
    started TEXT NOT NULL, host TEXT NOT NULL, beat INTEGER NOT NULL DEFAULT 0
);
"""
WAIT = 60.0  # seconds for another process that writes
_LIVING: set[int] = set()  # numbers of this process's own launchers; others with its process number are left over


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


@dataclass(frozen=True)
class Holder:
    """Who holds a cell. elsewhere: a machine other than this one, seen alive."""

    launcher: Launcher
    elsewhere: bool


class Ledger:
    """The cells of one run folder, as one launcher sees and holds them. `close` gives back what it holds."""

    def __init__(self, path: Path):
        self.root, self.path = path.parent, path
        self._number: int | None = None  # the fencing number: it grows with every lease of this folder
        self._lost, self._watch = False, Watch()
        unlinked(path)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.root} cannot be made: {error.strerror}.", hint="Name another folder.") from None
        with self._open() as db:
            db.executescript(SCHEMA)

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection, None, None]:
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT)) as db:
                db.execute("PRAGMA journal_mode=WAL")
                with db:
                    yield db
        except sqlite3.Error as error:
            raise self._sentence(error) from error

    @contextmanager
    def _write(self) -> Generator[sqlite3.Connection, None, None]:
        """A transaction in which nobody else writes."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db

    def take(self, key: str, stage: str, name: str) -> Literal["taken", "done", "held"]:
        """Take a cell for this launcher, unless it is done or a living launcher holds it.

        Between looking at a row and taking it nobody may have finished it: a changed row is looked at again, so two
        launchers never do a cell twice. Raises `ResourceError` where this launcher has lost its lease.
        """
        while True:
            seen = self.row(key)
            if seen is not None and self._intact(seen):
                return "done"
            with self._write() as db:
                row = db.execute("SELECT state, attempts, owner FROM cells WHERE key = ?", (key,)).fetchone()
                if (row and row[:2]) != (seen and (seen.state, seen.attempts)):
                    continue
                if row and row[0] == "running" and row[2] != self._number and self._lives(db, row[2]):
                    return "held"
                db.execute(
                    "INSERT INTO cells (key, stage, name, state, attempts, owner, started)"
                    " VALUES (?, ?, ?, 'running', 1, ?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET state = 'running', attempts = attempts + 1,"
                    " owner = excluded.owner, started = excluded.started, error = NULL",
                    (key, stage, name, self._enlist(db), time.time()),
                )
            return "taken"

    def holder(self, key: str) -> Holder | None:
        """Who holds a cell; None where nobody does."""
        with self._open() as db:
            row = db.execute(
                "SELECT number, boot, space, pid, started, host FROM launchers"
                " WHERE number = (SELECT owner FROM cells WHERE key = ?)", (key,)).fetchone()  # fmt: skip
        if row is None:
            return None
        launcher = Launcher(*row[1:])
        return Holder(launcher, launcher.elsewhere and row[0] in self._watch.moved)

    def finish(self, key: str, seconds: float, artefacts: Sequence[Path]) -> None:
        """Record a cell as done with the checksums of its files. Raises `ResourceError` where the lease was lost."""
        sums = {str(p.relative_to(self.root)): sha256_of(p) for p in artefacts}
        with self._write() as db:
            self._check(db)
            done = db.execute(
                "UPDATE cells SET state = 'done', seconds = ?, artefacts = ?, owner = NULL, error = NULL"
                " WHERE key = ? AND owner = ?",
                (seconds, json.dumps(sums, sort_keys=True), key, self._number),
            )
            if not done.rowcount:
                raise self._gone()

    def fail(self, key: str, error: str) -> None:
        """Record a cell that this launcher holds as failed (or interrupted) with its sentence."""
        with self._write() as db:
            db.execute(
                "UPDATE cells SET state = 'failed', error = ?, owner = NULL WHERE key = ? AND owner = ?",
                (error, key, self._number),
            )

    def close(self) -> None:
        """Give back what this launcher holds; a cell that it did not finish is anybody's."""
        number, self._number = self._number, None
        if number is None:
            return
        _forget(self.root, number)
        with suppress(SaelabError), self._write() as db:  # what holds it is gone either way
            _evict(db, number, "stopped")

    def _enlist(self, db: sqlite3.Connection) -> int:
        """This launcher's number; the first time, sign it in and start its heartbeat."""
        if self._number is not None:
            self._check(db)
            return self._number
        others = db.execute("SELECT number FROM launchers").fetchall()
        alone = not any([self._lives(db, number) for (number,) in others])
        made = db.execute(
            "INSERT INTO launchers (boot, space, pid, started, host) VALUES (?, ?, ?, ?, ?)", astuple(Launcher.here())
        )
        self._number = number = int(made.lastrowid or 0)
        held = weakref.ref(self)  # a ledger that is dropped holds nothing
        _LIVING.add(number)
        guarded[self.root] = lambda: ledger.publishing() if (ledger := held()) else nullcontext()
        weakref.finalize(self, _forget, self.root, number)
        if alone:
            sweep(self.root)
        threading.Thread(target=_beat, args=(weakref.ref(self),), name="heartbeat", daemon=True).start()
        return number

    def _lives(self, db: sqlite3.Connection, number: int | None) -> bool:
        """Whether the launcher of this number may still work; one that is gone is signed out, its cells are free."""
        columns = "boot, space, pid, started, host, beat"
        row = db.execute(f"SELECT {columns} FROM launchers WHERE number = ?", (number,)).fetchone()
        if row is None or number is None:
            return False
        launcher = Launcher(*row[:5])
        state = launcher.state()
        if state == "living" and launcher.pid == os.getpid() and number not in _LIVING:
            state = "dead"  # of this process, which has given it up
        if state == "living" or (state == "unsure" and not self._watch.silent(number, row[5])):
            return True
        _evict(db, number, f"{launcher} is gone")
        return False

    @contextmanager
    def publishing(self) -> Generator[None, None, None]:
        """While a file takes its place: nobody can take over meanwhile. Raises `ResourceError` where one has."""
        if self._number is None and not self._lost:
            yield
            return
        with self._write() as db:
            self._check(db)
            yield

    def _check(self, db: sqlite3.Connection) -> None:
        if self._lost or not db.execute("SELECT 1 FROM launchers WHERE number = ?", (self._number,)).fetchone():
            raise self._gone()

    def _gone(self) -> ResourceError:
        self._lost = True
        return ResourceError(
            f"This launcher stood still for so long that another took over {self.root}; it writes nothing more.",
            hint="Run the same command again: it goes on where the other is.",
        )

    def beat(self) -> bool:
        """Count the heartbeat on; False where there is nothing left to hold."""
        if self._number is None or self._lost:
            return False
        with suppress(SaelabError), self._open() as db:  # a full disk does not end the work: it may have room again
            done = db.execute("UPDATE launchers SET beat = beat + 1 WHERE number = ?", (self._number,))
            self._lost = not done.rowcount
        return not self._lost

    def _sentence(self, error: sqlite3.Error) -> SaelabError:
        """What SQLite's failure means for a person."""
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return ResourceError(
                f"The disk is full: {self.path} could not be written.",
                hint="Free some space and run the same command again; finished work is kept.",
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return ResourceError(
                f"{self.path} has been locked for {WAIT:g} seconds by {self._others()}.",
                hint="If it is stopped, continue or end it, and run the same command again.",
            )
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
            return UserError(
                f"{self.path} cannot be written: {error}.", hint="Name a folder that exists and may be written."
            )
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM):
            return ResourceError(f"{self.path} could not be read or written: {error}.", hint="Check the disk.")
        return ArtefactError(
            f"{self.path} is not a readable ledger: {error}.",
            hint="Move it away: the same command makes a new one, and does the run's cells again.",
        )

    def _others(self) -> str:
        """The launchers that are signed in, in words."""
        with suppress(sqlite3.Error), closing(sqlite3.connect(self.path, timeout=1)) as db:
            rows = db.execute("SELECT boot, space, pid, started, host FROM launchers").fetchall()
            if rows:
                return " or ".join(str(Launcher(*row)) for row in rows)
        return "another process"

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
        return row.state == "done" and all(_is(self.root / name, known) for name, known in row.artefacts.items())

    def _select(self, clause: str, values: tuple[str, ...]) -> list[CellRow]:
        columns = "key, stage, name, state, attempts, seconds, artefacts, error"
        with self._open() as db:
            found = db.execute(f"SELECT {columns} FROM cells {clause}", values).fetchall()
        try:
            return [CellRow(*r[:6], artefacts=dict(json.loads(r[6])), error=r[7]) for r in found]
        except (ValueError, TypeError) as error:
            raise self._sentence(sqlite3.DatabaseError(str(error))) from None


def _forget(root: Path, number: int) -> None:
    """Of this process: a launcher that it has given up."""
    _LIVING.discard(number)
    guarded.pop(root, None)


def _evict(db: sqlite3.Connection, number: int, reason: str) -> None:
    """Sign a launcher out; what it held is free."""
    db.execute("DELETE FROM launchers WHERE number = ?", (number,))
    db.execute(
        "UPDATE cells SET state = 'failed', error = ?, owner = NULL WHERE owner = ? AND state = 'running'",
        (reason, number),
    )


def _is(path: Path, known: str) -> bool:
    """Whether a file is there, can be read, and has this checksum."""
    try:
        return sha256_of(path) == known
    except OSError:
        return False


def _beat(held: "weakref.ref[Ledger]") -> None:
    """The heartbeat's thread: it ends with the ledger."""
    while True:
        time.sleep(leases.BEAT)
        ledger = held()
        if ledger is None or not ledger.beat():
            return
        del ledger
