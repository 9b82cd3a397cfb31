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

from saelab.activations.site import read_site
from saelab.core.bytetext import has_parts, plain_text, whole_characters
from saelab.core.errors import ArtefactError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.interp.features.codes import Codes, encode_codes
from saelab.interp.features.describe import DescribeConfig, DescribingText, describe
from saelab.interp.features.material import BINS, COLUMNS, FORMAT, LENS, PART, Source, parts_of, write_material
from saelab.interp.features.profile import Scored, fitting_site, lens_scores
from saelab.interp.features.windows import DESCRIBE, Passages, WindowConfig, WindowFinder
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.store.layout import MaterialFolder
from saelab.text.pack import PackedText

DENSE = 1 << 25  # entries of a block of codes before they are sparse
MOST = 4e7  # codes above zero that are kept in memory


@dataclass(frozen=True)
class Histogram:
    """Counts of a feature's values above zero, in activation units. edges: one more than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    threshold: float


@dataclass(frozen=True)
class Context:
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
    contexts: tuple[Context, ...]
    promotes: Scored
    suppresses: Scored
    neighbours: tuple[tuple[int, float], ...]
    coactive: tuple[tuple[int, float, int], ...]

    @property
    def state(self) -> str:
        """live or dead."""
        return "live" if self.max_activation else "dead"


class Material:
    """What is kept of every feature of one SAE. Raises `ArtefactError` where the folder holds no whole one."""

    def __init__(self, folder: Path):
        self.folder = MaterialFolder(folder)
        self.manifest = self.folder.manifest.read()
        if self.manifest.get("format") != FORMAT or self.manifest.get("part") != PART:
            raise ArtefactError(f"{folder} holds no material that this saelab reads.")
        files = [self.folder.text, *(self.folder.part(k) for k in range(parts_of(self.manifest)))]
        named = self.manifest.get("sums", {})
        if missing := [f.path for f in files if f.path.name not in named or not f.exists]:
            raise ArtefactError(f"{missing[0]} is not there: the making did not end.", hint="Make it again.")
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
        parts = [
            pl.read_parquet(self.folder.part(k).path, columns=list(names), glob=False)
            for k in range(parts_of(self.manifest))
        ]
        return pl.concat(parts)

    def feature(self, index: int) -> FeatureMaterial:
        """One feature. Raises `UserError` where there is none of that number."""
        if not 0 <= index < self.n_features:
            raise UserError(f"There is no feature {index}: the SAE has 0 to {self.n_features - 1}.")
        row = self._row(index)
        steps = np.linspace(0, row["max_activation"], BINS + 1).tolist()
        return FeatureMaterial(
            feature=index,
            density=row["density"],
            max_activation=row["max_activation"],
            description=row["description"],
            histogram=Histogram(tuple(steps), tuple(row["histogram"]), row["threshold"]),
            contexts=tuple(self._contexts(row)),
            promotes=tuple(zip(row["promotes"], row["promotes_by"], strict=True)),
            suppresses=tuple(zip(row["suppresses"], row["suppresses_by"], strict=True)),
            neighbours=tuple(zip(row["neighbours"], row["cosines"], strict=True)),
            coactive=tuple(zip(row["coactive"], row["phi"], row["shared"], strict=True)),
        )

    def _read_row(self, index: int) -> dict[str, Any]:
        scan = pl.scan_parquet(self.folder.part(index // PART).path, glob=False)
        return scan.select(list(COLUMNS)).slice(index % PART, 1).collect().row(0, named=True)

    def _contexts(self, row: Mapping[str, Any]) -> Iterator[Context]:
        token, document = self.text["token"], self.text["document"]
        at, bands = 0, self.manifest["bands"]
        for start, length, peak, band in zip(row["starts"], row["lengths"], row["peaks"], row["bands"], strict=True):
            shown = token.slice(start, length).to_list()
            values = row["activations"][at : at + length]
            at += length
            yield _whole(Context(bands[band], tuple(shown), tuple(values), peak, int(document[start + peak])))


def _whole(context: Context) -> Context:
    """A context with the parts of each character put together; parts cut off at its ends are left out."""
    tokens = context.tokens
    if not any(map(has_parts, tokens)):
        return context
    groups = [(g, plain_text([tokens[i] for i in g])) for g in whole_characters(tokens)]
    kept = [(g, text) for g, text in groups if text or context.peak in g]
    return Context(
        context.quantile,
        tuple(text for _, text in kept),
        tuple(max(context.activations[i] for i in g) for g, _ in kept),
        next(n for n, (g, _) in enumerate(kept) if context.peak in g),
        context.document,
    )


def make_material(
    lm: LanguageModel, sae: Sae, packed: PackedText, folder: Path, *, progress: Progress = SILENT
) -> Material:
    """Read a text with an SAE and keep what its features are in `folder`; one that is there and the same is left.

    packed: text as the model's tokens. Raises `UserError` where SAE and model do not fit.
    """
    site = fitting_site(lm, sae, ())
    with progress.task(f"reading {site}", total=2, unit="passes") as task:
        reading = read_site(lm, packed, site)
        task.advance()
        read = reading.kept.reshape(-1).nonzero()[:, 0].numpy()
        codes = _bounded(sae, reading.rows, read)
        task.advance()
    read = read[: codes.n_rows]
    passages = Passages(packed.tokens.numpy(), packed.document_ids.numpy())
    finder, strings = WindowFinder.over(passages, WindowConfig()), lm.token_texts(range(lm.vocab_size))
    thresholds = np.array([finder.threshold(codes, k) for k in range(codes.n_features)])
    seen = np.zeros(passages.tokens.size, bool)
    seen[read] = True
    text = DescribingText.over(passages, seen & (finder.sides == DESCRIBE), strings)

    def described(features: Sequence[int]) -> dict[int, str]:
        largest = thresholds[list(features)] / finder.config.active_fraction
        found = describe(codes.only(features), text, largest, DescribeConfig())
        return {features[k]: one.text for k, one in found.items()}

    source = Source(
        codes,
        passages,
        read,
        strings,
        decoder=sae.W_dec,
        thresholds=thresholds,
        described=described,
        lens=lambda features: lens_scores(lm, sae.W_dec, features, LENS),
    )
    write_material(source, MaterialFolder(folder), progress=progress)
    return Material(folder)


def _bounded(sae: Sae, rows: Any, read: np.ndarray) -> Codes:
    """The codes of as many rows as keep few enough of them: of a dense dictionary, fewer."""
    block = max(1, DENSE // sae.cfg.d_sae)
    first = encode_codes(sae.encode, rows[: 4 * block], read[: 4 * block], block=block)
    each = max(1.0, len(first.places) / max(1, first.n_rows))
    most = max(1, int(MOST / each))
    return encode_codes(sae.encode, rows[:most], read[:most], block=block)
