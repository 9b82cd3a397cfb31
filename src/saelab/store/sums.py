"""Checksums of what a run reads from outside, and of what it has recorded of its own files.

Sums of inputs (weights, texts) are kept in the cache by the file's place, size, inode and times, so that a large file
is read once; a run's own files are always read. Must never know what a file means.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError
from saelab.store.files import sha256_of
from saelab.store.layout import RunFolder
from saelab.store.references import cache_folder

SCHEMA = "CREATE TABLE IF NOT EXISTS sums (file TEXT PRIMARY KEY, state TEXT NOT NULL, sha256 TEXT NOT NULL)"
FRESH = 2.0  # seconds: a file that changed so recently may change again within the clock's step
DEEPEST = 5  # folders of a run one inside the other


def input_sum(files: Iterable[tuple[str, Path]]) -> str:
    """One sum of named files: of their names and bytes, in any order."""
    found = sorted(files)
    return digest_of(list(zip([name for name, _ in found], _sums([path for _, path in found]), strict=True)))


def _sums(paths: Sequence[Path]) -> list[str]:
    try:
        place = cache_folder()
        place.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(place / "sums.sqlite", timeout=5)) as db, db:
            db.execute(SCHEMA)
            return [_known(path, db) for path in paths]
    except (OSError, sqlite3.Error):  # no room for a cache, or a damaged one: it only saves time
        return [sha256_of(path) for path in paths]


def _known(path: Path, db: sqlite3.Connection) -> str:
    at = path.stat()
    file, state = str(path.resolve()), f"{at.st_size} {at.st_ino} {at.st_dev} {at.st_mtime_ns} {at.st_ctime_ns}"
    row = db.execute("SELECT sha256 FROM sums WHERE file = ? AND state = ?", (file, state)).fetchone()
    if row is not None:
        return str(row[0])
    found = sha256_of(path)
    if time.time() - max(at.st_mtime, at.st_ctime) > FRESH:
        db.execute("INSERT OR REPLACE INTO sums VALUES (?, ?, ?)", (file, state, found))
    return found


def recorded(root: Path) -> dict[str, str]:
    """sha256 by name of every file that a run has recorded as finished; empty where there is no ledger."""
    path = RunFolder(root).ledger
    if not path.is_file():
        return {}
    for mode in ("mode=ro", "immutable=1"):  # the second reads where nothing may be written beside it
        with suppress(sqlite3.OperationalError):
            try:
                with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", uri=True)) as db:
                    rows = db.execute("SELECT artefacts FROM cells WHERE state = 'done'").fetchall()
                return {name: known for (row,) in rows for name, known in json.loads(row).items()}
            except (sqlite3.DatabaseError, ValueError) as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise
                raise ArtefactError(f"{path} is not a readable ledger: {error}.") from None
    return {}


def check_recorded(path: Path) -> None:
    """Refuse a file, or a folder's files, of a run that are not what the run recorded; others pass."""
    path = path.absolute()
    for root in path.parents[:DEEPEST]:
        if RunFolder(root).ledger.is_file():
            within = path.relative_to(root)
            known = recorded(root)
            check_files(root, {n: s for n, s in known.items() if Path(n) == within or within in Path(n).parents})
            return


def check_run(run: RunFolder) -> None:
    """Refuse a run of which a table or record, the files that are read to be shown, is not what it recorded."""
    large = {f.name for f in (run.tokens(""), run.activations(""), run.saes, run.readings(""))}
    check_files(run.root, {n: s for n, s in recorded(run.root).items() if Path(n).parts[0] not in large})


def check_files(root: Path, known: dict[str, str]) -> None:
    """Raise `ArtefactError` that names the files that are there and are not what was recorded."""
    wrong = [name for name, sum_ in known.items() if (root / name).is_file() and sha256_of(root / name) != sum_]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ArtefactError(
            f"{', '.join(wrong[:3])}{more} in {root} {'is' if len(wrong) == 1 else 'are'} damaged: the sha256 is not "
            "the one that was recorded.",
            hint="`saelab run` on the same study and folder makes damaged files again.",
        )
