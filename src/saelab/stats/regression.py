"""Rank regression: the ranks of a response on the ranks of numeric terms and on labels, fitted by least squares.

Iman and Conover (1979): replace every numeric column by its mid-ranks, standardise, fit. A coefficient reads as
"standard deviations of rank of the response per standard deviation of rank of the term, the others held"; of a label,
the difference from its first value in sorted order. It answers "does x still go with y when L0, architecture and LM are
in the model". Rows that share a cluster (an LM) are not independent: where `cluster` is named, ranks are taken and the
model is fitted inside each of them, and what is given is the mean of their coefficients (`within.py`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float, Int

import saelab.stats.resample as resample
from saelab.core.errors import UserError
from saelab.stats.association import FEWEST_FOR_INTERVAL, Draws
from saelab.stats.estimate import Estimate, frame
from saelab.stats.inputs import complete, labels, numbers, require
from saelab.stats.within import Statistic, mean_within, members

CHUNK = 2000
LABELS: dict[str, Any] = {"response": pl.String, "term": pl.String}


def rank_regression(
    table: pl.DataFrame,
    *,
    response: str,
    terms: Sequence[str],
    cluster: str | None = None,
    seed: int = 0,
    draws: int = 10_000,
) -> pl.DataFrame:
    """Coefficients of the rank regression of `response` on `terms` (numbers or labels), one row each.

    BCa intervals from resampled rows, ranked again in each resample. Where terms are collinear, or there are not
    three rows more than coefficients and mean, every row has a state and no value. cluster: a column (the LM) with two
    values or more, inside which everything is done; each term then has two rows, of these clusters and of clusters
    like these, and a cluster that cannot be fitted is counted in their note.
    """
    require(table, [response, *terms, *([cluster] if cluster else [])])
    if not terms:
        raise UserError("A rank regression needs at least one term.", hint="Name columns in terms=.")
    if cluster in terms:
        raise UserError(f"{cluster} is the cluster and a term.", hint="Inside one of its values it does not vary.")
    if cluster and len(set(labels(table, cluster).tolist())) > 1:
        return _within(table, response, terms, cluster, Draws(seed, draws, ("rank regression", response, *terms)))
    numeric = [t for t in terms if table[t].dtype.is_numeric()]
    labelled = [t for t in terms if t not in numeric]
    kept, dropped = complete(table, [response, *numeric], sort=labelled)
    ranked, fixed, names = _design(kept, response, numeric, labelled)
    n = kept.height
    start = Estimate(statistic="rank coefficient", state="too_few", n=n, dropped=dropped, seed=seed)
    if n < len(names) + 4:
        return _rows(response, names, [start] * len(names))
    values = _fit(ranked, fixed, np.arange(n)[None])[0]
    if not np.isfinite(values).all():
        return _rows(response, names, [replace(start, state="undefined", note="constant or collinear")] * len(names))
    own = Draws(seed, draws, ("rank regression", response, *terms))
    drawn = _fit(ranked, fixed, own.generator("bootstrap").integers(0, n, (draws, n)))
    others = np.array([np.delete(np.arange(n), i) for i in range(n)])
    influence = values - _fit(ranked, fixed, others)
    found: list[Estimate] = []
    for i, value in enumerate(values):
        row = replace(start, state="ok", value=float(value))
        interval = resample.bca(drawn[:, i], float(value), influence[:, i]) if n >= FEWEST_FOR_INTERVAL else None
        if interval:
            p = resample.two_sided(drawn[:, i])
            row = replace(row, low=interval[0], high=interval[1], p=p, p_method="bootstrap")
            row = replace(row, interval_method="BCa bootstrap")
        found.append(row if interval else replace(row, note="too few resamples keep every label of the model"))
    return _rows(response, names, found)


def _within(table: pl.DataFrame, response: str, terms: Sequence[str], cluster: str, draws: Draws) -> pl.DataFrame:
    """The rows of `rank_regression` over clusters."""
    numeric = [t for t in terms if table[t].dtype.is_numeric()]
    labelled = [t for t in terms if t not in numeric]
    kept, dropped = complete(table, [response, *numeric], sort=[cluster, *labelled])
    ranked, fixed, names = _design(kept, response, numeric, labelled)
    start = Estimate(
        statistic="rank coefficient within", state="too_few", n=kept.height, dropped=dropped, seed=draws.seed
    )
    parts = members(labels(kept, cluster))

    def of(rows: Int[np.ndarray, "n"], term: int) -> Statistic:
        def coefficient(drawn: resample.Rows) -> Float[np.ndarray, "R"]:
            if rows.size < len(names) + 4:
                return np.full(len(drawn.weights), np.nan, dtype=float)
            return _fit(ranked[rows], fixed[rows], _picks(drawn)).take(term, axis=1)

        return coefficient

    found: list[tuple[tuple[str, str], Estimate]] = []
    for term, name in enumerate(names):
        both = mean_within(
            start, [of(r, term) for r in parts], [r.size for r in parts], cluster, draws.named(name), bound=np.inf
        )
        found += [((response, name), e) for e in both]
    return frame(LABELS, found)


def _picks(drawn: resample.Rows) -> Int[np.ndarray, "R M"]:
    """The rows of every resample, each as often as it is drawn."""
    weights: np.ndarray = drawn.weights.astype(int)
    count, n = (int(size) for size in weights.shape)
    rows: np.ndarray = np.tile(np.arange(n, dtype=int), count)
    return np.repeat(rows, weights.ravel()).reshape(count, -1)


def _design(
    table: pl.DataFrame, response: str, numeric: Sequence[str], labelled: Sequence[str]
) -> tuple[Float[np.ndarray, "N P"], Float[np.ndarray, "N Q"], list[str]]:
    """Columns to rank (response first), 0/1 columns of labels without their first value, and the terms' names."""
    names = list(numeric)
    dummies: list[np.ndarray] = []
    for column in labelled:
        values = labels(table, column)
        for value in sorted(set(values.tolist()))[1:]:
            names.append(f"{column}={value}")
            dummies.append((values == value).astype(float))
    fixed = np.stack(dummies, axis=1) if dummies else np.zeros((table.height, 0))
    return np.stack([numbers(table, c) for c in (response, *numeric)], axis=1), fixed, names


