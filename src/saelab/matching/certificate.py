"""How far a matching is from optimal, proved over all pairs (linear-programming duality).

For any prices v the sum of min_j (c_ij - v_j) over i plus the sum of v_j bounds the cost of every full matching from
below. Prices here come as (u, v) with u_i = c_i,pi(i) - v_pi(i) on a given matching; one blocked pass looks for pairs
with r_ij = c_ij - u_i - v_j < 0. Float32 blocks only nominate: whatever could be negative within the rounding bound
is computed again in float64 from differences, so the bound is rigorous for costs evaluated in float64.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from saelab.matching.cost import EPSILON, Costs

MOST_PER_ROW = 64  # pairs of a row that are computed again in one pass


@dataclass(frozen=True)
class Pricing:
    """Violated pairs (i, j) with r_ij < -tolerance, and the lower bound that the prices prove."""

    i: Int[np.ndarray, " E"]
    j: Int[np.ndarray, " E"]
    lower_bound: float


def price(costs: Costs, u: Float[np.ndarray, " n"], v: Float[np.ndarray, " m"], *, tolerance: float = 0.0) -> Pricing:
    """One pass over all pairs at prices (u, v). n <= m; where n < m, v must be <= 0."""
    device = costs.a.device
    ut, vt = (torch.from_numpy(x).float().to(device) for x in (u, v))
    slack = costs.rounding + 8 * EPSILON * float(np.abs(u).max() + np.abs(v).max())
    found_i, found_j, found_r = [], [], []
    loose = 0.0
    for part, block in costs.blocks(rows=-ut, columns=-vt):
        rows, columns = (block < slack).nonzero(as_tuple=True)
        most = MOST_PER_ROW * len(block)
        if len(rows) > most and int((block < -slack).sum()) > most:  # poor prices: the worst of every row say enough
            columns = block.topk(min(MOST_PER_ROW, block.shape[1]), dim=1, largest=False).indices
            rows = torch.arange(len(block), device=device).repeat_interleave(columns.shape[1])
            columns = columns.flatten()
            loose += 2 * slack * len(block)  # the least of what is left is no lower than the least listed, up to this
        i, j = rows.cpu().numpy() + part.start, columns.cpu().numpy()
        r = costs.edges(i, j) - u[i] - v[j]
        negative = r < 0
        found_i.append(i[negative])
        found_j.append(j[negative])
        found_r.append(r[negative])
    i, j, r = np.concatenate(found_i), np.concatenate(found_j), np.concatenate(found_r)
    worst = np.zeros(costs.shape[0])
    np.minimum.at(worst, i, r)
    bound = float(u.sum() + v.sum() + worst.sum()) - loose
    kept = r < -tolerance
    return Pricing(i[kept], j[kept], bound)
