"""Matching with a reject option: features without a counterpart stay unmatched (spec: SAE Match notes, C.4).

    minimise  sum over matched c_ij + sum over unmatched tau_i + sum over unmatched sigma_j

An edge with c_ij > tau_i + sigma_j is never used, so one pass over the pairs lists all edges that can be, and the graph
falls apart into small components: exact, with no further pricing. With tau_i = rho |a_i|^2 and sigma_j = rho |b_j|^2 an
edge is admissible where the cosine (of rows of equal norm) is at least 1 - rho.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from saelab.core.errors import UserError
from saelab.core.seeds import seed_of
from saelab.matching.cost import Costs

MOST_EDGES_PER_ROW = 512


def admissible(
    costs: Costs, rho: float
) -> tuple[Int[np.ndarray, " E"], Int[np.ndarray, " E"], Float[np.ndarray, " E"]]:
    """All pairs with c_ij <= rho (|a_i|^2 + |b_j|^2), and their costs in float64."""
    if not rho > 0:
        raise UserError(f"The reject cost must be positive, not {rho}.")
    limit_b = rho * costs.b_square
    found_i, found_j = [], []
    edges = 0
    for part, block in costs.blocks():
        block.sub_(limit_b).sub_(rho * costs.a_square[part, None])
        rows, columns = (block <= costs.rounding).nonzero(as_tuple=True)
        edges += len(rows)
        if edges > MOST_EDGES_PER_ROW * costs.shape[0]:
            raise UserError(
                f"A reject cost of {rho} admits more than {MOST_EDGES_PER_ROW} pairs per feature.",
                hint="Give a smaller one, or match without rejecting.",
            )
        found_i.append(rows.numpy() + part.start)
        found_j.append(columns.numpy())
    i, j = np.concatenate(found_i), np.concatenate(found_j)
    weights = costs.edges(i, j)
    limit = rho * (costs.a.double().square().sum(1).numpy()[i] + costs.b.double().square().sum(1).numpy()[j])
    kept = weights <= limit
    return i[kept], j[kept], weights[kept]


def match_partially(costs: Costs, rho: float) -> tuple[Int[np.ndarray, " n"], float]:
    """The permutation with -1 for unmatched rows, and the objective with its rejected features."""
    n, m = costs.shape
    i, j, weights = admissible(costs, rho)
    tau = rho * costs.a.double().square().sum(1).numpy()
    sigma = rho * costs.b.double().square().sum(1).numpy()
    # Every row may take its own dummy column at tau_i; taking column j saves sigma_j.
    everyone = np.arange(n)
    rows, columns = np.concatenate([i, everyone]), np.concatenate([j, m + everyone])
    values = np.concatenate([weights - sigma[j], tau])
    lifted = values - values.min() + 1.0
    graph = csr_matrix((lifted, (rows, columns)), shape=(n, m + n))
    found = min_weight_full_bipartite_matching(graph)[1].astype(np.int64)
    permutation = np.where(found < m, found, -1)
    matched = permutation >= 0
    objective = float(costs.edges(everyone[matched], permutation[matched]).sum() + tau[~matched].sum())
    free = np.ones(m, bool)
    free[permutation[matched]] = False
    return permutation, objective + float(sigma[free].sum())


def null_reject(costs: Costs, rate: float = 0.01, *, seed: int = 0) -> float:
    """The reject cost at which at most `rate` of the rows would find a partner in a dictionary without counterparts.

    The null rotates b by a random orthogonal map, which keeps its geometry and breaks every correspondence; rho is the
    `rate` quantile over rows of min_j c_ij / (|a_i|^2 + |b_j|^2).
    """
    width = costs.b.shape[1]
    generator = torch.Generator().manual_seed(seed_of(seed, "matching", "null"))
    rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    null = Costs(costs.a, costs.b @ rotation)
    least = []
    for part, block in null.blocks():
        block.div_(null.b_square + null.a_square[part, None])
        least.append(block.amin(dim=1))
    return float(torch.quantile(torch.cat(least).double(), rate))
