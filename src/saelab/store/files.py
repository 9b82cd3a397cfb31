"""Atomic writes: a reader sees the old file or the whole new one, never half.

Every artefact is written through `replacing`: a temporary file in the same folder, flushed to disk, renamed, and the
folder flushed. A full disk is an error with a sentence, and what was there before stays.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saelab.core.errors import ArtefactError, ResourceError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes `path`'s place, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")  # no process id: what a killed writer left is written over
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    except Exception as error:
        # Libraries below (safetensors, polars) wrap ENOSPC in errors of their own.
        if "No space left" in str(error) or "os error 28" in str(error):
            raise disk_error(OSError(errno.ENOSPC, "No space left"), path) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def disk_error(error: OSError, path: Path) -> ResourceError:
    """The sentence for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"The disk is full: {path} could not be written.",
            hint="Free some space and run the same command again; finished work is kept.",
        )
    return ResourceError(f"{path} could not be written: {error.strerror or error}.")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically, indented, keys in the given order. NaN is refused: a missing number is null."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is an `ArtefactError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing.") from None
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8, numbers of thousands of digits
        raise ArtefactError(f"{path} is not valid JSON: {error}.") from None


def sha256_of(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
