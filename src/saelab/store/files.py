"""Atomic writes: a reader sees the old file or the whole new one, never half.

Every artefact is written through `replacing`: a temporary file of a name of its own in the same folder, flushed to
disk, renamed, and the folder flushed. A full disk is an error with a sentence, and what was there before stays.
Inside a folder of `guarded` nothing is written through a link, and a file takes its place only while the guard lets it.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from saelab.core.errors import ArtefactError, ResourceError, SaelabError, UserError

PART = ".part"  # the end of a temporary file's name
# Folders in which a file may take its place only while this lets it (a ledger's lease). Filled by whoever holds one.
guarded: dict[Path, Callable[[], AbstractContextManager[None]]] = {}


@contextmanager
def replacing(path: Path) -> Generator[Path, None, None]:
    """Yield a temporary path beside `path`; on success it takes `path`'s place, on failure it is removed.

    Two writers of one path do not meet: the last to finish wins, with a whole file.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}{PART}")
    root = next((folder for folder in guarded if folder in path.parents), None)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if root is not None:
            unlinked(*(p for p in path.parents if root in p.parents))
        # Made here and by nobody else: whatever lies under this name already is not written to.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666))
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        with guarded[root]() if root is not None else nullcontext():
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


def unlinked(*paths: Path) -> None:
    """Refuse to write through a link: one that came with a folder may point at anything of the user's."""
    if found := [p for p in paths if p.is_symlink()]:
        raise UserError(
            f"{found[0]} is a link; nothing is written through one inside a run folder.",
            hint="Put the whole run folder where there is room, or name another with --out.",
        )


def sweep(root: Path) -> None:
    """Remove what killed writers left in a folder and those below it, links not followed."""
    for folder, _, files in os.walk(root):
        for name in files:
            if name.startswith(".") and name.endswith(PART):
                with suppress(OSError):
                    Path(folder, name).unlink()


@contextmanager
def filling(target: Path, *, replace: bool = False) -> Generator[Path, None, None]:
    """Yield a new folder; on success its files move to `target`, on failure what `target` held is there as before.

    Raises `UserError` where `target` holds anything: with `replace`, only where it is no folder or holds folders, so
    that no more than one folder's files can be lost.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100  (resolve() would follow a link that is to be kept)
    held = contents(target)
    lost = [name for name in held if not (target / name).is_file() or (target / name).is_symlink()]
    if held and (lost or not replace):
        shown = ", ".join(held[:5]) + (f" and {len(held) - 5} more" if len(held) > 5 else "")
        end = f"{lost[0]} is no plain file, and only those are replaced." if replace else "nothing was written."
        raise UserError(
            f"{target} already holds {shown}; {end}",
            hint="Name an empty folder." if replace else "Name an empty folder, or give these files up with --replace.",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A folder that is there may be a mount or a link: inside it, every move stays on one device.
        place = target if target.is_dir() else target.parent
        work = Path(tempfile.mkdtemp(dir=place, prefix=".saelab-"))
        made, former = work / "made", work / "former"
        try:
            made.mkdir()
            former.mkdir()
            yield made
            target.mkdir(exist_ok=True)
            _swap(target, held, made, former)
        except BaseException:
            if former.is_dir() and any(former.iterdir()):  # they could not be put back, and are kept here
                raise ResourceError(f"{target} could not be restored; its files lie in {former}.") from None
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work)
    except OSError as error:
        raise disk_error(error, target) from error


def _swap(target: Path, held: list[str], made: Path, former: Path) -> None:
    """Move what is held to `former` and what was made to `target`; on failure, all of it back."""
    new = sorted(p.name for p in made.iterdir())
    moves = [(target / n, former / n) for n in held] + [(made / n, target / n) for n in new]
    done: list[tuple[Path, Path]] = []
    try:
        for source, place in moves:
            source.rename(place)
            done.append((source, place))
    except BaseException:
        for source, place in reversed(done):
            with suppress(OSError):
                place.rename(source)
        raise


def apart(target: Path, source: Path, *read: Path) -> None:
    """Refuse to write to `target` where that could harm what is read; nothing has been touched then.

    source: a folder whose files are read, at any depth, or a file, read with those beside it. read: other files.
    Raises `UserError` where one of them, with links followed, lies in the target, and where the target lies in the
    source's folder (beside a file, an empty folder may).
    """
    home = (source if source.is_dir() else source.parent).resolve()
    place = target.resolve()
    if place == home:
        fault = "is where the source's files lie"
    elif place in home.parents:
        fault = f"holds the source, {source}"
    elif home in place.parents and (source.is_dir() or contents(target)):
        fault = f"lies in the source, {home}"
    elif contents(target) and (inside := [f for f in (*_files(source), *read) if place in f.resolve().parents]):
        fault = f"holds {inside[0].resolve().name}, which is read"
    else:
        return
    raise UserError(f"{target} {fault}; nothing was written.", hint="Name another folder.")


def _files(source: Path) -> Iterator[Path]:
    """The files of a folder at any depth, links to folders followed once; of a file, it and those beside it."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(source if source.is_dir() else source.parent, followlinks=source.is_dir()):
        seen.add(os.path.realpath(folder))
        folders[:] = [f for f in folders if source.is_dir() and os.path.realpath(Path(folder, f)) not in seen]
        yield from (Path(folder, f) for f in files)


def is_there(name: str | Path, end: str = "") -> bool:
    """Is there anything of this name? With the end "/", a folder? False too of a name that no disk can hold."""
    return os.path.exists(f"{name}{end}")  # noqa: PTH110  (Path.exists fails on a name that is too long)


def contents(folder: Path) -> list[str]:
    """Names of all that a folder holds, sorted; none where there is no folder. A file is a `UserError`."""
    there = is_there(folder, "/")
    if not there and os.path.lexists(folder):
        raise UserError(f"{folder} is a file, and a folder is to be written there.", hint="Name another place.")
    return sorted(p.name for p in folder.iterdir()) if there else []


UNWRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


def disk_error(error: OSError, path: Path) -> SaelabError:
    """The sentence for a failed write: a full or broken disk is a `ResourceError`, the wrong folder a `UserError`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"The disk is full: {path} could not be written.",
            hint="Free some space and run the same command again; finished work is kept.",
        )
    kind = UserError if error.errno in UNWRITABLE else ResourceError
    return kind(
        f"{path} could not be written: {error.strerror or error}.",
        hint="Name a folder that exists, may be written and has a shorter name, or mend this one.",
    )


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
