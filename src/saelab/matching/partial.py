"""Matching with a reject option: features without a counterpart stay unmatched (spec: SAE Match notes, C.4).

    minimise  sum over matched c_ij + sum over unmatched tau_i + sum over unmatched sigma_j

An edge with c_ij > tau_i + sigma_j is never used, so one pass over the pairs lists all edges that can be, and the graph
falls apart into components that are solved one by one: exact, with no further pricing. With tau_i = rho |a_i|^2 and
sigma_j = rho |b_j|^2 an edge is admissible where the cosine (of rows of equal norm) is at least 1 - rho.
"""

import math
from collections.abc import Sequence

import lap
import numpy as np
import scipy  # its parts are loaded at first use
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.seeds import seed_of
from saelab.matching.cost import Costs, Edges

MOST_EDGES_PER_ROW = 512
MOST_ENTRIES = 1 << 22  # of a component that is solved as a dense matrix
NULL_ROWS = 16_384  # rows that are tried against the null


def admissible(costs: Costs, rho: float) -> Edges:
    """All pairs with c_ij <= rho (|a_i|^2 + |b_j|^2), and their costs in float64."""
    if not 0 < rho < math.inf:
        raise UserError(f"The reject cost must be positive and finite, not {rho}.")
    found_i, found_j = [], []
    count = 0
    allowed = rho + costs.rounding * (1 + rho)
    above, beside = -allowed * costs.a_square, -allowed * costs.b_square
    for part, _, rows, columns in costs.nominated(rows=above, columns=beside):
        count += len(rows)
        if count > MOST_EDGES_PER_ROW * costs.shape[0]:
            raise UserError(
                f"A reject cost of {rho} admits more than {MOST_EDGES_PER_ROW} pairs per feature.",
                hint="Give a smaller one, or match without rejecting.",
            )
        found_i.append(rows.cpu().numpy() + part.start)
        found_j.append(columns.cpu().numpy())
    i, j = np.concatenate(found_i), np.concatenate(found_j)
    edges = Edges(i, j, costs.edges(i, j))
    tau, sigma = rejections(costs, rho)
    return edges.kept(edges.weights <= tau[i] + sigma[j])


def rejections(costs: Costs, rho: float) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """What leaving a row (column) unmatched costs."""
    squares = (x.double().square().sum(1).cpu().numpy() for x in (costs.a, costs.b))
    tau, sigma = (rho * s for s in squares)
    return tau, sigma


def match_partially(costs: Costs, rho: float) -> tuple[Int[np.ndarray, " n"], float]:
    """The permutation with -1 for unmatched rows, and the objective with its rejected features."""
    unit = costs.unit
    costs = costs.over(unit)  # the solver takes no costs of 1e6 and more
    permutation, objective = solved(admissible(costs, rho), *rejections(costs, rho))
    return permutation, objective * unit**2


def solved(
    edges: Edges, tau: Float[np.ndarray, " n"], sigma: Float[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " n"], float]:
    """The best choice among admissible edges, component by component."""
    n, m = len(tau), len(sigma)
    gain = edges.weights - tau[edges.i] - sigma[edges.j]  # of a match over leaving both; never positive
    graph = scipy.sparse.csr_matrix((np.ones(len(edges)), (edges.i, n + edges.j)), shape=(n + m, n + m))
    component = scipy.sparse.csgraph.connected_components(graph, directed=False)[1][edges.i]
    order = np.argsort(component, kind="stable")
    sizes = np.unique(component[order], return_counts=True)[1]
    permutation = np.full(n, -1)
    stops = np.cumsum(sizes)
    alone = order[(stops - sizes)[sizes == 1]]
    permutation[edges.i[alone]] = edges.j[alone]
    for stop, size in zip(stops[sizes > 1], sizes[sizes > 1], strict=True):
        some = order[stop - size : stop]
        i, j = _best_of_component(edges.i[some], edges.j[some], gain[some])
        permutation[i] = j
    rows = np.flatnonzero(permutation >= 0)
    keys = edges.i * m + edges.j  # sorted
    used = np.searchsorted(keys, rows * m + permutation[rows])
    objective = float(tau.sum() + sigma.sum() + gain[used].sum())
    return permutation, objective


