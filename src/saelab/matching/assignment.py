"""The exact one-to-one matching of two sets of features, without a cost matrix (spec: SAE Match notes, C.2).

    prices     annealed Sinkhorn: blocked while hot, on the candidates while cold (prices.py)
    candidates the smallest reduced costs of every row and column, and one real matching, so that a solution exists
    repeat     sparse assignment on the candidates (float64 costs from differences)
               prices that fit it on the candidates (label correcting)
               pricing: one pass over all pairs, later only over rows whose price rose; stop where none is violated,
               else add the violated pairs

At the end the matching is feasible, the prices are dual feasible and complementary, so the gap is rounding. Small
problems take all pairs as candidates; a dense solver was measured to be slower from 2,048 rows on. Core-oriented
assignment is Volgenant 1996; nothing here knows SAEs.
"""

import time
from dataclasses import dataclass

import lap
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.errors import SaelabError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.matching.certificate import price
from saelab.matching.cost import Costs, Edges
from saelab.matching.prices import cold_prices, hot_prices, spread, starts_of

DENSE_BELOW = 512  # rows up to which all pairs are candidates
CANDIDATES = 64  # of each row and each column, about, for the cold prices
KEPT = 16  # of each row and each column for the assignment
RANK = 4  # the order statistic of a sample that estimates the k-th smallest reduced cost
RELATIVE_GAP = 1e-9
MOST_ROUNDS = 60


@dataclass(frozen=True)
class Assignment:
    """permutation[i] = j. cost - lower_bound = gap, proved over all pairs by the prices (u, v)."""

    permutation: Int[np.ndarray, " n"]
    cost: float
    lower_bound: float
    rounds: int
    edges_per_row: float
    seconds: float
    method: str
    u: Float[np.ndarray, " n"]
    v: Float[np.ndarray, " n"]

    @property
    def gap(self) -> float:
        """cost - lower bound, in the units of the cost; at most rounding below zero."""
        return self.cost - self.lower_bound


def assign(costs: Costs, *, progress: Progress = SILENT) -> Assignment:
    """The matching of least total cost between equally many rows and columns, with its lower bound."""
    n, m = costs.shape
    if n != m:
        raise UserError(f"A full matching needs equally many features, not {n} and {m}.", hint="Give a reject cost.")
    start = time.perf_counter()
    everyone = np.arange(n)
    pricing = None
    with progress.task("matching", unit="rounds") as task:
        edges, u, v = _all_pairs(costs) if n <= DENSE_BELOW else _sparse(costs)
        for rounds in range(1, MOST_ROUNDS + 1):
            permutation = sparse_assignment(edges, u, v)
            u, v = fitted_prices(edges, permutation, v)
            cost = float(costs.edges(everyone, permutation).sum())
            tolerance = RELATIVE_GAP * cost / n + 1e-13 * costs.scale
            pricing = price(costs, u, v, tolerance=tolerance, before=pricing, edges=edges)
            task.advance(1, violated=len(pricing.i), gap=cost - pricing.lower_bound)
            before = len(edges)
            if len(pricing.i):
                edges = edges.with_pairs(pricing.i, pricing.j, costs)
            if len(edges) == before:
                seconds = time.perf_counter() - start
                method = "dense" if n <= DENSE_BELOW else "blocked"
                bound = pricing.lower_bound
                return Assignment(permutation, cost, bound, rounds, before / n, seconds, method, u, v)
    raise SaelabError(f"The matching of {n} features did not close in {MOST_ROUNDS} rounds.")


def score(costs: Costs, permutation: Int[np.ndarray, " n"], optimum: Assignment | None = None) -> tuple[float, float]:
    """(cost, proved bound on cost - least cost) of any full matching. optimum: where it is known already."""
    n = costs.shape[0]
    if not np.array_equal(np.sort(permutation), np.arange(n)):
        raise UserError("Only a full matching, each column once, can be scored.")
    cost = float(costs.edges(np.arange(n), permutation).sum())
    return cost, cost - (optimum or assign(costs)).lower_bound


