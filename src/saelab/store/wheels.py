"""Wheels as archives of data: downloaded without running anything, checked, unpacked within limits, vouched for.

Only wheels are taken (`--only-binary`): a source distribution runs its own code when pip merely looks at it. The sum of
a wheel is checked before it is opened, and those of its files whenever they are read from the cache. A folder of the
cache is whole or not there. None of a wheel's code is imported or run.
"""

import base64
import csv
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from saelab.core.errors import ArtefactError, FetchError
from saelab.store.archives import check_archive
from saelab.store.files import disk_error, sha256_of, write_text
from saelab.store.paths import inside

SEAL = ".complete"  # the wheel's sum, then the sum and the name of each file

_SEEN: dict[str, tuple[tuple[int, int, int], str]] = {}  # sums of this process, as long as the files stay as they are


def sum_of(path: Path) -> str:
    """sha256 (hex) of a file, read once in a process as long as its size, time and place stay the same."""
    about = path.stat()
    state = (about.st_mtime_ns, about.st_size, about.st_ino)
    known = _SEEN.get(str(path))
    if known is None or known[0] != state:
        known = _SEEN[str(path)] = (state, sha256_of(path))
    return known[1]


def sealed(folder: Path) -> str | None:
    """The sum of the wheel that a folder of the cache was unpacked from; None where it holds no whole wheel."""
    seal = folder / SEAL
    return seal.read_text(encoding="utf-8").split("\n")[0].strip() if seal.is_file() else None


def seal(folder: Path, wheel: str) -> None:
    """Vouch for the files of a folder as they are. wheel: the sum of the wheel that they came in."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SEAL)
    lines = [f"{sha256_of(p)}  {p.relative_to(folder).as_posix()}" for p in files]
    write_text(folder / SEAL, "\n".join([wheel, *lines]) + "\n")


def vouched(folder: Path, name: str) -> Path:
    """The file or folder of this name in an unpacked wheel, all its files as they were unpacked; else `ArtefactError`.

    The path may not exist; that is the caller's to say.
    """
    path = inside(folder, name, origin=folder.name) if name else folder
    sums = _sums(folder)
    below = f"{path.relative_to(folder).as_posix()}/" if path != folder else ""
    expected = {n: s for n, s in sums.items() if n == below.rstrip("/") or n.startswith(below)}
    there = {
        p.relative_to(folder).as_posix(): p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file()
    }
    there.pop(SEAL, None)
    for other in sorted(expected.keys() | there.keys()):
        if other not in there or other not in expected or sum_of(there[other]) != expected[other]:
            raise ArtefactError(
                f"{folder / other} is not as it was unpacked: it has changed, is missing, or was added.",
                hint=f"Remove {folder} and run again.",
            )
    return path


def download(requirement: str, folder: Path, expected: str | None) -> None:
    """Fetch a wheel, check its sum, unpack it beside the target, then rename: the cache holds whole wheels or nothing.

    requirement: `name==version`. Raises `FetchError` and `ArtefactError`.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as work:
            wheel = _pip_download(requirement, Path(work))
            found = sha256_of(wheel)
            if expected and found != expected:
                raise ArtefactError(
                    f"{requirement} came with sha256 {found}, expected {expected}; nothing was kept.",
                    hint="The download is broken or not the pinned file; run again.",
                )
            unpacked = Path(work) / "unpacked"
            _unzip(wheel, unpacked)
            seal(unpacked, found)
            if folder.exists():
                shutil.rmtree(folder)
            unpacked.rename(folder)
    except OSError as error:
        raise disk_error(error, folder) from error


def without_password(text: str) -> str:
    """A message of another program, the user names and passwords of its addresses taken out."""
    return re.sub(r"://[^/@\s]+@", "://", text)


def _pip_download(requirement: str, work: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--no-deps", "--no-cache-dir", "--quiet"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(work / "wheel"), "--", requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    wheels = list((work / "wheel").glob("*.whl")) if done.returncode == 0 else []
    if len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise FetchError(
            f"{requirement} could not be downloaded from the package index as a wheel: {without_password(last)}",
            hint="Check the network or the package mirror and run the same command again.",
        )
    return wheels[0]


def _unzip(wheel: Path, target: Path) -> None:
    """Unpack a wheel that was looked at before."""
    try:
        check_archive(wheel)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError):  # broken, a packing of its own, encrypted
        raise ArtefactError(f"{wheel.name} is not a whole wheel; nothing was kept.", hint="Run again.") from None


def _sums(folder: Path) -> dict[str, str]:
    """Sums of a folder's files by name: those of its seal, in older caches those that the wheel itself lists."""
    lines = (folder / SEAL).read_text(encoding="utf-8").splitlines()[1:]
    found = {name: value for value, _, name in (line.partition("  ") for line in lines)}
    return found or _recorded(folder)


def _recorded(folder: Path) -> dict[str, str]:
    found: dict[str, Any] = {}
    for record in folder.glob("*.dist-info/RECORD"):
        with record.open(encoding="utf-8", newline="") as handle:
            rows = [row for row in csv.reader(handle) if len(row) > 1]
        found |= {n: base64.urlsafe_b64decode(s[7:] + "==").hex() for n, s, *_ in rows if s.startswith("sha256=")}
        found[record.relative_to(folder).as_posix()] = sum_of(record)  # the one file that it cannot list
    if not found:
        raise ArtefactError(f"{folder} does not say what it was unpacked from.", hint="Remove it and run again.")
    return found
