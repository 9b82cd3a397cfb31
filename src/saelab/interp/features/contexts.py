"""The top contexts of features as a table, for feature cards: token strings with the activation of each.

Contexts are windows round the largest activations of a feature anywhere in the text, largest first, no two overlapping
and no two with the same seven tokens round the peak: a licence text that stands in a hundred files is shown once.
Columns: feature, rank, tokens (list of strings), activations (list of float32), peak (index in the window), document.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from saelab.core.bytetext import has_parts, plain_text, whole_characters
from saelab.interp.features.codes import Codes
from saelab.interp.features.windows import WindowFinder, top_peaks, window_places

# Peaks looked at for each context kept, and tokens on either side of a peak that tell two contexts apart.
SEARCHED, NEAR = 4, 3

SCHEMA = {
    "feature": pl.Int64,
    "rank": pl.Int64,
    "tokens": pl.List(pl.String),
    "activations": pl.List(pl.Float32),
    "peak": pl.Int64,
    "document": pl.Int64,
}


def contexts_table(
    codes: Codes, finder: WindowFinder, strings: Sequence[str], features: Iterable[int], *, count: int = 8
) -> pl.DataFrame:
    """Up to `count` contexts of each feature; strings: each id of the vocabulary, as `core.bytetext` has it.

    Joined, a context's tokens are its text: parts of one character are one token here, which fires as the strongest of
    them.
    """
    radius, passages = finder.config.radius, finder.passages
    tokens, documents = passages.tokens.reshape(-1), passages.documents.reshape(-1)
    owners, centres, heights = [], [], []
    for feature in features:
        places, values = codes.of(feature)
        here = finder.is_centre[places]
        found = top_peaks(places[here], values[here], SEARCHED * count, 2 * radius + 1)
        centres.append(_distinct(tokens, found)[:count])
        heights.append(values_at(places, values, window_places(centres[-1], radius)))
        owners.append(np.full(len(centres[-1]), feature))
    if not owners:
        return pl.DataFrame(schema=SCHEMA)
    at, feature = np.concatenate(centres), np.concatenate(owners)
    # One gather and one reshape for all windows: a Python list per window takes ten times as long.
    ids = tokens[window_places(at, radius)]
    shown = pl.Series(strings).gather(ids.reshape(-1))
    columns = {
        "feature": feature,
        "rank": np.concatenate([np.arange(len(c)) for c in centres]),
        "tokens": shown.reshape((len(at), 2 * radius + 1)),
        "activations": pl.Series(np.concatenate(heights).reshape(-1)).reshape((len(at), 2 * radius + 1)),
        "peak": np.full(len(at), radius),
        "document": documents[at],
    }
    parts = np.fromiter(map(has_parts, strings), bool, len(strings))
    split = np.asarray(parts[ids].any(axis=1))
    table = pl.DataFrame(columns).cast(SCHEMA)  # pyright: ignore[reportArgumentType]  (its stub wants type objects alone)
    if not split.any():
        return table
    # Only the windows that cut a character become Python rows: all of them would take most of the time.
    rows = [_joined(row) for row in table.filter(split).iter_rows(named=True)]
    parted = pl.concat([table.filter(~split), pl.DataFrame(rows, schema=SCHEMA)])
    return parted[np.argsort(np.argsort(split, kind="stable"), kind="stable")]


def _joined(row: dict[str, Any]) -> dict[str, Any]:
    """A context with the parts of each character put together; parts cut off at its ends are left out."""
    groups = [(g, plain_text([row["tokens"][i] for i in g])) for g in whole_characters(row["tokens"])]
    kept = [(g, text) for g, text in groups if text or row["peak"] in g]
    return row | {
        "tokens": [text for _, text in kept],
        "activations": [max(row["activations"][i] for i in g) for g, _ in kept],
        "peak": next(n for n, (g, _) in enumerate(kept) if row["peak"] in g),
    }


def _distinct(tokens: Int[np.ndarray, " P"], centres: Int[np.ndarray, " W"]) -> Int[np.ndarray, " _"]:
    """The centres, in order, whose near tokens no earlier one has."""
    seen: set[bytes] = set()
    kept = []
    for centre in centres.tolist():
        near = tokens[centre - NEAR : centre + NEAR + 1].tobytes()
        if near not in seen:
            seen.add(near)
            kept.append(centre)
    return np.array(kept, np.int64)


def values_at(
    places: Int[np.ndarray, " N"], values: Float[np.ndarray, " N"], wanted: Int[np.ndarray, "W R"]
) -> Float[np.ndarray, "W R"]:
    """A feature's activation at the wanted places, 0 where it is silent. places: ascending."""
    found = np.searchsorted(places, wanted)
    inside = np.minimum(found, max(len(places) - 1, 0))
    if not len(places):
        return np.zeros(wanted.shape, np.float32)
    return np.where(places[inside] == wanted, values[inside], 0).astype(np.float32)
