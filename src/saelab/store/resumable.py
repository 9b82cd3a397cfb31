"""Files that an interrupted stage goes on with: a manifest says what was asked for, and the sum of each file.

The sum stands in the manifest before the file takes its place, so a crash or a full disk between the two loses nothing.
A manifest that was changed vouches for nothing. Must never know what the files mean.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError
from saelab.store.artefacts import Record
from saelab.store.files import replacing, sha256_of

SUMS, DIGEST = "sums", "digest"


class Resumable:
    """What a former call with the same request left, as far as it is what was written.

    fresh: nothing is left of such a call, and what lies in the folder is another's.
    """

    def __init__(self, manifest: Record, asked: Mapping[str, Any]):
        self.manifest, self.asked = manifest, dict(asked)
        self._sums: dict[str, list[str]] = {}  # by name; of a file that grows, the sum before its last growth too
        held = _whole(manifest)
        self._sums = held.pop(SUMS, {})
        self.fresh = digest_of(held) != digest_of(self.asked)
        if self.fresh:
            self._sums = {}

    def begin(self) -> None:
        """Write down what is asked for."""
        data = self.asked | {SUMS: dict(sorted(self._sums.items()))}
        self.manifest.write(data | {DIGEST: digest_of(data)})

    def whole(self, path: Path) -> bool:
        """Whether a file is there as it was written for this request; else its sums are forgotten."""
        known, found = self._sums.pop(path.name, []), sha256_of(path) if path.is_file() else None
        if found not in known:
            return False
        self._sums[path.name] = known[: known.index(found) + 1]  # a later one did not come to its place
        return True

    def write(self, path: Path, write: Callable[[Path], object]) -> None:
        """Have a file written, vouched for. write: is given the path to write to."""
        with replacing(path) as temporary:
            write(temporary)
            self._sums[path.name] = list(dict.fromkeys([*self._sums.get(path.name, [])[-1:], sha256_of(temporary)]))
            self.begin()


def whole_manifest(manifest: Record) -> dict[str, Any]:
    """What a manifest holds. Raises `ArtefactError` where it is missing, broken or changed."""
    held = manifest.read()
    if held.pop(DIGEST, None) != digest_of(held):
        raise ArtefactError(f"{manifest.path} is not as it was written.")
    return held


def _whole(manifest: Record) -> dict[str, Any]:
    """The same; nothing where it is missing, broken or changed."""
    try:
        return whole_manifest(manifest)
    except ArtefactError:
        return {}
