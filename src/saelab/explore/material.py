"""All that is shown of a feature, read one feature at a time from the material that lies in a folder.

The making of one for an SAE by itself, from a text and a language model, is here too; a study's interpretation makes
the same. Reading needs neither model nor SAE. Must never know a page or a server.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from saelab.core.bytetext import has_parts, plain_text, whole_characters
from saelab.core.errors import ArtefactError, UserError
from saelab.interp.features.material import BINS, COLUMNS, FORMAT, PART, parts_of
from saelab.interp.features.profile import Scored
from saelab.store.files import sha256_of
from saelab.store.folders import MaterialFolder
from saelab.store.resumable import SUMS, whole_manifest

DENSE = 1 << 25  # entries of a block of codes before they are sparse
MOST = 4e7  # codes above zero that are kept in memory


@dataclass(frozen=True)
class Histogram:
    """Counts of a feature's values above zero, in activation units. edges: one more than counts.

    threshold: above it the feature counts as active in a window. fifths: the values that part the fifths, falling.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    threshold: float
    fifths: tuple[float, ...]


@dataclass(frozen=True)
class QuantileContext:
    """A window of text. quantile: which part of the feature's values its peak lies in. peak: index of that token."""

    quantile: str
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    peak: int
    document: int


@dataclass(frozen=True)
class FeatureMaterial:
    """One feature. density: share of tokens on which it is active; 0 and no contexts: dead on this text.

    promotes, suppresses: tokens with their logits. neighbours: features with decoder cosines. coactive: features that
    fire on the same tokens, each with phi and the number of tokens shared.
    """

    feature: int
    density: float
    max_activation: float
    description: str | None
    histogram: Histogram
    contexts: tuple[QuantileContext, ...]
    promotes: Scored
    suppresses: Scored
    neighbours: tuple[tuple[int, float], ...]
    coactive: tuple[tuple[int, float, int], ...]

    @property
    def state(self) -> str:
        """live or dead."""
        return "live" if self.max_activation else "dead"


class SaeMaterial:
    """What is kept of every feature of one SAE. Raises `ArtefactError` where the folder holds no whole one."""

    def __init__(self, folder: Path):
        self.folder = MaterialFolder(folder)
        self.manifest = whole_manifest(self.folder.manifest)
        if self.manifest.get("format") != FORMAT or self.manifest.get("part") != PART:
            raise ArtefactError(f"{folder} holds no material that this saelab reads.")
        files = [self.folder.text, *(self.folder.part(k) for k in range(parts_of(self.manifest)))]
        named = self.manifest.get(SUMS, {})
        if missing := [f.path for f in files if f.path.name not in named or not f.exists]:
            raise ArtefactError(f"{missing[0]} is not there: the making did not end.", hint="Make it again.")
        if changed := [f.path for f in files if _sum_of(f.path) not in named[f.path.name]]:
            raise ArtefactError(f"{changed[0]} is not as it was written.", hint="Remove it; it is made again.")
        self._row = lru_cache(maxsize=64)(self._read_row)

    @property
    def n_features(self) -> int:
        """Features of the dictionary, dead ones too."""
        return int(self.manifest["features"])

    @property
    def tokens(self) -> int:
        """Tokens that were read."""
        return int(self.manifest["tokens"])

    @cached_property
    def live(self) -> np.ndarray:
        """Numbers of the features that fired, ascending."""
        return np.flatnonzero(self.columns(["max_activation"])["max_activation"].to_numpy() > 0)

    @cached_property
    def text(self) -> pl.DataFrame:
        """The text that was read: token and document of every place."""
        return self.folder.text.read(["token", "document"])

    def columns(self, names: Sequence[str]) -> pl.DataFrame:
        """Some columns of all features, as `interp.features.material` names them."""
        return pl.concat([self._of_part(k, names) for k in range(parts_of(self.manifest))])

    def feature(self, index: int) -> FeatureMaterial:
        """One feature. Raises `UserError` where there is none of that number."""
        if not 0 <= index < self.n_features:
            raise UserError(f"There is no feature {index}: the SAE has 0 to {self.n_features - 1}.")
        return self._shaped(self._row(index))

    def features(self) -> Iterator[FeatureMaterial]:
        """Those that fired, in order, read part by part."""
        for number in range(parts_of(self.manifest)):
            for row in self._of_part(number, list(COLUMNS)).iter_rows(named=True):
                if row["max_activation"]:
                    yield self._shaped(row)

    def _shaped(self, row: Mapping[str, Any]) -> FeatureMaterial:
        steps = np.linspace(0, row["max_activation"], BINS + 1).tolist()
        return FeatureMaterial(
            feature=row["feature"],
            density=row["density"],
            max_activation=row["max_activation"],
            description=row["description"],
            histogram=Histogram(tuple(steps), tuple(row["histogram"]), row["threshold"], tuple(row["fifths"])),
            contexts=tuple(self._contexts(row)),
            promotes=tuple(zip(row["promotes"], row["promotes_by"], strict=True)),
            suppresses=tuple(zip(row["suppresses"], row["suppresses_by"], strict=True)),
            neighbours=tuple(zip(row["neighbours"], row["cosines"], strict=True)),
            coactive=tuple(zip(row["coactive"], row["phi"], row["shared"], strict=True)),
        )

    def _read_row(self, index: int) -> dict[str, Any]:
        return self._of_part(index // PART, list(COLUMNS), slice(index % PART, index % PART + 1)).row(0, named=True)

    def _of_part(self, number: int, names: Sequence[str], rows: slice | None = None) -> pl.DataFrame:
        path = self.folder.part(number).path
        try:
            scan = pl.scan_parquet(path, glob=False).select(names)
            return (scan if rows is None else scan.slice(rows.start, rows.stop - rows.start)).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ArtefactError(
                f"{path} is not as it was written: {error}.", hint="Remove it; it is made again."
            ) from None

    def _contexts(self, row: Mapping[str, Any]) -> Iterator[QuantileContext]:
        token, document = self.text["token"], self.text["document"]
        at, bands = 0, self.manifest["bands"]
        for start, length, peak, band in zip(row["starts"], row["lengths"], row["peaks"], row["bands"], strict=True):
            shown = token.slice(start, length).to_list()
            values = row["activations"][at : at + length]
            at += length
            yield _whole(QuantileContext(bands[band], tuple(shown), tuple(values), peak, int(document[start + peak])))


def _sum_of(path: Path) -> str:
    """The sum of a file, taken once as long as its size and time stay."""
    known = path.stat()
    return _summed(path, known.st_size, known.st_mtime_ns)


@lru_cache(maxsize=4096)
def _summed(path: Path, size: int, changed: int) -> str:
    del size, changed
    return sha256_of(path)


def _whole(context: QuantileContext) -> QuantileContext:
    """A context with the parts of each character put together; parts cut off at its ends are left out."""
    tokens = context.tokens
    if not any(map(has_parts, tokens)):
        return context
    groups = [(g, plain_text([tokens[i] for i in g])) for g in whole_characters(tokens)]
    kept = [(g, text) for g, text in groups if text or context.peak in g]
    return QuantileContext(
        context.quantile,
        tuple(text for _, text in kept),
        tuple(max(context.activations[i] for i in g) for g, _ in kept),
        next(n for n, (g, _) in enumerate(kept) if context.peak in g),
        context.document,
    )