def _all_pairs(costs: Costs) -> tuple[Edges, Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    n = costs.shape[0]
    i, j = np.divmod(np.arange(n * n), n)
    return Edges(i, j, costs.edges(i, j)), np.zeros(n), np.zeros(n)


def _sparse(costs: Costs) -> tuple[Edges, Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The edges to begin with, and prices near those of the optimum."""
    warm = hot_prices(costs)
    wide = candidates(costs, *warm)
    u, v = (p.double().cpu().numpy() for p in warm)
    u, v = cold_prices(wide, u, v, spread(costs))
    reduced = wide.weights - u[wide.i] - v[wide.j]
    kept = _smallest(wide.i, reduced, KEPT)
    order = wide.by_column
    kept[order] |= _smallest(wide.j[order], reduced[order], KEPT)
    narrow = wide.kept(kept)
    full = greedy_full(narrow.i, narrow.j, reduced[kept], len(u))
    edges = Edges(narrow.i, narrow.j, costs.edges(narrow.i, narrow.j)).with_pairs(*full, costs)
    return edges, u, v


def _smallest(groups: Int[np.ndarray, " E"], x: Float[np.ndarray, " E"], k: int) -> Bool[np.ndarray, " E"]:
    """Which of x are among the k smallest of their group; the groups stand in order."""
    order = np.lexsort((x, groups))
    starts = starts_of(groups)
    rank = np.arange(len(x)) - np.repeat(starts, np.diff(np.r_[starts, len(x)]))
    found = np.zeros(len(x), bool)
    found[order[rank < k]] = True
    return found


def candidates(costs: Costs, u: Float[Tensor, " n"], v: Float[Tensor, " m"], k: int = CANDIDATES) -> Edges:
    """About the k smallest reduced costs of every row and every column, at least one of each (float32 costs).

    How small is small enough is read from one in so many columns (rows), so that the one pass over all pairs only
    compares.
    """
    every = max(1, k // RANK)
    by_row = _thresholds(costs.some_columns(every), -u, -v[::every])
    by_column = _thresholds(costs.transposed().some_columns(every), -v, -u[::every])
    rows, columns, weights = [], [], []
    for part, block in costs.blocks(rows=-u, columns=-v):
        small = (block <= by_column).logical_or_(block <= by_row[part, None])
        if int(small.sum()) > 16 * k * len(block):  # ties
            at = block.topk(min(k, block.shape[1]), dim=1, largest=False, sorted=False).indices
            small = torch.zeros_like(small).scatter_(1, at, True)
        i, j = small.nonzero(as_tuple=True)
        weights.append((block[i, j] + u[part][i] + v[j]).double().cpu().numpy())
        rows.append(i.cpu().numpy() + part.start)
        columns.append(j.cpu().numpy())
    return Edges(np.concatenate(rows), np.concatenate(columns), np.concatenate(weights))


def _thresholds(sample: Costs, rows: Float[Tensor, " n"], columns: Float[Tensor, " s"]) -> Float[Tensor, " n"]:
    rank = min(RANK, sample.shape[1])
    parts = (b.topk(rank, dim=1, largest=False).values[:, -1] for _, b in sample.blocks(rows=rows, columns=columns))
    return torch.cat(list(parts))


def greedy_full(
    i: Int[np.ndarray, " E"], j: Int[np.ndarray, " E"], weights: Float[np.ndarray, " E"], n: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """A full matching: edges taken by weight, what is left over paired in order."""
    partner = np.full(n, -1)
    taken = np.zeros(n, bool)
    for e in np.argsort(weights, kind="stable"):
        if partner[i[e]] < 0 and not taken[j[e]]:
            partner[i[e]] = j[e]
            taken[j[e]] = True
    partner[partner < 0] = np.flatnonzero(~taken)
    return np.arange(n), partner


def sparse_assignment(edges: Edges, u: Float[np.ndarray, " n"], v: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The cheapest full matching on the edges (LAPMOD; scipy's sparse solver can hang on ties).

    It is given reduced costs, which have the same optimum and leave little to do where the prices are good.
    """
    n = len(u)
    starts = np.r_[0, np.cumsum(np.bincount(edges.i, minlength=n))].astype(np.int32)
    reduced = edges.weights - u[edges.i] - v[edges.j]
    partner = lap.lapmod(n, reduced - reduced.min(), starts, edges.j.astype(np.int32))[1]
    return np.asarray(partner).astype(np.int64)


def fitted_prices(
    edges: Edges, permutation: Int[np.ndarray, " n"], v: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The greatest prices v <= v_old with r_ij >= 0 on all edges and 0 on the matching, and their u."""
    order = edges.by_column
    i, j, weights = edges.i[order], edges.j[order], edges.weights[order]
    own = np.empty(len(permutation))
    matched = permutation[i] == j
    own[i[matched]] = weights[matched]
    extra, source = weights - own[i], permutation[i]
    starts = starts_of(j)
    heads = j[starts]
    v = v.copy()
    changed = np.ones(len(v), bool)
    for _ in range(20 * len(v)):
        if not changed.any():
            break
        reached = np.minimum.reduceat(v[source] + extra, starts)
        lower = reached < v[heads] - 1e-12 * (1 + np.abs(v[heads]))
        changed = np.zeros(len(v), bool)
        changed[heads[lower]] = True
        v[heads[lower]] = reached[lower]
    return own - v[permutation], v
