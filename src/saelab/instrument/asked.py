"""A language model as the reader of `described`: is what the feature is about part of the text?

To ask of every text about every feature would cost texts x features questions. A text is asked about its own feature
and `wrong` others (an unsteered one about one more), the other cells of the matrix stay NaN: not asked.

    the n-th text of the feature in place i is asked about those in places (i + 1 + (n w + j) mod (K - 1)) mod K
    the u-th unsteered text about those in places (u (w + 1) + j) mod K, j up to w          places: a seeded order

So every feature is asked of equally many texts of others, prompts are spread over features alike, and the wrong readers
of a text are a fair draw of all: a lift is the own reading's score less the mean of the w wrong ones'. The answer is
the concept rubric's rating, 0 to 2 (judges/rubric.py), the expected one where the judge knows probabilities. What could
not be read has a state and no rating. Must never know doses, scores or files.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Judgement
from saelab.core.seeds import numpy_generator
from saelab.instrument.config import Sizes
from saelab.instrument.outcomes import UNSTEERED
from saelab.instrument.readers import Features
from saelab.judges.client import Judge, Request
from saelab.judges.embedding import READERS, Embedder

ASKED = ".read"  # the end of the name of a step that keeps answers
READ = {"asked": pl.List(pl.Int64), "rating": pl.List(pl.Float64), "state": pl.List(pl.String)}


class AskedReader:
    """Reads by asking a judge. Its vectors have no width: nothing is read from them."""

    def __init__(self, judge: Judge, *, wrong: int, seed: int):
        self._judge, self._wrong, self._seed = judge, wrong, seed
        self._known: dict[tuple[str, str], Judgement] = {}  # the unsteered texts come again at every dose

    @property
    def name(self) -> str:
        return self._judge.name

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "N E"]:
        return np.zeros((len(texts), 0), np.float32)

    def close(self) -> None:
        """Close what the judge holds open."""
        if (close := getattr(self._judge, "close", None)) is not None:
            close()

    def asked(self, owner: Int[np.ndarray, " N"], k: int) -> list[list[int]]:
        """The features that each text is asked about, its own first. owner: -1 for unsteered texts."""
        order = numpy_generator(self._seed, "instrument", "readers asked").permutation(k)
        place, wrong = np.argsort(order), min(self._wrong, k - 1)
        seen: Counter[int] = Counter()
        found = []
        for feature in owner.tolist():
            first = seen[feature] * (wrong + (feature == UNSTEERED))
            seen[feature] += 1
            if feature == UNSTEERED:
                found.append([int(order[(first + j) % k]) for j in range(wrong + 1)])
            else:
                steps = [1 + (first + j) % (k - 1) for j in range(wrong)]
                found.append([feature, *(int(order[(place[feature] + step) % k]) for step in steps)])
        return found

    def readings(self, table: pl.DataFrame, features: Features, progress: Progress = SILENT) -> pl.DataFrame:
        """A row per text (columns `owner`, `text`): whom it was asked about, and what the judge made of it."""
        asked = self.asked(table["owner"].to_numpy(), len(features))
        pairs = [[(features.about[k], text) for k in row] for row, text in zip(asked, table["text"], strict=True)]
        # By feature: questions that begin alike stand together.
        new = sorted({pair for row in pairs for pair in row} - self._known.keys())
        about = {text: Description(text) for text in features.about}
        requests = [Request("concept", text, description=about[name], graded=True) for name, text in new]
        found = dict(zip(new, self._judge.judge(requests, progress=progress), strict=True))
        self._known |= {pair: answer for pair, answer in found.items() if answer.state == "ok"}
        rows = [[(found.get(pair) or self._known[pair]) for pair in row] for row in pairs]
        columns = {
            "asked": asked,
            "rating": [[answer.value for answer in row] for row in rows],
            "state": [[answer.state for answer in row] for row in rows],
        }
        return pl.DataFrame(columns, schema=READ)


def matrix_asked(readings: pl.DataFrame, k: int) -> Float[np.ndarray, "N K"]:
    """Ratings as texts x features, NaN where nobody asked or nothing could be read."""
    found = np.full((readings.height, k), np.nan)
    for i, (asked, ratings) in enumerate(readings.select("asked", "rating").iter_rows()):
        found[i, asked] = [np.nan if rating is None else rating for rating in ratings]
    return found


def reader_of(sizes: Sizes, replies: Path, judge: Judge | None = None) -> Embedder:
    """What `described` reads by. replies: the file that a paid judge keeps its replies in. judge: the reader's, where
    it is open already.
    """
    if sizes.judge is None:
        return READERS[str(sizes.reader)]()
    return AskedReader(judge or sizes.judge.open(replies), wrong=sizes.readers_asked, seed=sizes.seed)


@contextmanager
def reading(sizes: Sizes, replies: Path, given: Embedder | None = None) -> Iterator[Embedder]:
    """The reader that is given, or else the one that the sizes name, closed in the end."""
    reader = given or reader_of(sizes, replies)
    try:
        yield reader
    finally:
        if given is None and isinstance(reader, AskedReader):
            reader.close()
