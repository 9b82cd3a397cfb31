"""The top contexts of features as a table, for feature cards: token strings with the activation of each.

Contexts are windows round the largest activations of a feature anywhere in the text, largest first, no two overlapping
and no two with the same seven tokens round the peak: a licence text that stands in a hundred files is shown once. What
a feature fires on most often is not always what it fires on most strongly, so where none of them holds the first term
of its description, the last gives way to the strongest that does. Columns: feature, rank, tokens (list of strings),
activations (list of float32), peak (index in the window), document.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from saelab.core.bytetext import has_parts, plain_text, whole_characters
from saelab.core.records import Term
from saelab.interp.features.codes import Codes
from saelab.interp.features.windows import WindowFinder, distance, top_peaks, window_places

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
    codes: Codes,
    finder: WindowFinder,
    strings: Sequence[str],
    features: Iterable[int],
    *,
    count: int = 8,
    terms: Mapping[int, Term] | None = None,
) -> pl.DataFrame:
    """Up to `count` contexts of each feature; strings: each id of the vocabulary, as `core.bytetext` has it.

    features: ascending. terms: the first term of each that is described. Joined, a context's tokens are its text: parts
    of one character are one token here, which fires as the strongest of them.
    """
    radius, tokens = finder.config.radius, finder.passages.tokens.reshape(-1)
    centres: dict[int, np.ndarray] = {}
    for feature in features:
        places, values = codes.of(feature)
        here = finder.is_centre[places]
        found = top_peaks(places[here], values[here], SEARCHED * count, 2 * radius + 1)
        centres[feature] = _distinct(tokens, found)[:count]
    table = _table(codes, finder, strings, centres)
    lacking = _lacking(table, terms or {})
    if not lacking:
        return table
    ids = {text: i for i, text in enumerate(strings)}
    others: dict[int, np.ndarray] = {}
    for feature, term in lacking.items():
        kept = centres[feature][: count - 1]
        if (place := _strongest(term, codes.of(feature), finder, strings, ids, kept)) is not None:
            chosen = np.append(kept, place)
            heights = values_at(*codes.of(feature), chosen[:, None])[:, 0]
            others[feature] = chosen[np.argsort(-heights, kind="stable")]
    rest = table.filter(~pl.col("feature").is_in(list(others)))
    return pl.concat([rest, _table(codes, finder, strings, others)]).sort("feature", "rank")


def _lacking(table: pl.DataFrame, terms: Mapping[int, Term]) -> dict[int, Term]:
    """The terms of features of which no context holds theirs."""
    looked_for = pl.DataFrame(
        {"feature": list(terms), "term": [t.text for t in terms.values()]}, {"feature": pl.Int64, "term": pl.String}
    )
    texts = table.select("feature", pl.col("tokens").list.join("").alias("text")).join(looked_for, on="feature")
    held = pl.col("text").str.contains(pl.col("term"), literal=True).any()
    return {f: terms[f] for f in sorted(texts.group_by("feature").agg(held).filter(~pl.col("text"))["feature"])}


def _strongest(
    term: Term,
    active: tuple[np.ndarray, np.ndarray],
    finder: WindowFinder,
    strings: Sequence[str],
    ids: Mapping[str, int],
    shown: Int[np.ndarray, " W"],
) -> int | None:
    """Where the feature fires most on a term, or after it, beside the windows shown; None: nowhere that has a window.

    active: places and values of the feature. A part of a character counts only where the window reads as the term does.
    """
    places, values = active
    tokens, radius, name = finder.passages.tokens.reshape(-1), finder.config.radius, term.raw or term.text
    free = finder.is_centre[places]
    if len(shown):
        free &= distance(places, np.sort(shown)) > 2 * radius
    places, values = places[free], values[free]
    now, before = tokens[places], tokens[places - 1]
    on = (now == ids.get(name, -1)) | (before == ids.get(name, -1))
    for cut in range(1, len(name)):
        on |= (before == ids.get(name[:cut], -1)) & (now == ids.get(name[cut:], -1))
    for i in np.flatnonzero(on)[np.argsort(-values[on], kind="stable")].tolist():
        window = tokens[places[i] - radius : places[i] + radius + 1]
        if term.text in plain_text([strings[int(t)] for t in window]):
            return int(places[i])
    return None


def _table(
    codes: Codes, finder: WindowFinder, strings: Sequence[str], centres: Mapping[int, Int[np.ndarray, " W"]]
) -> pl.DataFrame:
    """The windows round these centres."""
    radius, passages = finder.config.radius, finder.passages
    tokens, documents = passages.tokens.reshape(-1), passages.documents.reshape(-1)
    if not centres:
        return pl.DataFrame(schema=SCHEMA)
    heights = [values_at(*codes.of(f), window_places(found, radius)) for f, found in centres.items()]
    at = np.concatenate(list(centres.values()))
    feature = np.repeat(list(centres), [len(found) for found in centres.values()])
    # One gather and one reshape for all windows: a Python list per window takes ten times as long.
    ids = tokens[window_places(at, radius)]
    shown = pl.Series(strings).gather(ids.reshape(-1))
    columns = {
        "feature": feature,
        "rank": np.concatenate([np.arange(len(c)) for c in centres.values()]),
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
