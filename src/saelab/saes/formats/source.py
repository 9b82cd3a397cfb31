"""What a format reads from: a folder (or one file in it), the name it came under, and what the user declared.

The only readers of foreign files: safetensors and npz (never with pickle), checked before a byte of them is believed.
An archive that unpacks to far more than its size, an impossible header, a pickle under another name and a name that
leaves its folder are one-sentence errors. Pickles are opened by unpickle.py alone, for an explicit `convert`.
This file must never know a format.
"""

import json
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saelab.core.config import Config
from saelab.core.errors import ArtefactError, UserError
from saelab.saes.base import Sae
from saelab.saes.transcoder import Transcoder
from saelab.store.files import read_json
from saelab.store.tensors import read_tensors

# Weights hardly compress: float32 noise loses a tenth, an all-zero bias vanishes, and no SAE is mostly zeros.
MOST_INFLATION = 20
MOST_HEADER = 100_000_000  # bytes, the safetensors library's own limit
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")


class Declared(Config):
    """What the user says about an SAE whose files do not say it. None: nothing was said."""

    k: int | None = None
    threshold: float | None = None
    input_scale: float | None = None
    normalise: str | None = None  # of every token at run time: a key of normalised.CARRIED
    site: str | None = None
    lm: str | None = None
    transcode: bool | None = None  # it rebuilds the output of its site's module from the input


@dataclass(frozen=True)
class Source:
    """An SAE's files. `name`: the reference as written; in some formats it alone says layer, width and L0."""

    folder: Path
    name: str
    file: str | None = None
    declared: Declared = field(default_factory=Declared)
    format: str | None = None  # where the registry of released SAEs knows it

    def has(self, *names: str) -> bool:
        """Are all these files there?"""
        return all((self.folder / n).is_file() for n in names)

    def inside(self, name: str) -> Path:
        """A path in the folder from a name found in a file; one that leaves the folder is refused."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not name:
            raise ArtefactError(f"{self.name} names the unsafe path {name!r}; nothing was opened.")
        return self.folder / name

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder."""
        data = read_json(self.folder / name)
        if not isinstance(data, dict):
            raise ArtefactError(f"{self.folder / name} should hold a JSON object, but holds a {type(data).__name__}.")
        return data

    def safetensors(self, name: str) -> dict[str, Tensor]:
        """All tensors of a safetensors file, as float32 where they are floating."""
        path = self.folder / name
        check_safetensors(path)
        return floats(read_tensors(path))

    def npz(self, name: str) -> dict[str, Tensor]:
        """All arrays of an npz file, as float32 tensors."""
        return read_npz(self.folder / name)


@dataclass(frozen=True)
class Format:
    """One checkpoint format.

    read: opens safe files; for a format that is a pickle it takes what the pickle held as a second argument. write:
    None where saelab does not write it. pickle: the name of the pickle of a source, for formats that are one.
    """

    name: str
    holds: str
    recognises: Callable[[Source], bool]
    read: Callable[..., Sae | Transcoder]
    write: Callable[[Sae, Path], None] | None = None
    pickle: Callable[[Source], str] | None = None


def floats(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating tensors as float32, the others as they are; a NaN or infinite weight is an `ArtefactError`."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ArtefactError(f"The tensor {name!r} holds NaN or infinite values.")
    return {n: t.to(torch.float32) if t.is_floating_point() else t for n, t in tensors.items()}


def check_safetensors(path: Path) -> None:
    """Refuse a file whose first bytes cannot be a safetensors header, before any of it is parsed."""
    if not path.is_file():
        raise ArtefactError(f"{path} is missing.")
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(8)
        if head[:2] == b"PK" or head[:1] == b"\x80":
            raise ArtefactError(
                f"{path} is a pickle or an archive under the name of a safetensors file; it was not opened.",
                hint="Do not trust where it came from.",
            )
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise ArtefactError(
                f"{path} is no safetensors file: its header would be {length:,} bytes in a file of {size:,}."
            )
        try:
            json.loads(handle.read(length))
        except (ValueError, RecursionError):
            raise ArtefactError(f"{path} is no safetensors file: its header is not JSON.") from None


def read_npz(path: Path) -> dict[str, Tensor]:
    """Arrays of an npz file, float32; object arrays (pickles), bombs and unsafe names are `ArtefactError`s."""
    check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: np.asarray(archive[name]) for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ArtefactError(f"{path} is not a readable npz file: {str(error).splitlines()[0]}") from None
    for name, array in found.items():
        if array.dtype.kind not in "fiu":
            raise ArtefactError(f"{path} holds {name!r} of type {array.dtype}; numbers were expected.")
    return floats({name: torch.from_numpy(np.ascontiguousarray(a)).float() for name, a in found.items()})


def check_archive(path: Path, *, most: int = MOST_INFLATION) -> int:
    """The bytes that a zip archive (npz, pt) unpacks to; a bomb or a name that leaves the folder is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing.") from None
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise ArtefactError(f"{path} is not a whole archive: {error}.") from None
    for item in items:
        name = PurePosixPath(item.filename)
        if name.is_absolute() or ".." in name.parts:
            raise ArtefactError(f"{path} holds the unsafe path {item.filename!r}; nothing was unpacked.")
    total, size = sum(i.file_size for i in items), path.stat().st_size
    if total > most * size + 1_000_000:
        raise ArtefactError(f"{path} has {size:,} bytes and would unpack to {total:,}; it was not opened.")
    return total


def take(
    found: Mapping[str, Tensor], wanted: Mapping[str, str], where: str, *, optional: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """`wanted` maps our names to theirs. A tensor that is missing, or that nobody asked for, is an error."""
    absent = sorted(set(wanted.values()) - found.keys())
    extra = sorted(found.keys() - set(wanted.values()) - set(optional))
    if absent or extra:
        raise ArtefactError(
            f"{where} should hold the tensors {', '.join(sorted(wanted.values()))}"
            + (f"; it lacks {', '.join(absent)}" if absent else "")
            + (f"; it has the unknown {', '.join(extra)}" if extra else "")
            + ".",
            hint="The file is damaged, or of a newer layout than saelab knows.",
        )
    return {ours: found[theirs] for ours, theirs in wanted.items()}


def known_keys(data: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """Refuse a config with a key that nobody here knows: it could change what the SAE computes."""
    unknown = sorted(data.keys() - known)
    if unknown:
        raise UserError(
            f"{where} has the unknown key{'s' if len(unknown) > 1 else ''} {', '.join(unknown[:6])}.",
            hint="It may change what the SAE computes. Remove it if you know that it does not, or update saelab.",
        )


def integer_after(name: str, pattern: str) -> int | None:
    """The first integer that `pattern` (one group) finds in a name, or None."""
    match = re.search(pattern, name)
    return int(match.group(1)) if match else None
