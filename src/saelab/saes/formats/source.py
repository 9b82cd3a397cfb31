"""What a format reads from: a folder (or one file in it), the name it came under, and what the user declared.

The only readers of foreign files: safetensors and npz (never with pickle), checked before a byte of them is believed.
An archive that unpacks to far more than its size, an impossible header, a pickle under another name and a name that
leaves its folder are one-sentence errors. Pickles are opened by unpickle.py alone, for an explicit `convert`.
This file must never know a format.
"""

import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from saelab.core.config import Config
from saelab.core.errors import ArtefactError, UserError
from saelab.saes.base import Sae
from saelab.saes.crosscoder import Crosscoder
from saelab.saes.transcoder import Transcoder
from saelab.store.archives import check_archive
from saelab.store.files import read_json
from saelab.store.paths import inside
from saelab.store.tensors import read_tensors

MOST_HEADER = 100_000_000  # bytes, the safetensors library's own limit
MOST_JSON = 20_000_000  # bytes; configs hold a few thousand
WEIGHTS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PICKLED = "is a pickle or an archive under the name of a safetensors file; it was not opened."
_VECTORS = ("b_", "threshold", "r_mag")
COUNTS = (torch.int64, torch.int32, torch.bool)
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".ckpt")


Found = Sae | Transcoder | Crosscoder  # what a file holds


class Declared(Config):
    """What the user says about an SAE whose files do not say it. None: nothing was said.

    It remembers which of its facts a reader asked for, so that one that no reader used can be refused.
    """

    k: int | None = Field(default=None, ge=1)
    threshold: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    input_scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    normalise: str | None = None  # of every token at run time: a key of normalised.CARRIED
    site: str | None = None
    lm: str | None = None
    tensors: str | dict[str, Any] | None = None  # which tensor is which: tensor_map.py
    transcode: bool | None = None  # it rebuilds the output of its site's module from the input
    _asked: set[str] = PrivateAttr(default_factory=set)

    def __getattribute__(self, name: str) -> Any:
        if name in _FACTS:
            self._asked.add(name)
        return super().__getattribute__(name)

    def settled(self, name: str, stated: Any) -> Any:
        """What the files state of a fact, else what was declared. A fact that they state is not asked for, so that the
        door refuses one that was declared all the same.
        """
        return getattr(self, name) if stated is None else stated

    def unused(self, given: Iterable[str]) -> list[str]:
        """Those of the given facts that nobody asked for."""
        return [name for name in given if name not in self._asked]


_FACTS = frozenset(Declared.model_fields)


