"""From a matrix texts x readers to outcomes: percentile, harmonic mean, and lift over readers of other concepts.

For the reader of feature k, p is a text's mid-rank among the texts steered with *other* features and the unsteered
ones (chance 0.5). With r = NLL after a neutral prompt less NLL after the text's own, all NLLs by the unsteered model:

    concept      c = 2 clip(2 (p - 1/2), 0, 1)
    instruction  i = 2 clip(r / mean r of unsteered answers, 0, 1)       missing where that mean is not positive
    fluency      f = 2 clip(1 - (nll - mean nll of unsteered texts)/2, 0, 1), at most 2 clip((distinct - 0.4)/0.4, 0, 1)
    score        harmonic mean of c, i, f for answers, of c, f for openings
    lift         the score by the feature's own reader less the mean score by the other features' readers, same text

A text that is broken or about nothing in particular has lift 0. Where a reader was asked of some texts only (asked.py)
the pool is those of them, and the others' mean is over those that were asked of the text. Missing is NaN here and null
in tables, and is counted.
Pure arrays: no model, no file.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from saelab.core.errors import UserError

UNSTEERED = -1
LEAST_REFERENCES = 30  # unsteered texts of a kind that are written
LEAST_KNOWN = 24  # of them with a token: now and then one is empty
FEATURES = {
    "feature": pl.Int64,
    "percentile": pl.Float64,
    "concept": pl.Float64,
    "instruction": pl.Float64,
    "fluency": pl.Float64,
    "score": pl.Float64,
    "wrong": pl.Float64,
    "lift": pl.Float64,
    "n_texts": pl.Int64,
    "n_missing": pl.Int64,
}


@dataclass(frozen=True, eq=False)
class Texts:
    """N texts, those of one set of features at one dose and the unsteered ones.

    owner: the feature a text was steered with, -1 for unsteered. answer: it answers an instruction (else it continues
    an opening). nll: mean NLL per token after BOS, in nats. related: r above. distinct: share of distinct bigrams.
    """

    owner: Int[np.ndarray, " N"]
    answer: Bool[np.ndarray, " N"]
    nll: Float[np.ndarray, " N"]
    related: Float[np.ndarray, " N"]
    distinct: Float[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class Quality:
    """What does not depend on the reader: instruction and fluency ratings of every text, 0 to 2, NaN where missing."""

    instruction: Float[np.ndarray, " N"]
    fluency: Float[np.ndarray, " N"]


def percentiles(
    values: Float[np.ndarray, "N K"], owner: Int[np.ndarray, " N"], left_out: Int[np.ndarray, " K"] | None = None
) -> Float[np.ndarray, "N K"]:
    """p of every text under every reader. left_out: the feature whose texts are not in reader k's pool (k itself)."""
    own = np.arange(values.shape[1]) if left_out is None else left_out
    found = np.full(values.shape, np.nan)
    for k in range(values.shape[1]):
        column = values[:, k]
        there = np.isfinite(column)
        pool = np.sort(column[(owner != own[k]) & there])
        if pool.size:
            below = np.searchsorted(pool, column, "left") + np.searchsorted(pool, column, "right")
            found[there, k] = below[there] / 2 / pool.size
    return found


def quality(texts: Texts) -> Quality:
    """Instruction and fluency against the unsteered texts among `texts`.

    Raises `UserError` where fewer than 24 unsteered texts of a kind that is there at all have a token.
    """
    plain = texts.owner == UNSTEERED
    usual = np.full(len(plain), np.nan)
    for kind, name in ((True, "answers"), (False, "openings")):
        here = texts.answer == kind
        if not here.any():
            continue
        known = here & plain & np.isfinite(texts.nll)
        if known.sum() < LEAST_KNOWN:
            raise UserError(
                f"Scores are relative to unsteered texts, at least {LEAST_KNOWN} of a kind; "
                f"there are {int(known.sum())} {name}.",
                hint="Write more of them; a text without a token does not count.",
            )
        usual[here] = texts.nll[known].mean()
    related = texts.related[plain & texts.answer & np.isfinite(texts.related)]
    reference = float(related.mean()) if related.size else 0.0
    followed = texts.related / reference if reference > 0 else np.full(len(plain), np.nan)
    readable = _rating(1 - (texts.nll - usual) / 2)
    varied = _rating((texts.distinct - 0.4) / 0.4)
    # A text without a token has no likelihood: it is not fluent, and that is known.
    fluency = np.where(np.isfinite(texts.nll), np.minimum(readable, varied), 0.0)
    return Quality(_rating(followed), fluency)


