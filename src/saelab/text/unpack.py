"""Reading .gz and .zst files as plain bytes, where a truncated file is an error and never a shorter text.

Knows nothing of what the bytes mean.
"""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, cast

from saelab.core.errors import ArtefactError, MissingDependency

PACKED = (".zst", ".gz")


def open_unpacked(path: Path) -> io.BufferedReader:
    """Open a file for reading, unpacking it when its name ends in .gz or .zst.

    Reading raises `ArtefactError` that names the file where it is broken or truncated.
    """
    if path.suffix not in PACKED:
        return path.open("rb")
    raw = _Gunzip(path) if path.suffix == ".gz" else _Unzstd(path)
    return io.BufferedReader(raw, 1 << 20)


class _Gunzip(io.RawIOBase):
    def __init__(self, path: Path):
        self.path = path
        self.handle = gzip.open(path, "rb")  # noqa: SIM115  (closed with this stream)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return cast(io.BufferedIOBase, self.handle).readinto(buffer)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ArtefactError(f"{self.path} is not a whole gzip file: {error}.") from None

    def close(self) -> None:
        self.handle.close()
        super().close()


class _Unzstd(io.RawIOBase):
    """zstandard's own stream reader ends without a word where a file is cut off; this one says so."""

    def __init__(self, path: Path):
        try:
            import zstandard
        except ImportError:
            raise MissingDependency(f"{path} needs zstandard.", hint="pip install 'saelab[lm]'") from None
        self.path = path
        self.library = zstandard
        self.handle = path.open("rb")
        self.frame: Any = None  # the frame being unpacked, None between frames
        self.packed = b""
        self.ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            self.packed = self.packed or self.handle.read(1 << 18)
            if not self.packed:
                if self.frame is not None:
                    raise ArtefactError(f"{self.path} is not a whole zstd file: it ends inside a frame.")
                return 0
            self._unpack()
        size = min(len(self.ready), len(buffer))
        buffer[:size] = self.ready[:size]
        self.ready = self.ready[size:]
        return size

    def _unpack(self) -> None:
        self.frame = self.frame or self.library.ZstdDecompressor().decompressobj()
        try:
            self.ready = self.frame.decompress(self.packed)
        except self.library.ZstdError as error:
            raise ArtefactError(f"{self.path} is not a whole zstd file: {error}.") from None
        self.packed = self.frame.unused_data if self.frame.eof else b""
        if self.frame.eof:
            self.frame = None

    def close(self) -> None:
        self.handle.close()
        super().close()
