"""Activations of one site on disk: safetensors shards, and a manifest that vouches for every one of them.

    <folder>/manifest.json             what was harvested, how, and each shard's size and sha256
    <folder>/shard-00000.safetensors   rows [n, D] (bf16), context [n], position [n]
    <folder>/moments.safetensors       mean [D], mean_norm, mean_square, count

Row i of every site harvested together is the same token. Sizes are checked on opening, the sha256 whenever a shard is
read, and a NaN or infinite row is refused: a damaged shard is named and never skipped. Nothing here knows a language
model.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, Int32
from torch import Tensor

from saelab.activations.moments import Moments
from saelab.activations.stream import LEAST_BLOCK, shuffled_batches
from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError, UserError
from saelab.store.files import read_json, write_json
from saelab.store.folders import MANIFEST, MOMENTS
from saelab.store.tensors import write_tensors

FORMAT = "saelab.activations/1"
REPAIR = "Run the same command again: what is damaged is harvested anew, the rest is kept."

# Shuffled as a whole up to this size; beyond it block by block (see stream.py).
MEMORY_BYTES = 4 << 30


@dataclass(frozen=True)
class ShardRecord:
    """One shard: its file, rows, size, sha256, and what its contexts [first, stop) held."""

    file: str
    rows: int
    bytes: int
    sha256: str
    first: int
    stop: int
    special: int
    sinks: int
    sinks_here: int
    largest_norm: float


@dataclass(frozen=True)
class Manifest:
    """What a folder of shards is. `key` names the work that made it: LM, text, sites and settings.

    median_norm: median |x| at this site over the first shard, sinks included; sink_threshold: a multiple of it, above
    which a position is a sink. moments: sha256 of the moments file, None until every shard is there.
    """

    key: str
    site: str
    lm: str
    d: int
    dtype: str
    context: int
    median_norm: float
    sink_threshold: float
    shards: tuple[ShardRecord, ...] = ()
    moments: str | None = None

    def save(self, folder: Path) -> None:
        """Write the manifest with a digest of its own contents."""
        data = {"format": FORMAT, **asdict(self)}
        data["shards"] = [asdict(s) for s in self.shards]
        write_json(folder / MANIFEST, data | {"digest": digest_of(data)})

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read a manifest; one that is missing, foreign or changed is an `ArtefactError`."""
        data = read_json(folder / MANIFEST)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ArtefactError(f"{folder / MANIFEST} does not describe activations.", hint=REPAIR)
        if data.pop("digest", None) != digest_of(data):
            raise ArtefactError(f"{folder / MANIFEST} is damaged: its contents have changed.", hint=REPAIR)
        del data["format"]
        shards = tuple(ShardRecord(**record) for record in data.pop("shards"))
        return cls(**data, shards=shards)


@dataclass(frozen=True)
class PositionCounts:
    """Positions seen, and why some gave no row: special tokens and separators, attention sinks.

    sinks: positions above the threshold at any site harvested together (all are left out everywhere); sinks_here: those
    above it at this site. largest_norm: the largest |x| at this site, as a multiple of the median.
    """

    positions: int
    special: int
    sinks: int
    sinks_here: int
    rows: int
    largest_norm: float


@dataclass(frozen=True)
class Shard:
    """The rows of one shard and where each stood: context number and position in it."""

    rows: Float[Tensor, "N D"]
    context: Int32[Tensor, " N"]
    position: Int32[Tensor, " N"]


