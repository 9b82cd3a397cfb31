"""Descriptions without a language model: the tokens and bigrams that drive a feature.

A feature's activity at a token is y = value / largest value, in [0, 1]; its base rate d is the mean of y over the text.
A candidate term is a token, a bigram (previous token, token), or "after u" (any token that follows u). With n
occurrences of a term and a = sum of y over them,

    rate = (a + 2 d) / (n + 2)                                       (shrunk to the base rate by two pseudo-counts)
    gain = a log(rate / d) + (n - a) log((1 - rate) / (1 - d))        (likelihood ratio, Dunning 1993, with soft counts)

Terms are taken by gain; a bigram enters only where its rate is clearly above its token's. A term's weight is its rate,
which is what the `lexical` judge predicts with. Only codes of the describing side may be given to this module.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int
from pydantic import Field

from saelab.core.bytetext import characters_at, has_parts
from saelab.core.config import Config
from saelab.core.records import Description, Term
from saelab.interp.features.codes import Codes
from saelab.interp.features.windows import Passages

# Activations are summed in fixed point: a parallel float sum depends on its order, and bytes must not.
FIXED = 2**32

TOKEN, BIGRAM, AFTER = 0, 1, 2
SPELT = 2  # characters that a sentence names for a token that is a part of several


class DescribeConfig(Config):
    """How long a description may be and what a term needs to enter it."""

    n_terms: int = Field(default=24, description="Terms that a description keeps, at most; all of them are tested.")
    n_shown: int = Field(default=6, description="How many of them its sentence says.")
    least_count: int = Field(default=2, description="Active occurrences that a term needs.")
    least_lift: float = Field(default=3.0, description="How many times its mean activity a feature must show on it.")
    least_gain: float = Field(default=4.0, description="Log-likelihood, in nats, that it must gain.")
    bigram_lift: float = Field(
        default=1.5, description="How many times the rate of its parts a pair of tokens must have to be said."
    )


@dataclass(frozen=True)
class DescribingText:
    """The describing side: token and previous token of every flattened position, and which positions were read.

    strings: each id of the vocabulary, as `core.bytetext` has it.
    """

    tokens: Int[np.ndarray, " P"]
    previous: Int[np.ndarray, " P"]
    read: Bool[np.ndarray, " P"]
    strings: Sequence[str]

    @classmethod
    def over(cls, passages: Passages, read: Bool[np.ndarray, " P"], strings: Sequence[str]) -> "DescribingText":
        """read: positions of the describing side whose activations were encoded. A previous token of no document or of
        another (BOS, separator) is -1: no term speaks of it.
        """
        previous = np.full(passages.tokens.shape, -1, np.int64)
        same = passages.documents[:, 1:] == passages.documents[:, :-1]
        previous[:, 1:] = np.where(same & (passages.documents[:, 1:] >= 0), passages.tokens[:, :-1], -1)
        return cls(passages.tokens.reshape(-1).astype(np.int64), previous.reshape(-1), read, strings)


def describe(
    codes: Codes, text: DescribingText, largest: Float[np.ndarray, " F"], config: DescribeConfig
) -> dict[int, Description]:
    """Descriptions of all features that are active on the describing side and have at least one term.

    largest: each feature's largest value there (the unit of y).
    """
    table = candidates_of(codes, text, largest, config)
    found = {}
    for (feature,), rows in table.group_by("feature", maintain_order=True):
        chosen = _choose(rows.iter_rows(named=True), config)
        if chosen:
            name = int(str(feature))
            written = _written(chosen, text, codes.of(name), config)
            if written is not None:
                found[name] = written
    return found


def candidates_of(
    codes: Codes, text: DescribingText, largest: Float[np.ndarray, " F"], config: DescribeConfig
) -> pl.DataFrame:
    """The best terms of every feature by gain: feature, kind, token, previous, n, active (a), rate, gain, base (d)."""
    feature = codes.features()
    use = text.read[codes.places]
    feature, places = feature[use], codes.places[use]
    active = pl.DataFrame(
        {
            "feature": feature,
            "token": text.tokens[places],
            "previous": text.previous[places],
            "y": np.rint(codes.values[use].astype(np.float64) / largest[feature] * FIXED).astype(np.int64),
        }
    )
    where = np.flatnonzero(text.read)
    occurrences = pl.DataFrame({"token": text.tokens[where], "previous": text.previous[where]})
    base = active.group_by("feature", maintain_order=True).agg((pl.col("y").sum() / (FIXED * len(where))).alias("base"))
    keys = {TOKEN: ["token"], BIGRAM: ["previous", "token"], AFTER: ["previous"]}
    found = [
        _scored(active, occurrences, base, key, config).with_columns(pl.lit(kind).alias("kind"))
        for kind, key in keys.items()
    ]
    return pl.concat(found, how="diagonal").sort(["feature", "gain", "kind"], descending=[False, True, False])


def _scored(
    active: pl.DataFrame, occurrences: pl.DataFrame, base: pl.DataFrame, key: list[str], config: DescribeConfig
) -> pl.DataFrame:
    a, n, d, rate = pl.col("active"), pl.col("n"), pl.col("base"), pl.col("rate")
    return (
        (active if key == ["token"] else active.filter(pl.col("previous") >= 0))
        .group_by(["feature", *key], maintain_order=True)
        .agg(pl.len().alias("count"), (pl.col("y").sum() / FIXED).alias("active"))
        .filter(pl.col("count") >= config.least_count)
        .join(occurrences.group_by(key).agg(pl.len().alias("n")), on=key)
        .join(base, on="feature")
        .with_columns(((a + 2 * d) / (n + 2)).alias("rate"))
        .filter(rate > config.least_lift * d)
        .with_columns((a * (rate / d).log() + (n - a) * ((1 - rate) / (1 - d)).log()).alias("gain"))
        .filter(pl.col("gain") >= config.least_gain)
        .sort(["feature", "gain", *key], descending=[False, True] + [False] * len(key))
        .group_by("feature", maintain_order=True)
        .head(2 * config.n_terms)
        .select("feature", *key, "n", "active", "rate", "gain", "base")
    )


def _choose(rows: Iterable[dict], config: DescribeConfig) -> list[dict]:
    """Terms in order of gain, without those that a chosen one already says."""
    chosen: list[dict] = []
    for row in rows:
        if len(chosen) == config.n_terms:
            break
        kept = {TOKEN: _token, BIGRAM: _bigram, AFTER: _after}[row["kind"]](row, chosen, config)
        if kept is not None:
            chosen.append(kept)
    return sorted(chosen, key=lambda r: -r["gain"])


def _token(row: dict, chosen: list[dict], config: DescribeConfig) -> dict | None:
    """A token, less the occurrences that chosen bigrams already explain."""
    n, a, d = row["n"], row["active"], row["base"]
    for other in chosen:
        if other["kind"] == BIGRAM and other["token"] == row["token"]:
            n, a = n - other["n"], a - other["active"]
    rate = (a + 2 * d) / (n + 2)
    if rate <= config.least_lift * d:
        return None
    gain = a * log(rate / d) + (n - a) * log((1 - rate) / (1 - d))
    return row | {"rate": rate, "gain": gain} if gain >= config.least_gain else None


def _bigram(row: dict, chosen: list[dict], config: DescribeConfig) -> dict | None:
    """A bigram, where its rate is clearly above that of its token, or of "after" its first token."""
    for other in chosen:
        same = (other["kind"] == TOKEN and other["token"] == row["token"]) or (
            other["kind"] == AFTER and other["previous"] == row["previous"]
        )
        if same and row["rate"] < config.bigram_lift * other["rate"]:
            return None
    return row


def _after(row: dict, chosen: list[dict], config: DescribeConfig) -> dict | None:
    """What follows a token, unless the token itself, or one bigram with it, says most of the same."""
    explained = 0.0
    for other in chosen:
        if other["kind"] == TOKEN and other["token"] == row["previous"]:
            return None
        if other["kind"] == BIGRAM and other["previous"] == row["previous"]:
            explained += other["active"]
    return row if explained < 0.5 * row["active"] else None


def _written(
    chosen: list[dict], text: DescribingText, active: tuple[np.ndarray, np.ndarray], config: DescribeConfig
) -> Description | None:
    """The sentence and the terms. A sentence groups the first `n_shown` terms by kind.

    active: places and values of the feature. A term that reads nowhere as a whole character is left out.
    """
    found = [(row, _raw(row, text.strings)) for row in chosen]
    spelt = [(row, raw, _spelt(row, active, text) if has_parts(raw) else [raw]) for row, raw in found]
    spelt = [item for item in spelt if item[2]]
    parts = []
    for kind, lead in ((TOKEN, ""), (BIGRAM, "in "), (AFTER, "after ")):
        shown = [quoted(t) for row, _, texts in spelt[: config.n_shown] if row["kind"] == kind for t in texts]
        if shown:
            parts.append(lead + ", ".join(dict.fromkeys(shown)))
    terms = tuple(
        Term(texts[0], min(1.0, float(row["rate"])), raw if has_parts(raw) else "") for row, raw, texts in spelt
    )
    return Description("; ".join(parts), terms) if terms else None


def _raw(row: dict, strings: Sequence[str]) -> str:
    if row["kind"] == TOKEN:
        return strings[int(row["token"])]
    before = strings[int(row["previous"])]
    return before if row["kind"] == AFTER else before + strings[int(row["token"])]


def _spelt(row: dict, active: tuple[np.ndarray, np.ndarray], text: DescribingText) -> list[str]:
    """The characters that a term of parts stands in where the feature fires, strongest first, `SPELT` at most.

    A character has four bytes at most, so three tokens on either side hold the rest of it.
    """
    places, values = active
    same = text.read[places]
    if row["kind"] != AFTER:
        same &= text.tokens[places] == row["token"]
    if row["kind"] != TOKEN:
        same &= text.previous[places] == row["previous"]
    peaks: dict[str, float] = {}
    for place, value in zip(places[same].tolist(), values[same].tolist(), strict=True):
        first, last = place - (row["kind"] != TOKEN), place - (row["kind"] == AFTER)
        left, right = first, last
        while left > first - 3 and text.previous[left] >= 0:
            left -= 1
        while right < last + 3 and right + 1 < len(text.tokens) and text.previous[right + 1] >= 0:
            right += 1
        around = [text.strings[int(i)] for i in text.tokens[left : right + 1]]
        if found := characters_at(around, range(first - left, last - left + 1)):
            peaks[found] = max(peaks.get(found, 0.0), value)
    return sorted(peaks, key=lambda found: -peaks[found])[:SPELT]


def quoted(text: str) -> str:
    """A token as a reader sees it: in quotes, its spaces kept, line ends and tabs drawn."""
    drawn = text.replace("\n", "↵").replace("\t", "⇥").replace("\r", "")
    return f"“{drawn}”"
