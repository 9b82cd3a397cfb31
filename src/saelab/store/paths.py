"""Names that come with data, made paths: one checked join for members of archives, parts of references, and configs.

A name that would leave its folder (absolute, `..`, a drive or a backslash, an unprintable mark) is refused before
anything is opened. Knows nothing of what the names stand for.
"""

from pathlib import Path, PurePosixPath, PureWindowsPath

from saelab.core.errors import ArtefactError


def unsafe(name: str) -> bool:
    """Whether a name could lead out of the folder that it is joined to, on any system."""
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    return (
        not name
        or ".." in parts
        or name.startswith("/")
        or bool(windows.drive)
        or "\\" in name
        or not name.isprintable()
    )


def inside(folder: Path, name: str, *, origin: str) -> Path:
    """A path in the folder. origin: who gave the name, for the `ArtefactError`."""
    if unsafe(name):
        raise ArtefactError(f"{origin} names the unsafe path {name!r}; nothing was opened.")
    return folder / name
