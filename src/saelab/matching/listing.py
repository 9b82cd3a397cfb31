"""The pairs worth solving over, listed in one pass over all pairs, and what is known of those that are not listed.

A pair is listed where its reduced cost c_ij - u_i - v_j is at most a threshold of its row or one of its column. Of all
others it is above both, so at other prices their reduced costs are bounded without another pass. Nothing here solves
anything.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saelab.matching.cost import BLOCK_ENTRIES, Costs, Edges, places
from saelab.matching.prices import Samples

CANDIDATES = 64  # of each row and each column, about
LEAST_RANK = 2  # of the order statistic of a sample that estimates the k-th smallest reduced cost


@dataclass(frozen=True)
class Listing:
    """Listed pairs with the float32 costs of their blocks, and the bound for all others.

    above, beside: what an entry can be off by is at most above[i] + beside[j]. u, v: the prices of the listing.
    by_row, by_column: its thresholds. alone: rows of so many ties that the threshold of the row alone was minded.
    """

    edges: Edges
    above: Float[np.ndarray, " n"]
    beside: Float[np.ndarray, " m"]
    u: Float[np.ndarray, " n"]
    v: Float[np.ndarray, " m"]
    by_row: Float[np.ndarray, " n"]
    by_column: Float[np.ndarray, " m"]
    alone: Bool[np.ndarray, " n"]

    def unlisted(
        self, u: Float[np.ndarray, " n"], v: Float[np.ndarray, " m"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
        """Lower bounds for every row and every column on the reduced costs of unlisted pairs at the prices (u, v)."""
        x, y = self.u - u - self.above, self.v - v - self.beside
        rows = _least(x, self.by_row, y, self.by_column)
        columns = _least(y, self.by_column, x[~self.alone], self.by_row[~self.alone])
        if self.alone.any():
            least = (x + self.by_row)[self.alone]
            rows[self.alone] = least + y.min()
            columns = np.minimum(columns, least.min() + y)
        return rows, columns


def _least(
    x: Float[np.ndarray, " n"], s: Float[np.ndarray, " n"], y: Float[np.ndarray, " m"], t: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " n"]:
    """min over j of x_i + y_j + max(s_i, t_j) for every i, without looking at every pair.

    x, y: how much prices have fallen, less the rounding. s, t: thresholds.
    """
    order = np.argsort(t)
    t, y = t[order], y[order]
    lower = np.r_[np.inf, np.minimum.accumulate(y)]
    higher = np.r_[np.minimum.accumulate((y + t)[::-1])[::-1], np.inf]
    at = np.searchsorted(t, s, side="right")
    return x + np.minimum(lower[at] + s, higher[at])


def listed(
    costs: Costs, samples: Samples, u: Float[Tensor, " n"], v: Float[Tensor, " m"], k: int = CANDIDATES
) -> Listing:
    """About the k smallest reduced costs of every row and every column, at the prices (u, v).

    How small is small enough is read from the samples, so that the one pass over all pairs only compares.
    """
    step = samples.row_step * max(1, samples.column_step // samples.row_step)
    some = samples.rows[:: step // samples.row_step].T.contiguous()
    by_row = _thresholds(samples.columns, u, v[:: samples.column_step], k / samples.column_step)
    by_column = _thresholds(some, v, u[::step], k / step)
    alone = torch.zeros_like(by_row, dtype=torch.bool)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    memory: Tensor | None = None  # for all blocks: new masks for each would leave the heap in pieces
    for part, block in costs.blocks(rows=-u, columns=-v):
        memory = block.new_empty(2, *block.shape, dtype=torch.bool) if memory is None else memory
        small, other = memory[:, : len(block)]
        torch.le(block, by_column, out=small)
        small |= torch.le(block, by_row[part, None], out=other)
        i, j = places(small)
        if len(i) > 16 * k * len(block):  # ties
            least = block.topk(min(k, block.shape[1]), dim=1, largest=False)
            by_row[part], alone[part] = least.values[:, -1], True
            i, j = places(small.zero_().scatter_(1, least.indices, True))
        found.append(((i + part.start).cpu(), j.cpu(), block[i, j].cpu()))
    i, j, reduced = (torch.cat(x).numpy() for x in zip(*found, strict=True))
    above, beside = costs.slack(u, v)
    near_u, near_v, *rest = (x.double().cpu().numpy() for x in (u, v, above, beside, by_row, by_column))
    above, beside, by_row, by_column = rest
    edges = Edges(i, j, reduced + near_u[i] + near_v[j])
    return Listing(edges, above, beside, near_u, near_v, by_row, by_column, alone.cpu().numpy())


def _thresholds(
    sample: Float[Tensor, "n s"], rows: Float[Tensor, " n"], columns: Float[Tensor, " s"], rank: float
) -> Float[Tensor, " n"]:
    """The reduced cost of this rank in every row of a sample."""
    rank = min(max(round(rank), LEAST_RANK), sample.shape[1])
    parts = sample.split(max(1, BLOCK_ENTRIES // sample.shape[1]))
    return torch.cat([(part - columns).topk(rank, dim=1, largest=False).values[:, -1] for part in parts]) - rows
