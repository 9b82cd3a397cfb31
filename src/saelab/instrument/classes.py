"""Classes of texts whose steering ought to be seen: the positive control.

Six sets of the embedded corpus, or the user's own: files (each a class) or a table with a column of labels. The texts
of a class are halved: from one half comes the direction (its mean stream less that of the other classes), from the
other how the class is read. A model whose steering by these cannot be seen is not one in which features can be judged.
Must never know steered texts.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.site import sink_bound
from saelab.core.errors import UserError, nearest
from saelab.core.seeds import seed_of
from saelab.instrument.features import WINDOW, window_means
from saelab.instrument.readers import Background, Features, in_words, unit
from saelab.judges.embedding import Embedder
from saelab.lm.model import LanguageModel
from saelab.store.references import fetch
from saelab.store.tables import plain
from saelab.text.embedded import EMBEDDED, SHORTEST, repaired
from saelab.text.local import read_rows, text_column

EMBEDDED_CLASSES = {
    "HTML": "160_code_HTML",
    "Python": "159_code_Python",
    "reviews": "111_yelp_data",
    "disease": "101_disease_class",
    "news": "97_news_class",
    "politics": "58_wikidatapolitical_party",
}
FEWEST_CLASSES = 5  # of 4! orders of readers the rarest has p 0.04: no four classes can pass p < 0.01
FEWEST_TEXTS = 16
LONGEST = 96  # tokens of a text that are read
TAKEN = 64


@dataclass(frozen=True)
class LabelledTexts:
    """A class: its name, the texts that give the direction, and the texts that give the reader."""

    name: str
    steer: tuple[str, ...]
    read: tuple[str, ...]


def embedded_classes(*, taken: int = TAKEN) -> list[LabelledTexts]:
    """Six sets of the embedded corpus, `taken` texts of each. Raises `FetchError` where it cannot be had."""
    folder = fetch(EMBEDDED)
    texts = {
        name: [repaired(part, text) for _, text in read_rows(folder / f"{part}.csv.zst", "prompt")]
        for name, part in EMBEDDED_CLASSES.items()
    }
    return halved({name: [t for t in part if len(t) >= SHORTEST] for name, part in texts.items()}, taken=taken)


def classes_in(files: Sequence[Path], *, label: str | None = None, taken: int = TAKEN) -> list[LabelledTexts]:
    """The user's classes: one per file, or, of a single .csv, .parquet or .jsonl table, one per value of `label`."""
    if label is not None:
        if len(files) != 1:
            raise UserError(f"A column of labels is read from one table, not from {len(files)} files.")
        return halved(_labelled(files[0], label), taken=taken)
    twice = sorted(stem for stem, n in Counter(path.stem for path in files).items() if n > 1)
    if twice:
        raise UserError(
            f"Two files of classes are called {twice[0]!r}.", hint="A class is called as its file: rename one."
        )
    return halved({path.stem: [text for _, text in read_rows(path)] for path in files}, taken=taken)


def halved(texts: dict[str, list[str]], *, taken: int = TAKEN) -> list[LabelledTexts]:
    """The classes with their texts drawn and halved by the hash of the text alone, so that no order matters.

    Raises `UserError` for fewer than five classes or a class of fewer than 16 different texts.
    """
    if len(texts) < FEWEST_CLASSES:
        raise UserError(
            f"The positive control needs at least {FEWEST_CLASSES} classes, not {len(texts)}.",
            hint="With fewer, no order of readers is rare enough to tell seeing from luck.",
        )
    found, several = [], Counter(t for part in texts.values() for t in {t.strip() for t in part})
    for name, part in texts.items():
        bare = {t.strip(): t for t in sorted(part, reverse=True) if t.strip()}
        # A text of two classes tells neither, and one that differs by a blank alone would stand in both halves.
        own = sorted((t for b, t in bare.items() if several[b] == 1), key=lambda t: seed_of("class", t))[:taken]
        if len(own) < FEWEST_TEXTS:
            shared = len(bare) - sum(several[t] == 1 for t in bare)
            also = f", without {shared} that stand in other classes too" if shared else ""
            raise UserError(
                f"The class {name!r} has {len(own)} different texts{also}; at least {FEWEST_TEXTS} are needed.",
                hint="A .txt file is read as passages of 2,000 characters; a text per row: .csv, .jsonl or .parquet.",
            )
        found.append(LabelledTexts(name, tuple(own[::2]), tuple(own[1::2])))
    return found


def class_features(
    lm: LanguageModel, site: str, classes: Sequence[LabelledTexts], background: Background, embed: Embedder
) -> Features:
    """The classes as features: difference in means from one half, readers from the other.

    background: window means of ordinary text at the site, for their covariance.
    """
    means = np.stack([_stream(lm, site, c.steer)[0].mean(0).double().numpy() for c in classes])
    others = (means.sum(0) - means) / (len(classes) - 1)
    windows = np.stack([window_means(*_stream(lm, site, c.read)).mean(0) for c in classes])
    contexts = np.stack([embed([_cut(lm, t) for t in c.read]).mean(0) for c in classes])
    return Features(
        names=tuple(c.name for c in classes),
        directions=unit(means - others),
        # Against the mean class, not ordinary text: what all classes share (texts read from their start) tells none.
        discriminants=replace(background, mean=windows.mean(0)).discriminants(windows),
        contexts=unit(contexts),
        terms=np.full_like(contexts, np.nan),
        about=tuple(in_words(c.name, c.read) for c in classes),
        peaks=np.full(len(classes), np.nan),
    )


def _stream(lm: LanguageModel, site: str, texts: Sequence[str]) -> tuple[Float[Tensor, "N D"], Int[np.ndarray, " N"]]:
    """The stream of the texts' first tokens, attention sinks left out, and the window of 32 tokens of each row."""
    ids = [row[:LONGEST] for row in lm.tokenize(texts)]
    counts = [sum(token not in lm.special_ids for token in row) for row in ids]
    sizes = [min(WINDOW, count - first) for count in counts for first in range(0, count, WINDOW)]
    rows = lm.capture(ids, [site])[site]
    norms = rows.norm(dim=-1)
    kept = norms <= sink_bound(norms)
    window = np.repeat(np.arange(len(sizes)), sizes)[kept.cpu().numpy()]
    return rows[kept].cpu(), np.unique(window, return_inverse=True)[1]


def _cut(lm: LanguageModel, text: str) -> str:
    return lm.decode(lm.tokenize([text], bos=False)[0][:WINDOW])


def _labelled(path: Path, label: str) -> dict[str, list[str]]:
    readers = {".csv": pl.read_csv, ".parquet": pl.read_parquet, ".jsonl": pl.read_ndjson}
    if path.suffix not in readers:
        raise UserError(f"{path} is not a table of labelled texts.", hint=f"Give one of: {', '.join(readers)}.")
    if not path.is_file():
        raise UserError(f"There is no file {path}.", hint="Check the path.")
    try:
        table = plain(readers[path.suffix])(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if label not in table.columns:
        raise UserError(f"{path} has no column {label!r}.", hint=nearest(label, table.columns))
    text = text_column([c for c in table.columns if c != label], None, str(path))
    named = pl.col(label).cast(pl.String).str.strip_chars()
    kept = table.select(named, pl.col(text).cast(pl.String)).drop_nulls().filter(pl.col(label) != "")
    return {str(name): part[text].to_list() for (name,), part in kept.group_by(label, maintain_order=True)}
