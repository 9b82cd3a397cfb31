"""Kendall's tau_b and what it is without association (the permutation null).

    tau_b = (C - D) / sqrt((n0 - n1) (n0 - n2)),   n0 = n (n - 1) / 2,

C and D concordant and discordant pairs, n1 and n2 the pairs tied in x and in y (Kendall 1945). arXiv 2510.03659 prints
tau_a and computes tau_b; this is tau_b. Under permutation of y the denominator stays, so the null of tau_b is the null
of S = C - D. Nothing here knows of SAEs or tables.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
import scipy
from jaxtyping import Float, Shaped

EXACT_ROWS = 200  # without ties: the exact distribution of S; beyond, it is normal to three digits
ENUMERATED_ROWS = 8  # with ties: all n! orders
CHUNK = 2000  # permutations in memory at once
SLACK = 1e-12
RAREST = 0.05  # a test whose smallest p is above this can find nothing: it gives no p


@dataclass(frozen=True)
class Null:
    """Two-sided p and the interval that holds the middle 95 % of tau_b when x and y are independent.

    p is None where not even the most extreme order is rarer than one in twenty.
    """

    p: float | None
    low: float
    high: float
    method: str


def tau_b(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> float | None:
    """tau_b of two samples; None where it is not defined (fewer than two rows, or a constant one)."""
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(scipy.stats.kendalltau(x, y).statistic)  # pyright: ignore[reportAttributeAccessIssue]  (the stub knows a plain tuple)


def signs(values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N N"]:
    """sign(v_i - v_j) for all pairs, float32: zero on the diagonal and for ties."""
    return np.sign(values[:, None] - values[None, :]).astype(np.float32)


def permutation_null(
    x: Float[np.ndarray, "N"],
    y: Float[np.ndarray, "N"],
    *,
    draws: int,
    generator: np.random.Generator,
) -> Null | None:
    """The two-sided permutation test of independence by tau_b; None where tau_b is not defined.

    Independence is more than tau = 0: where the spread of y depends on x, it rejects more often. Without ties and up to
    200 rows exact; with ties exact up to 8 rows, else by `draws` random orders, with p = (1 + as extreme) /
    (1 + draws); above 200 rows by the normal with the exact permutation variance (ties in).
    """
    observed = tau_b(x, y)
    if observed is None:
        return None
    untied = np.unique(x).size == x.size and np.unique(y).size == y.size
    if untied and x.size <= EXACT_ROWS:
        return _exact(observed, x.size)
    if x.size <= ENUMERATED_ROWS:
        return _empirical(observed, _all_taus(x, y), "exact permutation", sampled=False)
    if x.size > EXACT_ROWS:
        deviation = float(np.sqrt(null_variance(x, y)))
        edge = float(scipy.stats.norm.ppf(0.975)) * deviation
        return Null(float(2 * scipy.stats.norm.sf(abs(observed) / deviation)), -edge, edge, "normal")
    return _empirical(observed, permuted_taus(x, y, draws, generator), "permutation", sampled=True)


def permuted_taus(
    x: Float[np.ndarray, "N"],
    y: Float[np.ndarray, "N"],
    draws: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "R"]:
    """tau_b of x with `draws` random orders of y; neither may be constant."""
    order = np.argsort(x, kind="stable")
    ranks = scipy.stats.rankdata(y, method="dense").astype(np.int16 if y.size < 2**15 else np.int32)[order]
    found: list[np.ndarray] = []
    for start in range(0, draws, CHUNK):
        rows = np.tile(ranks, (min(CHUNK, draws - start), 1))
        found.append(_excess(x[order], generator.permuted(rows, axis=1)))
    return np.concatenate(found) / _scale(x, y)


def null_taus(
    x: Float[np.ndarray, "N"],
    y: Float[np.ndarray, "N"],
    draws: int,
    generator: np.random.Generator,
    *,
    most: int = EXACT_ROWS,
) -> Float[np.ndarray, "R"]:
    """Draws of tau_b without association: by permutation up to `most` rows, above from the normal of its variance."""
    if x.size <= most:
        return permuted_taus(x, y, draws, generator)
    return generator.normal(0.0, np.sqrt(null_variance(x, y)), draws)


def null_variance(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> float:
    """Exact variance of tau_b under permutation, ties included (Kendall 1970, chapter 5)."""
    n = x.size
    t, u = (np.unique(v, return_counts=True)[1].astype(float) for v in (x, y))

    def cubic(c: Float[np.ndarray, "T"]) -> float:
        return float((c * (c - 1) * (2 * c + 5)).sum())

    variance = (n * (n - 1) * (2 * n + 5) - cubic(t) - cubic(u)) / 18
    variance += (t * (t - 1)).sum() * (u * (u - 1)).sum() / (2 * n * (n - 1))
    if n > 2:
        triples = (t * (t - 1) * (t - 2)).sum() * (u * (u - 1) * (u - 2)).sum()
        variance += triples / (9 * n * (n - 1) * (n - 2))
    return float(variance) / _scale(x, y) ** 2


@lru_cache(maxsize=256)
def exact_distribution(n: int) -> Float[np.ndarray, "K"]:
    """P(discordant pairs = k), k = 0 ... n (n - 1) / 2, for n untied rows in random order (Mahonian numbers / n!)."""
    found = np.ones(1)
    for rows in range(2, n + 1):
        padded = np.cumsum(np.concatenate([found, np.zeros(rows - 1)]))
        padded[rows:] -= padded[:-rows].copy()
        found = padded / rows
    return found


def log_orders(values: Float[np.ndarray, "N"]) -> float:
    """Logarithm of the number of different orders of the values: log(n! / product of the ties' factorials)."""
    counts = np.unique(values, return_counts=True)[1]
    return float(scipy.special.gammaln(values.size + 1) - scipy.special.gammaln(counts + 1).sum())


def _exact(observed: float, n: int) -> Null:
    chances = exact_distribution(n)
    taus = 1 - 2 * np.arange(chances.size) / (chances.size - 1)
    p = float(chances[np.abs(taus) >= abs(observed) - 1e-9].sum())
    high = float(-taus[int(np.searchsorted(np.cumsum(chances), 0.975 - SLACK))])
    return Null(min(p, 1.0) if 2 * chances[0] <= RAREST else None, -high, high, "exact permutation")


def _empirical(observed: float, taus: Float[np.ndarray, "R"], method: str, *, sampled: bool) -> Null:
    extreme = np.abs(taus) >= abs(observed) - SLACK
    low, high = np.quantile(taus, [0.025, 0.975])
    p = (1 + int(extreme.sum())) / (1 + taus.size) if sampled else float(extreme.mean())
    rare = sampled or float((np.abs(taus) >= np.abs(taus).max() - SLACK).mean()) <= RAREST
    return Null(float(p) if rare else None, float(low), float(high), method)


def _all_taus(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> Float[np.ndarray, "R"]:
    order = np.argsort(x, kind="stable")
    ranks = scipy.stats.rankdata(y, method="dense").astype(np.int16)
    return _excess(x[order], np.array(list(permutations(ranks)), dtype=np.int16)) / _scale(x, y)


def _excess(ordered: Float[np.ndarray, "N"], rows: Shaped[np.ndarray, "R N"]) -> Float[np.ndarray, "R"]:
    """S = C - D of the sorted x against each row of ranks."""
    found = np.zeros(rows.shape[0])
    after = np.searchsorted(ordered, ordered, side="right")  # first row whose x is larger
    for i, start in enumerate(after.tolist()):
        rest, own = rows[:, start:], rows[:, i : i + 1]
        found += np.count_nonzero(rest > own, axis=1)
        found -= np.count_nonzero(rest < own, axis=1)
    return found


def _scale(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> float:
    """sqrt((n0 - n1) (n0 - n2))."""

    def untied(v: Float[np.ndarray, "N"]) -> float:
        counts = np.unique(v, return_counts=True)[1].astype(float)
        return (v.size * (v.size - 1) - float((counts * (counts - 1)).sum())) / 2

    return float(np.sqrt(untied(x) * untied(y)))
