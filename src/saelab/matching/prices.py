"""Dual prices (u, v) near those of the cheapest matching, by annealed Sinkhorn steps (entropic transport, O(n) memory).

    u_i = -eps log sum_j exp((v_j - c_ij) / eps),      v_j = -eps log sum_i exp((u_i - c_ij) / eps)

While eps is high the sums are smooth: blocked steps see a sample of the rows only. The last blocked step sees all rows;
from there on few pairs matter, and the cold steps run on the candidate edges alone. Prices only say which pairs are
worth solving over; that nothing was missed is for certificate.py to show. With more columns than rows (never fewer)
columns may be left over, and v stays at most 0.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.seeds import seed_of
from saelab.matching.cost import Costs, Edges

# (temperature in standard deviations of the inner products, share of rows: one of so many) of each blocked step.
HOT = ((1.5, 4), (1.0, 4), (0.7, 4), (0.5, 4), (0.4, 1))
COLD = (0.4, 0.04, 40)  # first and last temperature in the same units, and steps, on the edges
SAMPLE = 1024


def spread(costs: Costs) -> float:
    """The standard deviation of -2 <a_i, b_j> over a sample of pairs, without the means of rows and columns."""
    generator = torch.Generator().manual_seed(seed_of("matching", "spread"))
    i, j = (torch.randint(size, (SAMPLE,), generator=generator).to(costs.a.device) for size in costs.shape)
    x = 2 * (costs.a[i] @ costs.b[j].T).double()
    return float((x - x.mean(0) - x.mean(1, keepdim=True) + x.mean()).std().clamp_min(1e-30))


def hot_prices(
    costs: Costs, schedule: tuple[tuple[float, int], ...] = HOT
) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Blocked steps from hot to warm. The last one must see all rows."""
    n, m = costs.shape
    unit = spread(costs)
    v, u = torch.zeros(m, device=costs.a.device), torch.zeros(n, device=costs.a.device)
    for step, (share, every) in enumerate(schedule):
        epsilon = share * unit
        seen = costs.some_rows(step % every, every)
        sums = torch.zeros_like(v)
        for part, block in seen.blocks(columns=-v):
            block.mul_(-1 / epsilon)
            top = block.amax(dim=1, keepdim=True)
            block.sub_(top).exp_()
            mass = block.sum(dim=1, keepdim=True)
            if every == 1:
                u[part] = (-epsilon * (top + mass.log()))[:, 0]
            sums += (1 / mass)[:, 0] @ block
        v -= epsilon * (sums * (n / len(seen.a))).clamp_min(1e-6).log()
        if n < m:
            v.clamp_(max=0)
    return u, v


def cold_prices(
    edges: Edges,
    u: Float[np.ndarray, " n"],
    v: Float[np.ndarray, " m"],
    unit: float,
    schedule: tuple[float, float, int] = COLD,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Steps on the edges alone, from warm to cold. unit: `spread`. Rows and columns without edges keep their price."""
    order = edges.by_column
    back, weights = edges.i[order], edges.weights[order]
    row_starts, column_starts = starts_of(edges.i), starts_of(edges.j[order])
    rows, columns = edges.i[row_starts], edges.j[order][column_starts]
    u, v = u.copy(), v.copy()
    for epsilon in unit * np.geomspace(*schedule):
        u[rows] = _soft_minimum(edges.weights - v[edges.j], row_starts, epsilon)
        v[columns] = _soft_minimum(weights - u[back], column_starts, epsilon)
        if len(u) < len(v):
            v[columns] = np.minimum(v[columns], 0)
    return u, v


def starts_of(groups: Int[np.ndarray, " E"]) -> Int[np.ndarray, " G"]:
    """Where the runs of equal numbers begin."""
    return np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])


def _soft_minimum(x: Float[np.ndarray, " E"], starts: Int[np.ndarray, " G"], epsilon: float) -> Float[np.ndarray, " G"]:
    least = np.minimum.reduceat(x, starts)
    lengths = np.diff(np.r_[starts, len(x)])
    mass = np.add.reduceat(np.exp((np.repeat(least, lengths) - x) / epsilon), starts)
    return least - epsilon * np.log(mass)
