"""Where in a release a source lies: what its path says after the repository's name, and nothing before it.

Some layouts keep layer, width and L0 in the path alone. A user's own folders may be called anything, so a path is read
from the repository's name on, which is one whole component. This file must never know a format.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from saelab.saes.formats.source import Source
from saelab.store.references import parse_reference

_CACHED = re.compile(r"models--.+?--(.+)")  # the hub's cache: models--org--name/snapshots/revision/...


@dataclass(frozen=True)
class RepositoryPath:
    """repository: the match of its name. inside: the components after it, joined by "/", without the file's name."""

    repository: re.Match[str]
    inside: str


def placed(source: Source, repository: re.Pattern[str]) -> RepositoryPath | None:
    """The place after the last component that is a repository's name in full, or None."""
    for parts in _paths(source):
        for i in reversed(range(len(parts))):
            if found := repository.fullmatch(parts[i]):
                return RepositoryPath(found, "/".join(parts[i + 1 :]))
    return None


def folder_names(source: Source) -> list[tuple[str, ...]]:
    """The last two folder names, (parent, own), of each way to write the folder; a repository's own name is none."""
    found = []
    for parts in _paths(source):
        inside = parts[1:] if source.name.startswith("hf:") else parts
        found.append(tuple(["", "", *inside][-2:]))
    return found


def _paths(source: Source) -> list[list[str]]:
    """The folder's components: of the hub's reference; else with links followed, then as written."""
    if source.name.startswith("hf:"):
        reference = parse_reference(source.name)
        parts = [reference.name.rpartition("/")[2], *filter(None, reference.inside.split("/"))]
        return [parts[:-1] if source.file and parts[-1] == source.file else parts]
    written = Path(os.path.abspath(source.folder))  # noqa: PTH100 (Path.resolve would follow links)
    return [_uncached(path) for path in dict.fromkeys((source.folder.resolve(), written))]


def _uncached(path: Path) -> list[str]:
    """Components, with a repository in the hub's cache under its own name."""
    parts = list(path.parts)
    for i in range(len(parts) - 2):
        if (found := _CACHED.fullmatch(parts[i])) and parts[i + 1] == "snapshots":
            return [*parts[:i], found[1], *parts[i + 3 :]]
    return parts
