"""The exact one-to-one matching of two sets of features, without a cost matrix (spec: SAE Match notes, C.2).

    prices     annealed Sinkhorn: one product per step, O(n) memory
    candidates for every row and column the k smallest reduced costs, and one real matching, so that a solution exists
    repeat     sparse assignment on the candidates (float64 costs from differences)
               prices that fit it on the candidates (label correcting)
               pricing: one pass over all pairs; stop where none is violated, else add the violated pairs

At the end the matching is feasible, the prices are dual feasible and complementary, so the gap is rounding. Small
problems go to a dense solver, and the same certificate is computed for them. Core-oriented assignment is Volgenant
1996; nothing here knows SAEs.
"""

import time
from dataclasses import dataclass

import lap
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import SaelabError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.matching.certificate import price
from saelab.matching.cost import Costs

DENSE_BELOW = 512  # rows up to which a dense solver is faster
CANDIDATES = 16  # of each row and each column
SINKHORN = (16, 0.5, 0.005)  # steps, first and last temperature as shares of the mean cost
RELATIVE_GAP = 1e-9
MOST_ROUNDS = 60


@dataclass(frozen=True)
class Assignment:
    """permutation[i] = j. cost - lower_bound = gap, proved over all pairs."""

    permutation: Int[np.ndarray, " n"]
    cost: float
    lower_bound: float
    rounds: int
    edges_per_row: float
    seconds: float
    method: str

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
    with progress.task("matching", unit="rounds") as task:
        if n <= DENSE_BELOW:
            i, j = np.divmod(np.arange(n * n), n)
            v = np.zeros(n)
        else:
            prices = sinkhorn_prices(costs)
            i, j = candidates(costs, *prices)
            v = prices[1].double().numpy()
        for rounds in range(1, MOST_ROUNDS + 1):
            weights = costs.edges(i, j)
            permutation = sparse_assignment(i, j, weights, n)
            u, v = fitted_prices(i, j, weights, permutation, v)
            own = costs.edges(np.arange(n), permutation)
            cost = float(own.sum())
            pricing = price(costs, u, v, tolerance=RELATIVE_GAP * max(cost, 1e-300) / n)
            task.advance(1, violated=len(pricing.i), gap=cost - pricing.lower_bound)
            if not len(pricing.i):
                seconds = time.perf_counter() - start
                method = "dense" if n <= DENSE_BELOW else "blocked"
                return Assignment(permutation, cost, pricing.lower_bound, rounds, len(i) / n, seconds, method)
            i, j = joined((i, j), (pricing.i, pricing.j), n)
    raise SaelabError(f"The matching of {n} features did not close in {MOST_ROUNDS} rounds.")


def sinkhorn_prices(
    costs: Costs, schedule: tuple[int, float, float] = SINKHORN
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Approximate dual prices (u, v) by annealed Sinkhorn steps; the early, hot ones use bfloat16 products."""
    steps, first, last = schedule
    n, m = costs.shape
    scale = float((costs.a_square.mean() + costs.b_square.mean()).clamp_min(1e-30))
    v, u = torch.zeros(m), torch.zeros(n)
    for step, share in enumerate(np.geomspace(first, last, steps)):
        epsilon = float(share) * scale
        sums = torch.zeros(m)
        for part, block in costs.blocks(torch.bfloat16 if step < steps // 2 else torch.float32):
            block.neg_().add_(v).mul_(1 / epsilon)
            top = block.amax(dim=1, keepdim=True)
            block.sub_(top).exp_()
            mass = block.sum(dim=1, keepdim=True)
            u[part] = (-epsilon * (top + mass.log()))[:, 0]
            sums += (1 / mass)[:, 0] @ block
        v -= epsilon * sums.clamp_min(1e-30).log()
    return u, v


def candidates(
    costs: Costs, u: Float[Tensor, " n"], v: Float[Tensor, " m"], k: int = CANDIDATES
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """For every row and every column its k smallest reduced costs, with one greedy full matching among them."""
    n, m = costs.shape
    k = min(k, n, m)
    best = torch.full((k, m), torch.inf)
    owner = torch.zeros((k, m), dtype=torch.long)
    rows, columns = [], []
    for part, block in costs.blocks():
        block.sub_(v).sub_(u[part, None])
        columns.append(block.topk(k, dim=1, largest=False, sorted=False).indices)
        rows.append(torch.arange(part.start, part.stop)[:, None].expand(-1, k))
        few = block.topk(min(k, block.shape[0]), dim=0, largest=False, sorted=False)
        stacked, owners = torch.cat([best, few.values]), torch.cat([owner, few.indices + part.start])
        kept = stacked.topk(k, dim=0, largest=False, sorted=False).indices
        best, owner = stacked.gather(0, kept), owners.gather(0, kept)
    by_row = (torch.cat(rows).flatten().numpy(), torch.cat(columns).flatten().numpy())
    by_column = (owner.flatten().numpy(), torch.arange(m).expand(k, m).flatten().numpy())
    i, j = joined(by_row, by_column, m)
    reduced = costs.edges(i, j) - u.double().numpy()[i] - v.double().numpy()[j]
    return joined((i, j), greedy_full(i, j, reduced, n), m)


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


def sparse_assignment(
    i: Int[np.ndarray, " E"], j: Int[np.ndarray, " E"], weights: Float[np.ndarray, " E"], n: int
) -> Int[np.ndarray, " n"]:
    """The cheapest full matching on edges sorted by row (LAPMOD; scipy's sparse solver can hang on ties)."""
    starts = np.r_[0, np.cumsum(np.bincount(i, minlength=n))].astype(np.int32)
    partner = lap.lapmod(n, weights - weights.min(), starts, j.astype(np.int32))[1]
    return np.asarray(partner).astype(np.int64)


def fitted_prices(
    i: Int[np.ndarray, " E"],
    j: Int[np.ndarray, " E"],
    weights: Float[np.ndarray, " E"],
    permutation: Int[np.ndarray, " n"],
    v: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The greatest prices v <= v_old with r_ij >= 0 on all edges and 0 on the matching, and their u."""
    order = np.lexsort((i, j))
    i, j, weights = i[order], j[order], weights[order]
    own = np.empty(len(permutation))
    matched = permutation[i] == j
    own[i[matched]] = weights[matched]
    extra, source = weights - own[i], permutation[i]
    starts = np.flatnonzero(np.r_[True, j[1:] != j[:-1]])
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


def joined(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], m: int
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"]]:
    """The union of two edge lists, sorted by row, then column."""
    keys = np.concatenate([first[0].astype(np.int64) * m + first[1], second[0].astype(np.int64) * m + second[1]])
    return np.divmod(np.unique(keys), m)
