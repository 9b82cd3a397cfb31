"""The material of one SAE: for every feature what a reader of it is shown, kept in a folder of Parquet parts.

A feature's contexts are kept as places in one table of the text, so a token is kept once. Each part holds `PART`
features, a row each, dead ones too; parts are made one by one, so memory does not grow with the dictionary. A making
that was killed goes on at the first part that is missing; the manifest stands for nothing until all parts are there.
Must never know a study or a report.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.progress import SILENT, Progress
from saelab.interp.features.beside import Coactivation, decoder_neighbours
from saelab.interp.features.codes import Codes
from saelab.interp.features.contexts import values_at
from saelab.interp.features.profile import Scored
from saelab.interp.features.spread import BANDS, RADIUS, Bounds, choose
from saelab.interp.features.windows import Passages
from saelab.store.folders import MaterialFolder
from saelab.store.resumable import Resumable

FORMAT = "saelab.material/1"
PART = 4096  # features of a part
BINS = 24  # of a histogram: equal steps from zero to the largest value
BESIDE, LENS = 8, 10  # neighbours and co-active features kept, and tokens promoted and suppressed

COLUMNS: dict[str, Any] = {
    "feature": pl.Int64,
    "density": pl.Float32,
    "max_activation": pl.Float32,
    "threshold": pl.Float32,
    "description": pl.String,
    "histogram": pl.List(pl.UInt32),
    "fifths": pl.List(pl.Float32),
    "starts": pl.List(pl.UInt32),
    "lengths": pl.List(pl.UInt8),
    "peaks": pl.List(pl.UInt8),
    "bands": pl.List(pl.UInt8),
    "activations": pl.List(pl.Float32),
    "promotes": pl.List(pl.String),
    "promotes_by": pl.List(pl.Float32),
    "suppresses": pl.List(pl.String),
    "suppresses_by": pl.List(pl.Float32),
    "neighbours": pl.List(pl.UInt32),
    "cosines": pl.List(pl.Float32),
    "coactive": pl.List(pl.UInt32),
    "phi": pl.List(pl.Float32),
    "shared": pl.List(pl.UInt32),
}

CONTEXTS = ("fifths", "starts", "lengths", "peaks", "bands", "activations")  # columns of lists

Described = Callable[[Sequence[int]], Mapping[int, str]]
Lens = Callable[[Sequence[int]], Sequence[tuple[Scored, Scored]]]


@dataclass(frozen=True)
class MaterialSource:
    """What a material is made from.

    read: flattened places that were encoded, ascending. decoder: rows of the dictionary. thresholds: value of each
    feature above which it counts as active in a window. described: descriptions of the features asked for. lens: what
    they promote and suppress.
    """

    codes: Codes
    passages: Passages
    read: Int[np.ndarray, " R"]
    strings: Sequence[str]
    decoder: Float[Tensor, "F D"]
    thresholds: Float[np.ndarray, " F"]
    described: Described
    lens: Lens
    seed: int = 0


def write_material(source: MaterialSource, folder: MaterialFolder, *, progress: Progress = SILENT) -> list[Path]:
    """Write what is not there yet; returns all files, the manifest last."""
    n = source.codes.n_features
    kept = Resumable(folder.manifest, _asked(source))
    parts = [range(start, min(start + PART, n)) for start in range(0, n, PART)]
    if kept.fresh:
        kept.begin()
    if not kept.whole(folder.text.path):
        kept.write(folder.text.path, partial(write_table_to, table=_text(source)))
    coactive: Coactivation | None = None
    with progress.task("keeping what features are", n, "features") as task:
        for number, features in enumerate(parts):
            path = folder.part(number).path
            if not kept.whole(path):
                coactive = coactive or Coactivation(source.codes, source.read)
                kept.write(path, partial(write_table_to, table=_part(source, features, coactive)))
            task.advance(len(features))
    return [folder.text.path, *(folder.part(k).path for k in range(len(parts))), folder.manifest.path]


def write_table_to(path: Path, table: pl.DataFrame) -> None:
    """A part as Parquet, in groups of rows so small that one feature is read alone."""
    table.write_parquet(path, compression="zstd", row_group_size=256)


def parts_of(manifest: Mapping[str, Any]) -> int:
    """How many parts a material of this manifest has."""
    return -(-int(manifest["features"]) // PART)


def _asked(source: MaterialSource) -> dict[str, Any]:
    """What makes a material what it is, as plain data."""
    codes, passages = source.codes, source.passages
    inputs = hashlib.sha256()
    for array in (codes.starts, codes.places, codes.values, passages.tokens, passages.documents, source.read):
        inputs.update(np.ascontiguousarray(array).data)
    inputs.update(source.decoder.contiguous().numpy().data)
    return {
        "format": FORMAT,
        "features": codes.n_features,
        "live": int((codes.counts() > 0).sum()),
        "tokens": codes.n_rows,
        "context": passages.length,
        "bands": list(BANDS),
        "radius": RADIUS,
        "part": PART,
        "seed": source.seed,
        "inputs": inputs.hexdigest(),
    }


def _text(source: MaterialSource) -> pl.DataFrame:
    """One row per place of the text: the token as `core.bytetext` has it, and its document."""
    tokens = source.passages.tokens.reshape(-1)
    return pl.DataFrame(
        {
            "token": pl.Series(source.strings, dtype=pl.String).gather(tokens),
            "document": source.passages.documents.reshape(-1).astype(np.int32),
        }
    )


def _part(source: MaterialSource, features: range, coactive: Coactivation) -> pl.DataFrame:
    codes = source.codes.only(features)
    described, lens = source.described(features), source.lens(features)
    neighbours, cosines = decoder_neighbours(source.decoder, features, BESIDE)
    beside = coactive.of(features, BESIDE)
    histograms, largest = _histograms(codes)
    columns: dict[str, Any] = {
        "feature": np.arange(features.start, features.stop),
        "density": codes.counts() / codes.n_rows,
        "max_activation": largest,
        "threshold": source.thresholds[features.start : features.stop],
        "description": [described.get(f) for f in features],
        "histogram": list(histograms),
        "promotes": [[t for t, _ in up] for up, _ in lens],
        "promotes_by": [[by for _, by in up] for up, _ in lens],
        "suppresses": [[t for t, _ in down] for _, down in lens],
        "suppresses_by": [[by for _, by in down] for _, down in lens],
        "neighbours": list(neighbours),
        "cosines": list(cosines),
        "coactive": [[f for f, _, _ in one] for one in beside],
        "phi": [[phi for _, phi, _ in one] for one in beside],
        "shared": [[both for _, _, both in one] for one in beside],
    }
    columns |= _contexts(source, codes, features)
    return pl.DataFrame({name: pl.Series(columns[name], strict=False).cast(kind) for name, kind in COLUMNS.items()})


def _contexts(source: MaterialSource, codes: Codes, features: range) -> dict[str, list[np.ndarray]]:
    """Where each feature's contexts begin, how long they are, where they peak, and the activations on all of them."""
    passages = source.passages
    tokens, bounds = passages.tokens.reshape(-1), Bounds.over(passages)
    found: dict[str, list[np.ndarray]] = {n: [] for n in CONTEXTS}
    for k, chosen in enumerate(choose(codes, tokens, passages.length, features, seed=source.seed)):
        first, stop = bounds.windows(chosen.peaks)
        inside = [np.arange(a, b) for a, b in zip(first, stop, strict=True)]
        wanted = np.concatenate(inside)[None] if inside else np.zeros((1, 0), np.int64)
        found["fifths"].append(chosen.edges)
        found["starts"].append(first)
        found["lengths"].append(stop - first)
        found["peaks"].append(chosen.peaks - first)
        found["bands"].append(chosen.bands)
        found["activations"].append(values_at(*codes.of(k), wanted)[0])
    return found


def _histograms(codes: Codes) -> tuple[Int[np.ndarray, "F B"], Float[np.ndarray, " F"]]:
    """Counts of each feature's values in `BINS` equal steps up to its largest, and that value (0: it is dead)."""
    n, feature = codes.n_features, codes.features()
    largest = np.zeros(n, np.float32)
    np.maximum.at(largest, feature, codes.values)
    step = np.ceil(codes.values.astype(np.float64) / largest[feature] * BINS).astype(np.int64) - 1
    counts = np.bincount(feature.astype(np.int64) * BINS + np.clip(step, 0, BINS - 1), minlength=n * BINS)
    return counts.reshape(n, BINS), largest
