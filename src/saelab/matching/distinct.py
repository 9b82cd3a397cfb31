"""The matching that needs no solver: every row takes its cheapest column at some prices, and no two take the same.

With u_i = min_j (c_ij - v_j) such prices are dual feasible and tight on every pair, whatever v was, so the matching is
optimal and proved. Near copies are matched so at the hot prices of prices.py, by one pass that only looks for the two
least of every row. Whether a pass is worth it is asked of the rows of the sample. Nothing here solves anything.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.matching.certificate import below
from saelab.matching.cost import Costs
from saelab.matching.prices import Samples

CLEAR = 0.02  # of the spread of costs: the second column is so much dearer
MOST_UNCLEAR = 0.05  # of the rows, among near copies (measured: all; of real decoders nearly none are clear)
MOST_CLOSE = 0.05  # of the rows may have a second column within the rounding: these are priced by another pass


@dataclass(frozen=True)
class Distinct:
    """permutation[i] = j, and the prices that prove it."""

    permutation: Int[np.ndarray, " n"]
    cost: float
    lower_bound: float
    u: Float[np.ndarray, " n"]
    v: Float[np.ndarray, " n"]


def likely(samples: Samples, v: Float[Tensor, " m"], unit: float) -> bool:
    """Whether no two sampled rows have the same cheapest column, and nearly all prefer theirs clearly. unit: `spread`.

    The first alone says little, as v was fitted to these rows.
    """
    reduced = samples.rows - v
    least, columns = reduced.min(dim=1)
    second = reduced.scatter_(1, columns[:, None], torch.inf).amin(dim=1)
    return _no_two_alike(columns) and float((second - least < CLEAR * unit).float().mean()) <= MOST_UNCLEAR


def distinct(costs: Costs, v: Float[Tensor, " n"]) -> Distinct | None:
    """The matching of every row with its cheapest column at prices v; None where two rows have the same, or too many
    rows have another within the rounding. As many rows as columns.
    """
    n = costs.shape[0]
    above, beside = costs.slack(torch.zeros_like(costs.a_square), v)
    slack = 2 * (above + beside.max())
    columns, close = torch.empty(n, dtype=torch.int64, device=v.device), torch.empty_like(slack, dtype=torch.bool)
    for part, block in costs.blocks(columns=-v):
        least, columns[part] = block.min(dim=1)
        block.scatter_(1, columns[part, None], torch.inf)
        close[part] = block.amin(dim=1) - least <= slack[part]
    rows = np.flatnonzero(close.cpu().numpy())
    if len(rows) > MOST_CLOSE * n or not _no_two_alike(columns):
        return None
    permutation, prices = columns.cpu().numpy(), v.double().cpu().numpy()
    each = costs.edges(np.arange(n), permutation)
    u, least = each - prices[permutation], np.zeros(n)
    found = below(costs, u, prices, rows=rows)
    np.minimum.at(least, found.i, found.reduced)
    u += least  # now feasible, but where another column is cheaper no longer tight
    bound, cost = float(u.sum() + prices.sum()) - found.loose, float(each.sum())
    return Distinct(permutation, cost, bound, u, prices)


def _no_two_alike(columns: Int[Tensor, " r"]) -> bool:
    return len(columns.unique()) == len(columns)
