"""The local cache: where it lies, and the sums of files that are read from it or from the user's own folders.

Sums of large files (weights, texts) are kept by the file's place, size, inode and times, so that each is read once. A
file from the Hugging Face hub has its sum for a name there. Must never know what a file means.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError
from saelab.store.files import sha256_of

SCHEMA = "CREATE TABLE IF NOT EXISTS sums (file TEXT PRIMARY KEY, state TEXT NOT NULL, sha256 TEXT NOT NULL)"
FRESH = 2.0  # seconds: a file that changed so recently may change again within the clock's step
SHA256, SHA1 = 64, 40  # hex digits


def cache_folder() -> Path:
    """Where fetched files are kept: $SAELAB_CACHE, else $XDG_CACHE_HOME/saelab, else ~/.cache/saelab."""
    if own := os.environ.get("SAELAB_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "saelab"


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


def check_blobs(paths: Iterable[Path]) -> None:
    """Refuse a file of the hub's cache that is not what its name there says.

    A link leads to a blob that is called by the sha256 of its bytes (large files) or by a sha1 (others); where a
    system has no links there is nothing to compare with. Raises `ArtefactError`.
    """
    blobs = [path.resolve() for path in paths if path.is_symlink()]
    large = [b for b in blobs if len(b.name) == SHA256]
    wrong = [blob for blob, sum_ in zip(large, _sums(large), strict=True) if sum_ != blob.name]
    wrong += [b for b in blobs if len(b.name) == SHA1 and b.name not in _small_sums(b.read_bytes())]
    if wrong:
        raise ArtefactError(
            f"{wrong[0]} is damaged: its sum is not the one that it is called by.",
            hint="Remove it and run again: it is fetched anew.",
        )


def _small_sums(content: bytes) -> list[str]:
    """git's sum of a file, and the plain one that some mirrors give."""
    heads = (b"blob %d\0" % len(content), b"")
    return [hashlib.sha1(head + content, usedforsecurity=False).hexdigest() for head in heads]
