"""Checkpoints of a run: everything the next step depends on, vouched for by checksums.

    <folder>/step-00000400/<sae>.safetensors    weights, optimiser state, counters
    <folder>/step-00000400/scaling.safetensors  mean and scale of the inputs
    <folder>/step-00000400/seen.safetensors     of a stream: what it has counted
    <folder>/step-00000400/metrics.parquet      the rows so far
    <folder>/step-00000400/manifest.json        written last: key of the run, plain numbers, sha256 of every file

A folder without a manifest is an interrupted write and counts as nothing. The last two (or one) are kept: when the
newest is damaged that is said, with the file's name, and the one before it is used. This file must never know what
training does.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from torch import Tensor

from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError
from saelab.store.files import read_json, sha256_of, write_json
from saelab.store.folders import MANIFEST, METRICS, tensors_name
from saelab.store.tables import read_table, write_table
from saelab.store.tensors import read_tensors, write_tensors

log = logging.getLogger("saelab")

KEPT = 2


@dataclass
class Checkpoint:
    """The state of a run after `step` steps. `key` names the run's settings and data."""

    key: str
    step: int
    tensors: dict[str, dict[str, Tensor]]  # file stem -> tensors
    numbers: dict[str, Any]
    metrics: pl.DataFrame

    def write(self, folder: Path, *, kept: int = KEPT) -> None:
        """Write the checkpoint and drop all but the last `kept`. A full disk is an error and costs nothing older."""
        place = folder / f"step-{self.step:08d}"
        shutil.rmtree(place, ignore_errors=True)
        for stem, tensors in self.tensors.items():
            write_tensors(place / tensors_name(stem), tensors)
        write_table(place / METRICS, self.metrics)
        files = {p.name: sha256_of(p) for p in sorted(place.iterdir())}
        data = {"key": self.key, "step": self.step, "numbers": self.numbers, "files": files}
        write_json(place / MANIFEST, data | {"digest": digest_of(data)})
        for old in _finished(folder)[kept:]:
            # The manifest goes first: a half-removed folder must not look whole.
            (old / MANIFEST).unlink(missing_ok=True)
        for other in folder.iterdir():
            if other.is_dir() and not (other / MANIFEST).exists():
                shutil.rmtree(other, ignore_errors=True)


def latest(folder: Path, key: str) -> Checkpoint | None:
    """The newest sound checkpoint of the run `key`; None where there is none. A damaged one is named in the log."""
    for place in _finished(folder):
        try:
            found = _read(place)
        except ArtefactError as error:
            log.warning("%s The checkpoint before it is used.", error.message)
            continue
        if found.key == key:
            return found
        log.warning("%s belongs to a run with other settings or data; it is not used.", place)
    return None


def _finished(folder: Path) -> list[Path]:
    """Checkpoint folders with a manifest, newest first."""
    return sorted((p.parent for p in folder.glob(f"step-*/{MANIFEST}")), reverse=True)


def _read(place: Path) -> Checkpoint:
    data = read_json(place / MANIFEST)
    if not isinstance(data, dict) or data.pop("digest", None) != digest_of(data):
        raise ArtefactError(f"The checkpoint {place / MANIFEST} is damaged: its contents have changed.")
    for name, expected in data["files"].items():
        path = place / name
        if not path.is_file() or sha256_of(path) != expected:
            raise ArtefactError(f"The checkpoint file {path} is damaged: its sha256 is not the one recorded.")
    stems = [stem for n in data["files"] if n == tensors_name(stem := Path(n).stem)]
    tensors = {stem: read_tensors(place / tensors_name(stem)) for stem in stems}
    return Checkpoint(data["key"], data["step"], tensors, data["numbers"], read_table(place / METRICS))
