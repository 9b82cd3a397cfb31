"""How far a matching is from optimal, proved over all pairs (linear-programming duality).

For any prices v the sum of min_j (c_ij - v_j) over i plus the sum of v_j bounds the cost of every full matching from
below. Prices here come as (u, v) with u_i = c_i,pi(i) - v_pi(i) on a given matching; one blocked pass looks for pairs
with r_ij = c_ij - u_i - v_j < 0. Float32 blocks only nominate: whatever could be negative within the rounding bound
is computed again in float64 from differences, so the bound is rigorous for costs evaluated in float64.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from saelab.matching.cost import Costs

MOST_PER_ROW = 64  # pairs of a row that are computed again in one pass


@dataclass(frozen=True)
class Below:
    """Pairs (i, j) with r_ij = reduced < margin, and their costs. Where exact, both are computed in float64; else r_ij
    is positive, and both are bounds from below. Of all that were looked at: where loose is positive, too many were to
    list them, and the sum over rows of the least r is lower than the listed ones say by up to that much.
    """

    i: Int[np.ndarray, " E"]
    j: Int[np.ndarray, " E"]
    reduced: Float[np.ndarray, " E"]
    weights: Float[np.ndarray, " E"]
    exact: Bool[np.ndarray, " E"]
    loose: float


def lower_bound(costs: Costs, u: Float[np.ndarray, " n"], v: Float[np.ndarray, " m"]) -> float:
    """What any prices prove, by one pass over all pairs. n <= m; where n < m, v must be <= 0."""
    found, least = below(costs, u, v), np.zeros(len(u))
    np.minimum.at(least, found.i, found.reduced)
    return float(u.sum() + v.sum() + least.sum()) - found.loose


def below(
    costs: Costs,
    u: Float[np.ndarray, " n"],
    v: Float[np.ndarray, " m"],
    margin: float = 0.0,
    rows: Int[np.ndarray, " r"] | None = None,
    columns: Int[np.ndarray, " c"] | None = None,
) -> Below:
    """The pairs with reduced costs below a margin at prices (u, v): of all, or of some rows and columns."""
    rows = np.arange(len(u)) if rows is None else rows
    columns = np.arange(len(v)) if columns is None else columns
    found = [Below(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0), np.zeros(0, bool), 0.0)]
    if not len(rows) or not len(columns):
        return found[0]
    everything = (len(rows), len(columns)) == costs.shape
    device = costs.a.device
    chosen = (torch.from_numpy(x).to(device) for x in (rows, columns))
    some = costs if everything else costs.part(*chosen)
    ut, vt = (torch.from_numpy(x).float().to(device) for x in (u[rows], v[columns]))
    # What an entry can be off by is a share of its row and one of its column, so it is taken off with the prices.
    above, beside = some.slack(ut, vt)
    most_beside, loose = float(beside.max()), 0.0
    for part, block, at, to in some.nominated(rows=-ut - above - margin, columns=-vt - beside):
        most, slack = MOST_PER_ROW * len(block), float(above[part].max()) + most_beside
        # Poor prices: the worst of a row say enough.
        if len(at) > most and int((block < -2 * slack - margin).sum()) > most:
            to = block.topk(min(MOST_PER_ROW, block.shape[1]), dim=1, largest=False).indices
            at = torch.arange(len(block), device=device).repeat_interleave(to.shape[1])
            to = to.flatten()
            loose += 2 * slack * len(block)  # the least of what is left is no lower than the least listed, up to this
        i, j = rows[at.cpu().numpy() + part.start], columns[to.cpu().numpy()]
        r = block[at, to].double().cpu().numpy() + margin  # less what the entry can be off by
        near = r <= 0
        weights = r + u[i] + v[j]
        weights[near] = costs.edges(i[near], j[near])
        r[near] = weights[near] - u[i[near]] - v[j[near]]
        low = r < margin
        found.append(Below(i[low], j[low], r[low], weights[low], near[low], 0.0))
    i, j, r, weights = (np.concatenate([getattr(f, k) for f in found]) for k in ("i", "j", "reduced", "weights"))
    return Below(i, j, r, weights, np.concatenate([f.exact for f in found]), loose)


def rounding_of(costs: Costs, cost: float, *prices: Float[np.ndarray, "..."]) -> float:
    """What a cost and the bound of prices can be off by because they are computed in float64: the worst case of sums of
    squared differences of this width and of their sums over pairs.
    """
    n, width = costs.shape[0], costs.a.shape[1]
    summed = sum(float(np.abs(p).sum() + n * np.abs(p).max()) for p in prices)
    return (width + 8 + math.log2(n + 1)) * 2.0**-53 * (cost + 3 * summed)
