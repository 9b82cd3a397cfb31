"""Dual prices (u, v) near those of the cheapest matching, by annealed Sinkhorn steps (entropic transport, O(n) memory).

    u_i = -eps log sum_j exp((v_j - c_ij) / eps),      v_j = -eps log sum_i exp((u_i - c_ij) / eps)

While eps is high the sums are smooth, so a sample of the rows gives v and a sample of the columns gives u. From there
on few pairs matter, and the cold steps run on the candidate edges alone. Prices only say which pairs are worth solving
over; that nothing was missed is for certificate.py to show. With more columns than rows (never fewer) columns may be
left over, and v stays at most 0.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded at first use
import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.seeds import seed_of
from saelab.matching.cost import BLOCK_ENTRIES, Costs, Edges

HOT = (1.2, 0.7, 0.4)  # temperatures in standard deviations of the inner products, see `spread`
COLD = (0.4, 0.04, 6)  # first and last temperature in the same units, and how many, on the edges
INNER = 3  # scalings at each cold temperature
ROWS = 8  # one in so many rows gives v, fewer where their costs would not be kept
COLUMNS = 16  # one in so many columns gives u
SAMPLE_ENTRIES = 1 << 28
SPREAD_SAMPLE = 256


def spread(costs: Costs) -> float:
    """The standard deviation of -2 <a_i, b_j> over a sample of pairs, without the means of rows and columns."""
    generator = torch.Generator().manual_seed(seed_of("matching", "spread"))
    i, j = (torch.randint(size, (SPREAD_SAMPLE,), generator=generator).to(costs.a.device) for size in costs.shape)
    x = 2 * (costs.a[i] @ costs.b[j].T).double()
    return float((x - x.mean(0) - x.mean(1, keepdim=True) + x.mean()).std().clamp_min(1e-30))


@dataclass(frozen=True)
class Samples:
    """Costs between some rows and all columns, and between all rows and some columns: one in every `row_step` rows and
    `column_step` columns.
    """

    rows: Float[Tensor, "r m"]
    columns: Float[Tensor, "n c"]
    row_step: int
    column_step: int


def samples_of(costs: Costs) -> Samples:
    """Samples small enough to be kept."""
    n, m = costs.shape
    row_step, column_step = (max(step, -(-n * m // SAMPLE_ENTRIES)) for step in (ROWS, COLUMNS))
    some = costs.part(rows=slice(None, None, row_step)), costs.part(columns=slice(None, None, column_step))
    rows, columns = (torch.cat([block.clone() for _, block in part.blocks()]) for part in some)
    return Samples(rows, columns, row_step, column_step)


def hot_prices(samples: Samples, unit: float) -> tuple[Float[Tensor, " n"], Float[Tensor, " m"]]:
    """Prices from samples, from hot to warm. unit: `spread`."""
    kept, n, m = samples.rows, len(samples.columns), samples.rows.shape[1]
    height = max(1, BLOCK_ENTRIES // m)
    memory = kept.new_empty(min(height, len(kept)), m)
    v = kept.new_zeros(m)
    for epsilon in (share * unit for share in HOT):
        sums = torch.zeros_like(v)
        for part in kept.split(height):
            block = torch.sub(v, part, out=memory[: len(part)]).mul_(1 / epsilon)
            block.sub_(block.amax(dim=1, keepdim=True)).exp_()
            sums += (1 / block.sum(dim=1)) @ block
        v -= epsilon * (sums * (n / len(kept))).clamp_min(1e-6).log()
        if n < m:
            v.clamp_(max=0)
    some, epsilon = samples.columns, HOT[-1] * unit
    beside = v[:: samples.column_step]
    u = torch.cat([torch.logsumexp((beside - part).mul_(1 / epsilon), dim=1) for part in some.split(height)])
    return -epsilon * (u + math.log(m / some.shape[1])), v


def cold_prices(
    edges: Edges, u: Float[np.ndarray, " n"], v: Float[np.ndarray, " m"], unit: float
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Steps on the edges alone, from warm to cold. unit: `spread`. Rows and columns without edges keep their price."""
    n, m = len(u), len(v)
    starts, columns = edges.starts(n), edges.j.astype(np.int32)
    for epsilon in unit * np.geomspace(*COLD):
        kernel = np.exp(np.minimum((u[edges.i] + v[edges.j] - edges.weights) / epsilon, 50))
        rows = scipy.sparse.csr_matrix((kernel, columns, starts), shape=(n, m))
        most = np.exp(np.clip(-v / epsilon, 0, 500)) if n < m else np.inf
        a, b = np.ones(n), np.ones(m)
        for _ in range(INNER):
            a = _inverse(rows @ b)
            b = np.minimum(_inverse(rows.T @ a), most)
        u, v = u + epsilon * np.log(a), v + epsilon * np.log(b)
    return u, v


def _inverse(mass: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return np.divide(1, mass, out=np.ones_like(mass), where=mass > 1e-100)