def _fit(
    ranked: Float[np.ndarray, "N P"], fixed: Float[np.ndarray, "N Q"], picks: Int[np.ndarray, "R M"]
) -> Float[np.ndarray, "R C"]:
    """Coefficients per row of picks; NaN where the design is not of full rank."""
    return np.concatenate([_fit_chunk(ranked, fixed, picks[i : i + CHUNK]) for i in range(0, picks.shape[0], CHUNK)])


def _fit_chunk(
    ranked: Float[np.ndarray, "N P"], fixed: Float[np.ndarray, "N Q"], picks: Int[np.ndarray, "R M"]
) -> Float[np.ndarray, "R C"]:
    ranks = scipy.stats.rankdata(ranked[picks], axis=1)
    ranks = ranks - ranks.mean(axis=1, keepdims=True)
    spread = ranks.std(axis=1, keepdims=True)
    ranks = np.divide(ranks, spread, out=np.zeros_like(ranks), where=spread > 0)
    other = fixed[picks]
    other = other - other.mean(axis=1, keepdims=True)
    design = np.concatenate([ranks[:, :, 1:], other], axis=2)
    gram: np.ndarray = np.einsum("rnc,rnd->rcd", design, design) / picks.shape[1]
    sound = (np.linalg.eigvalsh(gram)[:, 0] > 1e-6) & (spread[:, 0, 0] > 0)
    gram[~sound] = np.eye(gram.shape[1])
    target: np.ndarray = np.einsum("rnc,rn->rc", design, ranks[:, :, 0]) / picks.shape[1]
    solved = np.linalg.solve(gram, target[:, :, None])
    return np.where(sound[:, None], solved[:, :, 0], np.nan)


def _rows(response: str, names: Sequence[str], estimates: Sequence[Estimate]) -> pl.DataFrame:
    found = [((response, name), e) for name, e in zip(names, estimates, strict=True)]
    return frame(LABELS, found)
