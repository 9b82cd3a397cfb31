"""The questions of the gate as numbers: the lift of a set, its p under exchanged readers, one set less another.

What could not be measured has no value and a state. Pure arrays: no model, no file.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

from saelab.core.seeds import numpy_generator
from saelab.instrument.outcomes import Texts, percentiles, quality, scores
from saelab.stats.means import mean_estimate

EXACT = 6  # readers up to which all orders are tried


@dataclass(frozen=True)
class GateLift:
    """A lift, or a difference of two, with its 95 % interval over features and what the gate asks of it.

    outcome: whose lift it is, `described` or `read_back`. bound: what the value is held against. n: features, of both
    sets for a difference. n_missing: texts without a score. holds: None for one that gates nothing. state: why
    there is no value.
    """

    name: str
    outcome: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    n_missing: int
    p: float | None = None
    bound: float | None = None
    holds: bool | None = None
    state: str = "ok"


def lift_of(name: str, outcome: str, table: pl.DataFrame, *, seed: int) -> GateLift:
    """The mean lift over the features of `outcomes.by_feature`'s table."""
    found = mean_estimate(_lifts(table), name=f"{name} {outcome}", seed=seed)
    missing = int(table["n_missing"].sum())
    return GateLift(name, outcome, found.value, found.low, found.high, found.n, missing, state=found.state)


def difference_of(name: str, outcome: str, table: pl.DataFrame, other: pl.DataFrame, *, seed: int) -> GateLift:
    """Mean lift of one set less that of another, resampled over the features of both (BCa), p by exchanged labels."""
    a, b = (_lifts(t) for t in (table, other))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    missing = int(table["n_missing"].sum()) + int(other["n_missing"].sum())
    n = len(a) + len(b)
    if min(len(a), len(b)) < 3:
        return GateLift(name, outcome, None, None, None, n, missing, state="too_few")
    value = float(a.mean() - b.mean())
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return GateLift(name, outcome, value, None, None, n, missing)
    rng = numpy_generator(seed, "instrument", name, outcome)

    def apart(x: np.ndarray, y: np.ndarray, axis: int = -1) -> Any:
        return x.mean(axis) - y.mean(axis)

    drawn = scipy.stats.bootstrap((a, b), apart, n_resamples=2000, vectorized=True, method="BCa", rng=rng)
    exchanged = scipy.stats.permutation_test(
        (a, b), apart, n_resamples=2000, vectorized=True, alternative="greater", rng=rng
    )
    low, high = (float(edge) for edge in drawn.confidence_interval)
    return GateLift(name, outcome, value, low, high, n, missing, p=float(exchanged.pvalue))


def exchanged_readers(values: Float[np.ndarray, "N K"], texts: Texts, *, seed: int, draws: int = 2000) -> float | None:
    """p of the mean lift when readers change places: the share of orders in which it is as large; None without scores.

    Every order is tried for up to six features, else `draws` drawn ones. The pool of an exchanged reader leaves out the
    texts of the feature that it is now said to belong to, so the orders are exchangeable where readers know nothing.
    """
    k = values.shape[1]
    rated = quality(texts)
    mean = np.empty((k, k, k))  # mean score of the texts of c by reader r whose pool leaves out o's texts: [r, o, c]
    for o in range(k):
        score = scores(percentiles(values, texts.owner, np.full(k, o)), rated, texts.answer)
        for c in range(k):
            mean[:, o, c] = _known_mean(score[texts.owner == c])
    if k <= EXACT:
        orders = np.array(list(permutations(range(k))))
    else:
        rng = numpy_generator(seed, "instrument", "exchanged readers")
        orders = np.stack([np.arange(k), *(rng.permutation(k) for _ in range(draws))])
    own = np.arange(k)
    placed = mean[orders, own]  # [order, o, c]: the reader that stands for o, on the texts of c
    mine = placed[:, own, own]
    n_others = np.isfinite(placed).sum(1) - np.isfinite(mine)
    others = (np.nansum(placed, axis=1) - np.nan_to_num(mine)) / np.where(n_others, n_others, np.nan)
    per_class = mine - others
    scored = np.isfinite(per_class).all(0)
    if not scored.any():
        return None
    lift = per_class[:, scored].mean(1)
    return float((lift >= lift[0] - 1e-12).mean())


def _known_mean(score: Float[np.ndarray, "N K"]) -> Float[np.ndarray, " K"]:
    """Each reader's mean over the texts that have a score by it; NaN where none has."""
    n = np.isfinite(score).sum(0)
    return np.nansum(score, axis=0) / np.where(n, n, np.nan)


def _lifts(table: pl.DataFrame) -> Float[np.ndarray, " K"]:
    return table["lift"].fill_null(np.nan).to_numpy()
