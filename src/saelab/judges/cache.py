"""Replies of paid judges, kept by the content of the whole request, and a ledger of what was spent.

A key is the sha256 of the canonical request: endpoint, model, messages, parameters, template version, sample index. Any
change of any of them is another key. Each reply is committed on its own (SQLite, WAL), so a killed process loses at
most the calls in flight. Only replies that could be read are kept: a garbled one must not be frozen. The cache knows
text and keys, never what a reply means. API keys are never written.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError
from saelab.store.files import disk_error

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, text TEXT NOT NULL, refused INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS calls (
    model TEXT NOT NULL, key TEXT NOT NULL, outcome TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER
);
"""


@dataclass(frozen=True)
class Spend:
    """What an endpoint was asked and what it charged for. dollars is None where the price is not known."""

    calls: int
    failed_calls: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None = None


@dataclass(frozen=True)
class Kept:
    """A reply: which model gave it, and its text; refused: the sentence of a refusal that came in another field."""

    model: str
    text: str
    refused: bool


def request_key(**content: Any) -> str:
    """The key of a request: sha256 of its JSON with sorted keys."""
    return digest_of(content)


class ReplyCache:
    """Replies and calls in one SQLite file, shared by processes of one machine."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=60, check_same_thread=False)
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            # in WAL mode this still keeps every commit of a killed process, and spares a disk flush per reply
            db.execute("PRAGMA synchronous=NORMAL")
            db.executescript(SCHEMA)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, self._db:
                yield self._db
        except sqlite3.OperationalError as error:
            raise disk_error(OSError(0, str(error)), self.path) from error
        except sqlite3.DatabaseError as error:
            raise ArtefactError(f"{self.path} is not a readable judge cache: {error}.") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def get(self, key: str) -> Kept | None:
        """The reply to a question, or None."""
        with self._open() as db:
            row = db.execute("SELECT model, text, refused FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else Kept(str(row[0]), str(row[1]), bool(row[2]))

    def put(self, key: str, model: str, text: str, *, refused: bool = False) -> None:
        """Keep a reply that could be read, with the id of the model that gave it."""
        with self._open() as db:
            db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", (key, model, text, refused))

    def record(self, model: str, key: str, outcome: str, usage: tuple[int, int] | None) -> None:
        """One HTTP call: its outcome in a word, and (prompt, completion) tokens where the endpoint said."""
        prompt, completion = usage or (None, None)
        with self._open() as db:
            db.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?)", (model, key, outcome, prompt, completion))

    def spend(self, *, price: tuple[float, float] | None = None) -> Spend:
        """All calls on record. price: dollars per million (prompt, completion) tokens."""
        with self._open() as db:
            calls, failed, prompt, completion = db.execute(
                "SELECT COUNT(*), COALESCE(SUM(outcome != 'ok'), 0), COALESCE(SUM(prompt_tokens), 0),"
                " COALESCE(SUM(completion_tokens), 0) FROM calls"
            ).fetchone()
        dollars = None if price is None else (prompt * price[0] + completion * price[1]) / 1e6
        return Spend(calls, failed, prompt, completion, dollars)
