"""The exact one-to-one matching of two sets of features, without a cost matrix (spec: SAE Match notes, C.2).

    prices     annealed Sinkhorn: on samples while hot, on the candidates while cold (prices.py)
    plain      every row's cheapest column at the hot prices, where these are distinct: done (distinct.py)
    candidates the smallest reduced costs of every row and column, and one real matching, so that a solution exists
    repeat     sparse assignment on the candidates (float64 costs from differences)
               prices that fit it on the candidates (label correcting)
               pricing: one pass over all pairs, later only over rows whose price rose; stop where none is violated,
               else add the violated pairs

At the end the matching is feasible, the prices are dual feasible and complementary, so the gap is rounding. Small
problems take all pairs as candidates; dense solvers were measured to be no faster from 2,048 rows on. Core-oriented
assignment is Volgenant 1996; nothing here knows SAEs.

Where one side has more features, all of the smaller side are matched. No price of the larger side is then positive, and
that of a feature left over is zero.
"""

import time
from dataclasses import dataclass, replace

import lap
import numpy as np
import scipy  # its parts are loaded at first use
from jaxtyping import Bool, Float, Int

from saelab.core.errors import SaelabError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.matching.cost import Costs, Edges
from saelab.matching.distinct import Distinct, distinct, likely
from saelab.matching.listing import listed
from saelab.matching.pool import RELATIVE_GAP, Pool, pool_of, pool_of_all
from saelab.matching.prices import cold_prices, hot_prices, samples_of, spread

DENSE_BELOW = 512  # rows up to which all pairs are candidates
KEPT = 16  # of each row and each column for the assignment
MOST_ROUNDS = 60


@dataclass(frozen=True)
class Assignment:
    """permutation[i] = j (-1: left over). cost - lower_bound = gap, proved over all pairs by the prices (u, v)."""

    permutation: Int[np.ndarray, " n"]
    cost: float
    lower_bound: float
    rounds: int
    edges_per_row: float
    seconds: float
    method: str
    u: Float[np.ndarray, " n"]
    v: Float[np.ndarray, " m"]

    @property
    def gap(self) -> float:
        """cost - lower bound, in the units of the cost; at most rounding below zero."""
        return self.cost - self.lower_bound


def assign(costs: Costs, *, progress: Progress = SILENT) -> Assignment:
    """The matching of least total cost that leaves no row, or no column where they are fewer, unmatched."""
    n, m = costs.shape
    if not min(n, m):
        raise UserError("There are no features to match.")
    if (unit := costs.unit) != 1:  # the solver takes no costs of 1e6 and more
        found, square = assign(costs.over(unit), progress=progress), unit**2
        cost, bound = found.cost * square, found.lower_bound * square
        return replace(found, cost=cost, lower_bound=bound, u=found.u * square, v=found.v * square)
    if n > m:
        turned = assign(costs.transposed(), progress=progress)
        permutation = np.full(n, -1)
        permutation[turned.permutation] = np.arange(m)
        return replace(turned, permutation=permutation, u=turned.v, v=turned.u)
    start = time.perf_counter()
    small = n * m <= DENSE_BELOW**2
    with progress.task("matching", unit="rounds") as task:
        begun = _Begun(pool_of_all(costs), np.zeros(n), np.zeros(m)) if small else _begun(costs)
        if isinstance(begun, Distinct):
            task.advance(1, violated=0, gap=begun.cost - begun.lower_bound)
            seconds, proved = time.perf_counter() - start, (begun.cost, begun.lower_bound)
            return Assignment(begun.permutation, *proved, 1, 1.0, seconds, "distinct", begun.u, begun.v)
        pool, u, v = begun.pool, begun.u, begun.v
        for rounds in range(1, MOST_ROUNDS + 1):
            edges = pool.chosen_from
            permutation = sparse_assignment(edges, u, v)
            u, v = fitted_prices(edges, permutation, v)
            cost, bound, added = pool.priced(u, v, permutation)
            task.advance(1, violated=added, gap=cost - bound)
            if not added:
                seconds = time.perf_counter() - start
                method = "dense" if small else "blocked"
                return Assignment(permutation, cost, bound, rounds, len(edges) / n, seconds, method, u, v)
    raise SaelabError(f"The matching of {n} features did not close in {MOST_ROUNDS} rounds.")


def score(costs: Costs, permutation: Int[np.ndarray, " n"], optimum: Assignment | None = None) -> tuple[float, float]:
    """(cost, proved bound on cost - least cost) of any full matching. optimum: where it is known already."""
    n, m = costs.shape
    columns = np.unique(permutation)
    if len(permutation) != n or len(columns) < n or columns[0] < 0 or columns[-1] >= m:
        raise UserError("Only a matching of all rows, no column more than once, can be scored.")
    cost = float(costs.edges(np.arange(n), permutation).sum())
    return cost, cost - (optimum or assign(costs)).lower_bound


@dataclass(frozen=True)
class _Begun:
    """The pairs to begin with, and prices near those of the optimum."""

    pool: Pool
    u: Float[np.ndarray, " n"]
    v: Float[np.ndarray, " m"]


