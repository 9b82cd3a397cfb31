"""The ledger of a run: one row per cell, in SQLite (WAL), readable by any process of its machine.

A cell is done when its row says so *and* its artefacts, of which it has some, still have the recorded checksums, *and*
so has what it consumed. A half-written artefact has no row, so it is never read. Cells are held by launchers with a
lease (leases.py): one that has lost its lease, because it was stopped for so long that another took over, neither
finishes a cell nor puts a file in place. The ledger knows keys, states, timings and files; never what a cell computes.
"""

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Literal

from saelab.core.errors import ResourceError, SaelabError, UserError
from saelab.store import leases
from saelab.store.files import guarded, sha256_of, sweep, unlinked
from saelab.store.leases import Launcher, Watch
from saelab.store.rows import CELL, SCHEMA, CellRow, Damage, cell_row, sentence

WAIT = 60.0  # seconds for another process that writes
_LIVING: set[int] = set()  # numbers of this process's own launchers; others with its process number are left over


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
        self.begun_anew: set[str] = set()  # cells taken here of which no attempt of the same key was broken off
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

    def take(
        self,
        key: str,
        stage: str,
        name: str,
        *,
        own: Mapping[str, Any] | None = None,
        consumed: Mapping[str, str] | None = None,
    ) -> Literal["taken", "done", "held"]:
        """Take a cell for this launcher, unless it is done or a living launcher holds it.

        own: what is its own in its key; consumed: the sums of what it reads of other cells. A finished cell whose files
        have changed is taken again, and the files are noted. Between looking at a row and taking it nobody may have
        finished it: a changed row is looked at again, so two launchers never do a cell twice. Raises `ResourceError`
        where this launcher has lost its lease, `UserError` where another does the cell of other settings.
        """
        while True:
            seen = self.row(key)
            finished = seen is not None and seen.state == "done"
            bad = self.damaged(seen.artefacts) if seen is not None and finished else []
            same = seen is not None and (consumed is None or seen.consumed == consumed)
            if finished and same and seen is not None and seen.artefacts and not bad:
                return "done"
            anew = seen is None or finished or seen.anew
            with self._write() as db:
                row = db.execute("SELECT state, attempts, owner FROM cells WHERE key = ?", (key,)).fetchone()
                if (row and row[:2]) != (seen and (seen.state, seen.attempts)):
                    continue
                if row and row[0] == "running" and row[2] != self._number and self._lives(db, row[2]):
                    return "held"
                self._only(db, key, stage, name)
                values = (json.dumps(own or {}, sort_keys=True), json.dumps(consumed or {}, sort_keys=True), anew)
                db.execute(
                    "INSERT INTO cells (key, stage, name, state, attempts, owner, started, own, consumed, anew)"
                    " VALUES (?, ?, ?, 'running', 1, ?, ?, ?, ?, ?)"
                    " ON CONFLICT (key) DO UPDATE SET state = 'running', attempts = attempts + 1, error = NULL,"
                    " owner = excluded.owner, started = excluded.started, own = excluded.own,"
                    " consumed = excluded.consumed, anew = excluded.anew",
                    (key, stage, name, self._enlist(db), time.time(), *values),
                )
                now = time.time()
                db.executemany("INSERT INTO damage VALUES (?, ?, ?, ?)", [(stage, name, file, now) for file in bad])
            (self.begun_anew.add if anew else self.begun_anew.discard)(key)
            return "taken"

    def cleared(self, key: str) -> None:
        """Nothing of a former attempt lies where a cell writes; what it leaves from now on is its own."""
        self.begun_anew.discard(key)
        with self._write() as db:
            db.execute("UPDATE cells SET anew = 0 WHERE key = ? AND owner = ?", (key, self._number))

    def _only(self, db: sqlite3.Connection, key: str, stage: str, name: str) -> None:
        """There is one cell of a stage and name: what failed under another key goes, what stands is refused."""
        others = db.execute(
            "SELECT key, state, owner FROM cells WHERE stage = ? AND name = ? AND key != ?", (stage, name, key)
        ).fetchall()
        for other, state, owner in others:
            if state == "done" or (state == "running" and self._lives(db, owner)):
                raise UserError(
                    f"Another launcher works on {self.root} with other settings: of {stage} {name}.",
                    hint="Give this study a folder of its own with --out.",
                )
            db.execute("DELETE FROM cells WHERE key = ?", (other,))

    def drop(self, keys: Iterable[str]) -> None:
        """Forget cells that no launcher is at. Raises `UserError` where a living one is."""
        with self._write() as db:
            for key in keys:
                row = db.execute("SELECT stage, name, state, owner FROM cells WHERE key = ?", (key,)).fetchone()
                if row and row[2] == "running" and self._lives(db, row[3]):
                    raise UserError(
                        f"Another launcher is at {row[0]} {row[1]} in {self.root}, with other settings.",
                        hint="Give this study a folder of its own with --out, or wait.",
                    )
                db.execute("DELETE FROM cells WHERE key = ?", (key,))

    def reopen(self, key: str) -> None:
        """A finished cell is to be done again, though nothing of it is damaged."""
        with self._write() as db:
            change = "UPDATE cells SET state = 'failed', error = 'to be done again' WHERE key = ? AND state = 'done'"
            db.execute(change, (key,))

    def damages(self) -> list[Damage]:
        """All that was ever found damaged and done again, oldest first."""
        with self._open() as db:
            rows = db.execute("SELECT stage, name, file, noticed FROM damage ORDER BY noticed, file").fetchall()
        return [Damage(*row) for row in rows]

    def damaged(self, known: Mapping[str, str]) -> list[str]:
        """Which of these files are missing, cannot be read, or have another sum."""
        return [name for name, sum_ in known.items() if not _is(self.root / name, sum_)]

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

    def alone(self) -> bool:
        """Sign this launcher in; whether no other one lives. Of two that come at once, the first is alone."""
        with self._write() as db:
            self._enlist(db)
            return self._alone(db)

    def _alone(self, db: sqlite3.Connection) -> bool:
        numbers = [number for (number,) in db.execute("SELECT number FROM launchers").fetchall()]
        return not any([self._lives(db, number) for number in numbers if number != self._number])

    def _enlist(self, db: sqlite3.Connection) -> int:
        """This launcher's number; the first time, sign it in and start its heartbeat."""
        if self._number is not None:
            self._check(db)
            return self._number
        alone = self._alone(db)
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
        return sentence(error, self.path, f"for {WAIT:g} seconds by {self._others()}")

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
        return row is not None and row.state == "done" and bool(row.artefacts) and not self.damaged(row.artefacts)

    def _select(self, clause: str, values: tuple[str, ...]) -> list[CellRow]:
        with self._open() as db:
            found = db.execute(f"SELECT {CELL} FROM cells {clause}", values).fetchall()
        try:
            return [cell_row(row) for row in found]
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
