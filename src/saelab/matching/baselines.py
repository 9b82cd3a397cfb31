"""What a matching is compared with: identity, random, top-1 cosine, mutual nearest, greedy.

Each gives index arrays like `Matching.permutation`; top-1 may use a column twice, mutual nearest leaves features
unmatched.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.seeds import numpy_generator
from saelab.matching.assignment import candidates, greedy_full
from saelab.matching.cost import Costs


def random_pairs(n: int, seed: int = 0) -> Int[np.ndarray, " n"]:
    """A random permutation: the floor."""
    return numpy_generator(seed, "matching", "random").permutation(n)


def nearest(costs: Costs) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """The nearest column of each row and the nearest row of each column, by cost."""
    rows = []
    best, owner = torch.full((costs.shape[1],), torch.inf), torch.zeros(costs.shape[1], dtype=torch.long)
    for part, block in costs.blocks():
        rows.append(block.argmin(dim=1))
        least, index = block.min(dim=0)
        better = least < best
        best[better], owner[better] = least[better], index[better] + part.start
    return torch.cat(rows).numpy(), owner.numpy()


def mutual_nearest(costs: Costs) -> Int[np.ndarray, " n"]:
    """Pairs that are each other's nearest; -1 elsewhere."""
    forward, backward = nearest(costs)
    return np.where(backward[forward] == np.arange(len(forward)), forward, -1)


def greedy(costs: Costs) -> Int[np.ndarray, " n"]:
    """A full matching taken pair by pair from about the 64 cheapest of every row and column."""
    edges = candidates(costs, torch.zeros(costs.shape[0]), torch.zeros(costs.shape[1]))
    return greedy_full(edges.i, edges.j, edges.weights, costs.shape)[1]


def top_cosine(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[np.ndarray, " n"]:
    """The largest cosine of every row of a with a row of b: what no one-to-one matching can exceed."""
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
    return torch.cat([(x @ b.T).amax(dim=1) for x in a.split(1024)]).double().numpy()