@dataclass(frozen=True)
class Source:
    """An SAE's files. `name`: the reference as written; in some formats it alone says layer, width and L0."""

    folder: Path
    name: str
    file: str | None = None
    declared: Declared = field(default_factory=Declared)
    given: tuple[str, ...] = ()  # the facts among them that the user stated, not the registry
    format: str | None = None  # where the registry of released SAEs knows it
    checked: bool = True  # are all weights read once, to see that they are finite?
    asked: set[str] = field(default_factory=set, compare=False)  # names of files that were looked for

    def has(self, *names: str) -> bool:
        """Are all these files there?"""
        self.asked.update(names)
        return all((self.folder / n).is_file() for n in names)

    def is_read(self, recognises: Callable[["Source"], bool]) -> bool:
        """Is the file that was named, if one was, among those that a format looks for? Its folder is another matter."""
        self.asked.clear()
        recognises(self)
        return self.file is None or not self.asked or self.file in {PurePosixPath(n).name for n in self.asked}

    def inside(self, name: str) -> Path:
        """A path in the folder from a name found in a file; one that leaves the folder is refused."""
        return inside(self.folder, name, origin=self.name)

    def json(self, name: str, *, strict: bool = True) -> dict[str, Any]:
        """A JSON object of the folder; a text mark at its head (BOM) is no part of it.

        strict: what could not be written again is refused, since a config may be kept whole as metadata.
        """
        path = self.folder / name
        if path.is_file() and path.stat().st_size > MOST_JSON:
            raise ArtefactError(f"{path} has {path.stat().st_size:,} bytes, which is no config; it was not opened.")
        data = read_json(path)
        if not isinstance(data, dict):
            raise ArtefactError(f"{self.folder / name} should hold a JSON object, but holds a {type(data).__name__}.")
        if strict:
            check_plain(data, str(path))
        return data

    def safetensors(self, name: str, *, only: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        """The tensors of a safetensors file, as float32 where they are floating. only: those of these names alone."""
        path = self.folder / name
        check_safetensors(path)
        return floats(read_tensors(path, only), str(path), checked=self.checked)

    def npz(self, name: str) -> dict[str, Tensor]:
        """All arrays of an npz file, as float32 tensors."""
        return read_npz(self.folder / name)


@dataclass(frozen=True)
class Format:
    """One format of files.

    read: opens safe files; for a format that is a pickle it takes what the pickle held as a second argument. write:
    None where saelab does not write it. pickle: the name of the pickle of a source, for formats that are one.
    """

    name: str
    holds: str
    recognises: Callable[[Source], bool]
    read: Callable[..., Found]
    write: Callable[[Any, Path], None] | None = None
    pickle: Callable[[Source], str] | None = None


def floats(tensors: Mapping[str, Tensor], where: str, *, checked: bool = True) -> dict[str, Tensor]:
    """Weights as float32; counters and sizes (at most one axis) stay whole numbers.

    Matrices of whole, complex or 8-bit numbers are refused: they are quantised or of another function, and their scale
    is not among the tensors. So is a NaN or infinite weight, unless `checked` is false. Raises `ArtefactError`.
    """
    found = {}
    for name, tensor in tensors.items():
        if tensor.dtype not in WEIGHTS and (tensor.ndim > 1 or tensor.dtype not in COUNTS):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ArtefactError(
                f"{where} holds {name!r} of type {kind}; weights are floating numbers of 16 to 64 bits.",
                hint="Save it with its weights as float32 or bfloat16, with the library that wrote it.",
            )
        found[name] = tensor.to(torch.float32) if tensor.dtype in WEIGHTS else tensor
        if checked and not finite(found[name]):
            raise ArtefactError(f"{where} holds NaN or infinite values in {name!r}.")
    return found


def check_plain(data: object, where: str) -> None:
    """Refuse plain data that no JSON file can hold: a number that is not finite, a text that is no Unicode."""
    try:
        json.dumps(data, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        raise ArtefactError(
            f"{where} holds a number that is not finite, or a text or value that no JSON file can hold.",
            hint="Write null for a number that is not known.",
        ) from None


def finite(tensor: Tensor) -> bool:
    """Is every entry finite? A finite sum proves it in one reading; only another sum needs a closer look."""
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def check_safetensors(path: Path) -> None:
    """Refuse a file that is not built as a safetensors file, before any of it is parsed."""
    if not path.is_file():
        raise ArtefactError(f"{path} is missing.")
    with path.open("rb") as handle:
        fault = fault_of(handle, path.stat().st_size)
    if fault is not None:
        pickled = fault == PICKLED
        raise ArtefactError(f"{path} {fault}", hint="Do not trust where it came from." if pickled else None)


def fault_of(handle: BufferedIOBase, size: int) -> str | None:
    """What keeps a file of `size` bytes from being a safetensors file, None where nothing does.

    The first eight bytes are the length of a JSON header that lies in the file. These bytes may be those with which a
    pickle (0x80 and a protocol) or an archive ("PK") begins, so they are asked about only when there is no header.
    """
    head = handle.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    fits = 2 <= length <= min(MOST_HEADER, size - 8)
    if fits and _is_json_object(handle.read(length)):
        return None
    if head[:2] == b"PK" or (head[:1] == b"\x80" and b"\x00" < head[1:2] <= b"\x05"):
        return PICKLED
    if not fits:
        return f"is no safetensors file: its header would be {length:,} bytes in a file of {size:,}."
    return "is no safetensors file: its header is not JSON."


def _is_json_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def read_npz(path: Path) -> dict[str, Tensor]:
    """Arrays of an npz file, float32; object arrays (pickles), bombs and unsafe names are `ArtefactError`s."""
    check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: np.asarray(archive[name]) for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ArtefactError(f"{path} is not a readable npz file: {str(error).splitlines()[0]}") from None
    for name, array in found.items():
        if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
            raise ArtefactError(f"{path} holds {name!r} of type {array.dtype}; numbers were expected.")
    native = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("=")) for name, a in found.items()}
    return floats({name: torch.from_numpy(a) for name, a in native.items()}, str(path))


def take(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, str],
    where: str,
    *,
    optional: tuple[str, ...] = (),
    axes: int = 2,
) -> dict[str, Tensor]:
    """`wanted` maps our names to theirs. A tensor that is missing, or that nobody asked for, is an error.

    axes: how many axes a matrix (W_...) has; biases and thresholds have fewer.
    """
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
    for ours, theirs in wanted.items():
        shape = tuple(found[theirs].shape)
        if (ours.startswith("W_") and len(shape) != axes) or (ours.startswith(_VECTORS) and len(shape) >= axes):
            raise ArtefactError(f"{where} holds {theirs} of shape {shape}, which is not what an SAE's file has there.")
    return {ours: found[theirs] for ours, theirs in wanted.items()}


def known_keys(data: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """Refuse a config with a key that nobody here knows: it could change what the SAE computes."""
    unknown = sorted(data.keys() - known)
    if unknown:
        raise UserError(
            f"{where} has the unknown key{'s' if len(unknown) > 1 else ''} {', '.join(unknown[:6])}.",
            hint="It may change what the SAE computes. Remove it if you know that it does not, or update saelab.",
        )


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first names of a list, and how many there are where some are left out."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