def scores(p: Float[np.ndarray, "N K"], quality: Quality, answer: Bool[np.ndarray, " N"]) -> Float[np.ndarray, "N K"]:
    """The harmonic mean of every text under every reader, 0 to 2."""
    fluency = np.broadcast_to(quality.fluency[:, None], p.shape)
    parts = np.stack([concept_rating(p), fluency, np.broadcast_to(quality.instruction[:, None], p.shape)])
    found = np.where(answer[:, None], _harmonic(parts), _harmonic(parts[:2]))
    # Broken is known whatever else is missing; a zero of another part does not make up for a missing one.
    return np.where(fluency == 0, 0.0, found)


def concept_rating(p: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """c of a percentile: 0 up to chance, 2 from 1 on."""
    return _rating(2 * (p - 0.5))


def lifts(
    score: Float[np.ndarray, "N K"], owner: Int[np.ndarray, " N"], own: Int[np.ndarray, " K"] | None = None
) -> Float[np.ndarray, " N"]:
    """Score by the owner's reader less the mean by the others' that have one; NaN for unsteered texts, and where the
    own score is missing or all others are.

    own: the feature that reader k belongs to (k itself). Raises `UserError` for fewer than two readers.
    """
    if score.shape[1] < 2:
        raise UserError("A lift compares the readers of at least two features.")
    reader_of = np.argsort(np.arange(score.shape[1]) if own is None else own)
    found = np.full(len(owner), np.nan)
    steered = np.flatnonzero(owner != UNSTEERED)
    mine = score[steered, reader_of[owner[steered]]]
    n_others = np.isfinite(score[steered]).sum(1) - np.isfinite(mine)
    others = (np.nansum(score[steered], axis=1) - np.nan_to_num(mine)) / np.where(n_others, n_others, np.nan)
    found[steered] = mine - others
    return found


def by_text(values: Float[np.ndarray, "N K"], texts: Texts) -> pl.DataFrame:
    """One row per text: its percentile under its own feature's reader, and its lift; null for unsteered texts."""
    p = percentiles(values, texts.owner)
    lift = lifts(scores(p, quality(texts), texts.answer), texts.owner)
    steered = np.flatnonzero(texts.owner != UNSTEERED)
    own = np.full(len(lift), np.nan)
    own[steered] = p[steered, texts.owner[steered]]
    table = pl.DataFrame({"percentile": own, "lift": lift}, schema={"percentile": pl.Float64, "lift": pl.Float64})
    return table.with_columns(pl.all().fill_nan(None))


def by_feature(values: Float[np.ndarray, "N K"], texts: Texts) -> pl.DataFrame:
    """One row per feature with the columns of `FEATURES`: means over its texts that have a score.

    values: reader k's reading of every text, NaN where there is none. A feature none of whose texts has a score has
    nulls, and `n_missing` says how many had none.
    """
    p, rated = percentiles(values, texts.owner), quality(texts)
    score = scores(p, rated, texts.answer)
    lift = lifts(score, texts.owner)
    rows = []
    for k in range(values.shape[1]):
        mine = np.flatnonzero(texts.owner == k)
        kept = mine[np.isfinite(lift[mine])]
        means = {
            "percentile": p[kept, k],
            "concept": concept_rating(p[kept, k]),
            "instruction": rated.instruction[kept[texts.answer[kept]]],
            "fluency": rated.fluency[kept],
            "score": score[kept, k],
            "wrong": score[kept, k] - lift[kept],
            "lift": lift[kept],
        }
        row = {name: _mean(part) for name, part in means.items()}
        rows.append({"feature": k, **row, "n_texts": len(mine), "n_missing": len(mine) - len(kept)})
    return pl.DataFrame(rows, schema=FEATURES)


def _mean(values: Float[np.ndarray, "_"]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def _rating(share: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return 2 * np.clip(share, 0, 1)


def _harmonic(parts: Float[np.ndarray, "P N K"]) -> Float[np.ndarray, "N K"]:
    """Harmonic mean over the first axis: 0 where a part is 0, NaN where one is missing."""
    with np.errstate(divide="ignore"):
        return len(parts) / (1 / parts).sum(0)