def _begun(costs: Costs) -> _Begun | Distinct:
    """Where a matching is looked for, or the matching where it is plain."""
    unit, samples, (n, m) = spread(costs), samples_of(costs), costs.shape
    u, v = hot_prices(samples, unit)
    if n == m and likely(samples, v, unit):
        plain = distinct(costs, v)
        if plain is not None and plain.cost - plain.lower_bound <= RELATIVE_GAP * plain.cost:
            return plain
    listing = listed(costs, samples, u, v)
    del samples
    edges = listing.edges
    cold_u, cold_v = cold_prices(edges, listing.u, listing.v, unit)
    reduced = edges.weights - cold_u[edges.i] - cold_v[edges.j]
    kept = _smallest(edges.i, reduced, KEPT) | _smallest(edges.j, reduced, KEPT)
    pool = pool_of(costs, listing, kept)
    pool.use(*_missing(edges.kept(kept), costs.shape))
    return _Begun(pool, cold_u, cold_v)


def _smallest(groups: Int[np.ndarray, " E"], x: Float[np.ndarray, " E"], k: int) -> Bool[np.ndarray, " E"]:
    """Which of x are among the k smallest of their group."""
    sizes = np.bincount(groups)
    order = np.argsort(groups + (x - x.min()) * (0.999 / (float(np.ptp(x)) or 1.0)))
    rank = np.arange(len(x)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    found = np.zeros(len(x), bool)
    found[order[rank < k]] = True
    return found


def _missing(edges: Edges, shape: tuple[int, int]) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Pairs with which the edges hold a matching of all rows."""
    n, m = shape
    graph = scipy.sparse.csr_array((np.ones(len(edges), bool), edges.j.astype(np.int32), edges.starts(n)), shape=shape)
    partner = scipy.sparse.csgraph.maximum_bipartite_matching(graph, perm_type="column")
    alone = np.flatnonzero(partner < 0)
    return alone, np.setdiff1d(np.arange(m), partner)[: len(alone)]


def sparse_assignment(edges: Edges, u: Float[np.ndarray, " n"], v: Float[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """The cheapest matching of all rows on the edges (LAPMOD; scipy's sparse solver can hang on ties).

    It is given reduced costs, which have the same optimum and leave little to do where the prices are good.
    """
    n, m = len(u), len(v)
    i, j, reduced = edges.i, edges.j, edges.weights - u[edges.i] - v[edges.j]
    if n < m:
        i, j, reduced = _squared(i, j, reduced, v, n)
    size = n if n == m else n + m
    starts = np.r_[0, np.cumsum(np.bincount(i, minlength=size))].astype(np.int32)
    # Its own sum of costs would be a Python loop over rows.
    partner, _ = lap.lapmod(size, reduced - reduced.min(), starts, j.astype(np.int32), return_cost=False)
    return np.asarray(partner)[:n].astype(np.int64)


def _squared(
    i: Int[np.ndarray, " E"],
    j: Int[np.ndarray, " E"],
    reduced: Float[np.ndarray, " E"],
    v: Float[np.ndarray, " m"],
    n: int,
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """The same choice as a square one: column j may stay with a row n + j of its own, for free; where it is taken by
    row i instead, that row takes a column m + i of the row's own.
    """
    m = len(v)
    own = np.arange(m)
    rows, columns = np.concatenate([i, n + own, n + j]), np.concatenate([j, own, m + i])
    order = np.argsort(rows * (n + m) + columns)
    weights = np.concatenate([reduced, -v, np.zeros(len(i))])
    return rows[order], columns[order], weights[order]


def fitted_prices(
    edges: Edges, permutation: Int[np.ndarray, " n"], v: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """The greatest prices v <= v_old (<= 0 where columns are left over) with r_ij >= 0 on all edges and 0 on the
    matching, and their u.
    """
    i, j, weights, (n, m) = edges.i, edges.j, edges.weights, (len(permutation), len(v))
    own, owner, starts = np.empty(n), np.full(m, -1), edges.starts(n)
    owner[permutation] = np.arange(n)
    matched = permutation[i] == j
    own[i[matched]] = weights[matched]
    extra = weights - own[i]
    v = v.copy() if n == m else np.zeros(m)
    rows = np.arange(n)
    for _ in range(20 * m):
        at = _edges_of(rows, starts)
        reached = v.copy()
        np.minimum.at(reached, j[at], v[permutation[i[at]]] + extra[at])
        changed = np.flatnonzero(reached < v - 1e-12 * (1 + np.abs(v)))
        if not len(changed):
            break
        v[changed] = reached[changed]
        rows = owner[changed]
        rows = rows[rows >= 0]
    return own - v[permutation], v


def _edges_of(rows: Int[np.ndarray, " r"], starts: Int[np.ndarray, " s"]) -> Int[np.ndarray, " E"]:
    """The places of all edges of some rows."""
    sizes = starts[rows + 1] - starts[rows]
    ends = np.cumsum(sizes)
    return np.repeat(starts[rows] - (ends - sizes), sizes) + np.arange(int(sizes.sum()))