def _best_of_component(
    i: Int[np.ndarray, " E"], j: Int[np.ndarray, " E"], gain: Float[np.ndarray, " E"]
) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """The pairs of least total gain within one component. Staying alone is a pair of gain 0."""
    rows, r = np.unique(i, return_inverse=True)
    columns, c = np.unique(j, return_inverse=True)
    n, m = len(rows), len(columns)
    if n * m <= MOST_ENTRIES:
        dense = np.zeros((n, m))
        dense[r, c] = gain
        partner = lap.lapjv(dense, extend_cost=True)[1]
        chosen = np.flatnonzero(partner >= 0)
        chosen = chosen[dense[chosen, partner[chosen]] < 0]
        return rows[chosen], columns[partner[chosen]]
    # Every row has its own dummy column and every column its own dummy row; dummies may pair along mirrored edges.
    own, other = np.arange(n), np.arange(m)
    left = np.concatenate([r, own, n + other, n + c])
    right = np.concatenate([c, m + own, other, m + r])
    weights = np.concatenate([gain, np.zeros(n + m + len(gain))])
    order = np.lexsort((right, left))
    starts = np.r_[0, np.cumsum(np.bincount(left, minlength=n + m))].astype(np.int32)
    partner = lap.lapmod(n + m, weights[order] - gain.min(), starts, right[order].astype(np.int32))[1][:n]
    chosen = np.flatnonzero(partner < m)
    return rows[chosen], columns[partner[chosen]]


def persistence(costs: Costs, rhos: Sequence[float]) -> Float[np.ndarray, " R"]:
    """The share of rows that is matched at each reject cost; the pairs are listed once, at the largest."""
    costs = costs.over(costs.unit)
    edges = admissible(costs, max(rhos))
    shares = []
    for rho in rhos:
        tau, sigma = rejections(costs, rho)
        kept = edges.kept(edges.weights <= tau[edges.i] + sigma[edges.j])
        shares.append(float((solved(kept, tau, sigma)[0] >= 0).mean()))
    return np.array(shares)


def null_reject(costs: Costs, rate: float = 0.01, *, seed: int = 0) -> float:
    """The reject cost at which at most `rate` of the rows would find a partner in a dictionary without counterparts.

    The null keeps of every row of b the norm in each tensor (decoder, encoder, bias) and of each tensor the mean and
    the covariance, and breaks every correspondence: m + C^1/2 R C^-1/2 (b - m) with one random orthogonal R for all
    tensors, so that encoders stay as near to their decoders as they were. (Dictionaries of neighbouring sites share
    their mean and their leading directions; a plain rotation breaks these too. Biases are one number a row and stay:
    features alike in bias alone are no pair.) rho is the `rate` quantile over rows, at most `NULL_ROWS` of them, of
    min_j c_ij / (|a_i|^2 + |b_j|^2).
    """
    some = -(-costs.shape[0] // NULL_ROWS)
    null = Costs(costs.a[::some], unrelated(costs, seed))
    least = []
    for part, block in null.blocks():
        block.div_(null.b_square + null.a_square[part, None])
        least.append(block.amin(dim=1))
    found = float(torch.quantile(torch.cat(least).double(), rate))
    if not 0 < found < math.inf:
        raise UserError(
            "An unrelated dictionary is as near as the second one, as of features that are zero or all alike.",
            hint="Give the reject cost as a number.",
        )
    return found


def unrelated(costs: Costs, seed: int) -> Float[Tensor, "m p"]:
    """Rows with the norms of b in every tensor, nearly its means and covariances, and none of its features."""
    if costs.shape[1] < 2:  # no covariance
        raise UserError(
            "An unrelated dictionary cannot be drawn of one feature.", hint="Give the reject cost as a number."
        )
    tensors = costs.b.split(list(costs.widths) or costs.b.shape[1], dim=1)
    width = max(t.shape[1] for t in tensors)
    generator = torch.Generator().manual_seed(seed_of(seed, "matching", "null"))
    rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return torch.cat([t if t.shape[1] == 1 else _turned(t, rotation) for t in tensors], dim=1)


def _turned(b: Float[Tensor, "m w"], rotation: Float[Tensor, "w w"]) -> Float[Tensor, "m w"]:
    mean = b.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((b - mean).T.cpu().double()))
    kept = values > 1e-9 * values[-1].clamp_min(1e-300)
    scales, vectors = values[kept].sqrt(), vectors[:, kept]
    left, _, right = torch.linalg.svd(vectors.T @ rotation @ vectors)  # orthogonal also where some directions are empty
    turn = (vectors / scales) @ left @ right @ (vectors * scales).T
    null = (b - mean) @ turn.to(b) + mean
    return null * (b.norm(dim=1, keepdim=True) / null.norm(dim=1, keepdim=True).clamp_min(1e-30))
