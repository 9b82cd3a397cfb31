"""How far a matching is from optimal, proved over all pairs (linear-programming duality).

For any prices v the sum of min_j (c_ij - v_j) over i plus the sum of v_j bounds the cost of every full matching from
below. Prices here come as (u, v) with u_i = c_i,pi(i) - v_pi(i) on a given matching; one blocked pass looks for pairs
with r_ij = c_ij - u_i - v_j < 0. Float32 blocks only nominate: whatever could be negative within the rounding bound
is computed again in float64 from differences, so the bound is rigorous for costs evaluated in float64.

Rows of which it is known that no pair outside some list is negative need no pass (`Listing.unlisted`).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from saelab.matching.cost import Costs

MOST_PER_ROW = 64  # pairs of a row that are computed again in one pass


@dataclass(frozen=True)
class Pricing:
    """Violated pairs (i, j) with r_ij < -tolerance, and the lower bound that the prices (u, v) prove.

    least: for every row the least reduced cost, at most 0, of all pairs that were looked at; floor: of those that are
    not listed (-inf where too many were violated to list them).
    """

    i: Int[np.ndarray, " E"]
    j: Int[np.ndarray, " E"]
    lower_bound: float
    least: Float[np.ndarray, " n"]
    floor: Float[np.ndarray, " n"]


def price(
    costs: Costs,
    u: Float[np.ndarray, " n"],
    v: Float[np.ndarray, " m"],
    *,
    tolerance: float = 0.0,
    floor: Float[np.ndarray, " n"] | None = None,
) -> Pricing:
    """All pairs at prices (u, v). n <= m; where n < m, v must be <= 0.

    floor: for every row a bound from below on the reduced costs of all pairs but some that are looked after elsewhere;
    then only rows with a negative one are looked at.
    """
    floor = np.full(len(u), -np.inf) if floor is None else floor.copy()
    rows = np.flatnonzero(floor < 0)
    everyone = len(rows) == len(u)
    some = costs if everyone else costs.part(rows=torch.from_numpy(rows).to(costs.a.device))
    i, j, r, loose = _violated(some, u[rows], v)
    i = rows[i]
    small = r >= -tolerance
    floor[rows] = 0
    np.minimum.at(floor, i[small], r[small])
    least = np.minimum(floor, 0)
    np.minimum.at(least, i, r)
    if loose:
        floor[rows] = -np.inf
    return Pricing(i[~small], j[~small], float(u.sum() + v.sum() + least.sum()) - loose, least, floor)


def _violated(
    costs: Costs, u: Float[np.ndarray, " n"], v: Float[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"], Float[np.ndarray, " E"], float]:
    """Pairs with r < 0, their r, and by how much the sum of the rows' least r can be lower than what they say."""
    device = costs.a.device
    ut, vt = (torch.from_numpy(x).float().to(device) for x in (u, v))
    # What an entry can be off by is a share of its row and one of its column, so it is taken off with the prices.
    above, beside = costs.slack(ut, vt)
    most_beside = float(beside.max())
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    loose = 0.0
    for part, block, rows, columns in costs.nominated(rows=-ut - above, columns=-vt - beside):
        most, slack = MOST_PER_ROW * len(block), float(above[part].max()) + most_beside
        if len(rows) > most and int((block < -2 * slack).sum()) > most:  # poor prices: the worst of a row say enough
            columns = block.topk(min(MOST_PER_ROW, block.shape[1]), dim=1, largest=False).indices
            rows = torch.arange(len(block), device=device).repeat_interleave(columns.shape[1])
            columns = columns.flatten()
            loose += 2 * slack * len(block)  # the least of what is left is no lower than the least listed, up to this
        i, j = rows.cpu().numpy() + part.start, columns.cpu().numpy()
        r = costs.edges(i, j) - u[i] - v[j]
        found.append((i[r < 0], j[r < 0], r[r < 0]))
    i, j, r = (np.concatenate(x) for x in zip(*found, strict=True))
    return i, j, r, loose


def rounding_of(costs: Costs, cost: float, *prices: Float[np.ndarray, "..."]) -> float:
    """What a cost and the bound of prices can be off by because they are computed in float64: the worst case of sums of
    squared differences of this width and of their sums over pairs.
    """
    n, width = costs.shape[0], costs.a.shape[1]
    summed = sum(float(np.abs(p).sum() + n * np.abs(p).max()) for p in prices)
    return (width + 8 + math.log2(n + 1)) * 2.0**-53 * (cost + 3 * summed)