class ActivationShards:
    """The activations of one site: `n` rows of width `d`."""

    def __init__(self, folder: str | Path, *, memory: int = MEMORY_BYTES):
        """Open a finished harvest; a missing, unfinished or truncated one is an `ArtefactError`.

        memory: bytes up to which all rows are held at once while batches are drawn.
        """
        self.folder = Path(folder)
        self.memory = memory
        self.manifest = Manifest.load(self.folder)
        if self.manifest.moments is None:
            raise ArtefactError(f"The harvest in {self.folder} is not finished.", hint=REPAIR)
        for record in self.manifest.shards:
            check_size(self.folder, record)
        self.site = self.manifest.site
        self.d = self.manifest.d
        self.n = sum(s.rows for s in self.manifest.shards)

    @property
    def counts(self) -> PositionCounts:
        """How many positions were seen, masked and kept."""
        shards = self.manifest.shards
        return PositionCounts(
            positions=sum(s.stop - s.first for s in shards) * self.manifest.context,
            special=sum(s.special for s in shards),
            sinks=sum(s.sinks for s in shards),
            sinks_here=sum(s.sinks_here for s in shards),
            rows=self.n,
            largest_norm=max(s.largest_norm for s in shards) / self.manifest.median_norm,
        )

    @cached_property
    def moments(self) -> Moments:
        """Moments of all rows as stored."""
        found = _load(self.folder / MOMENTS, self.manifest.moments or "")
        numbers = {name: found[name].item() for name in ("mean_norm", "mean_square", "count")}
        return Moments(mean=found["mean"], **numbers)

    @cached_property
    def index(self) -> Int32[Tensor, "N 2"]:
        """The context and the position of every row, in the order of the shards. Reads them all."""
        shards = (self.read(k) for k in range(len(self.manifest.shards)))
        return torch.cat([torch.stack([s.context, s.position], dim=1) for s in shards])

    def read(self, k: int) -> Shard:
        """Shard k, checked; an `ArtefactError` names a damaged shard, or the row that is not finite."""
        return read_shard(self.folder, self.manifest.shards[k])

    def batches(
        self, batch_size: int, *, steps: int | None = None, passes: int | None = None, seed: int = 0, start: int = 0
    ) -> Iterator[Float[Tensor, "B D"]]:
        """Shuffled batches of float32 rows, from step `start` up to `steps`, or to the end of `passes` (default 1).

        Batch i depends on (seed, i) alone; every row comes once in each pass. Raises `UserError` where a batch is
        larger than the data or both `steps` and `passes` are given, `ArtefactError` for a damaged shard.
        """
        if steps is not None and passes is not None:
            raise UserError("Both steps and passes are given; they say the same thing twice.")
        if not 0 < batch_size <= self.n:
            raise UserError(f"A batch of {batch_size} rows cannot be drawn from {self.n} rows of {self.site}.")
        width = 4 if self.manifest.dtype == "float32" else 2
        fitting = self.memory // (self.d * width)
        return shuffled_batches(
            [s.rows for s in self.manifest.shards],
            lambda k: self.read(k).rows,
            batch_size=batch_size,
            stop=(passes or 1) * self.n // batch_size if steps is None else steps,
            seed=seed,
            start=start,
            block_rows=fitting if fitting >= self.n else max(LEAST_BLOCK, fitting // 2),
        )


def read_shard(folder: Path, record: ShardRecord) -> Shard:
    """One shard, checked: see `ActivationShards.read`."""
    found = _load(folder / record.file, record.sha256)
    shard = Shard(found["rows"], found["context"], found["position"])
    if not bool(torch.isfinite(shard.rows).all()):
        row = int((~torch.isfinite(shard.rows).all(dim=1)).nonzero()[0])
        raise ArtefactError(
            f"Row {row} of shard {folder / record.file} (context {int(shard.context[row])}, position "
            f"{int(shard.position[row])}) holds NaN or infinite activations."
        )
    return shard


def write_moments(path: Path, moments: Moments) -> None:
    """Write moments as tensors, the scalars in float64."""
    scalars = {name: torch.tensor(getattr(moments, name), dtype=torch.float64) for name in ("mean_norm", "mean_square")}
    write_tensors(path, {"mean": moments.mean, "count": torch.tensor(moments.count), **scalars})


def check_size(folder: Path, record: ShardRecord) -> None:
    """An `ArtefactError` where a shard is missing or has another size than recorded."""
    path = folder / record.file
    if not path.exists():
        raise ArtefactError(f"Shard {path} is missing.", hint=REPAIR)
    if path.stat().st_size != record.bytes:
        raise ArtefactError(
            f"Shard {path} is truncated or changed: it has {path.stat().st_size} bytes, {record.bytes} were written.",
            hint=REPAIR,
        )


def _load(path: Path, sha256: str) -> dict[str, Any]:
    """The tensors of a file whose bytes are those recorded."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing.", hint=REPAIR) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ArtefactError(f"{path} is damaged: its sha256 is not the one recorded.", hint=REPAIR)
    return safetensors.torch.load(data)
