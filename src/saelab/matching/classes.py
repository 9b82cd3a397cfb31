"""What becomes of a feature from one site to the next: carried on, changed, died; born; and which pairs are ambiguous.

From the admissible pairs of a partial matching at reject cost rho (partial.py), with d = c_ij / (|a_i|^2 + |b_j|^2),
which is 1 - cosine for rows of equal norm:

    carried on   matched, d <= strict * rho           changed   matched, strict * rho < d <= rho
    died         a feature of A without a partner     born      a feature of B without one

A pair is ambiguous where another admissible pair of the same row or column is nearly as good (its gain over leaving
both unmatched is within `tie` of the pair's own); features joined by such near-ties form a family. Data-free; names say
nothing about meaning, only about directions that a matching at a stated false-match rate can tell from chance.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are loaded at first use
from jaxtyping import Bool, Float, Int

from saelab.matching.cost import Costs, Edges
from saelab.matching.partial import admissible, rejections, solved

STRICT = 0.5
TIE = 0.1
CARRIED, CHANGED, DIED = "carried on", "changed", "died"


@dataclass(frozen=True)
class Classes:
    """permutation: the partial matching (-1: died). distance: d of each pair (NaN: none). family: a number shared by
    the rows that near-ties join (-1: the row's pair is not ambiguous). born: columns without a partner.
    """

    permutation: Int[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    family: Int[np.ndarray, " n"]
    born: Bool[np.ndarray, " m"]
    rho: float
    strict: float = STRICT

    @property
    def names(self) -> list[str]:
        """The class of each feature of A."""
        near = self.distance <= self.strict * self.rho
        return [DIED if j < 0 else CARRIED if k else CHANGED for j, k in zip(self.permutation, near, strict=True)]

    @property
    def counts(self) -> dict[str, int]:
        """How many of each; ambiguous ones are counted in their class as well."""
        names = self.names
        found = {name: names.count(name) for name in (CARRIED, CHANGED, DIED)}
        return found | {"born": int(self.born.sum()), "ambiguous": int((self.family >= 0).sum())}


def classed(costs: Costs, rho: float, *, strict: float = STRICT, tie: float = TIE) -> Classes:
    """The classes at a reject cost."""
    edges = admissible(costs, rho)
    tau, sigma = rejections(costs, rho)
    permutation, _ = solved(edges, tau, sigma)
    matched = np.flatnonzero(permutation >= 0)
    distance = np.full(len(tau), np.nan)
    own = np.searchsorted(edges.i * len(sigma) + edges.j, matched * len(sigma) + permutation[matched])
    limit = tau[edges.i] + sigma[edges.j]
    distance[matched] = rho * edges.weights[own] / limit[own]
    born = np.ones(len(sigma), bool)
    born[permutation[matched]] = False
    return Classes(permutation, distance, _families(edges, limit, permutation, tie), born, rho, strict)


def _families(
    edges: Edges, limit: Float[np.ndarray, " E"], permutation: Int[np.ndarray, " n"], tie: float
) -> Int[np.ndarray, " n"]:
    n, m = len(permutation), int(edges.j.max(initial=-1)) + 1
    gain = limit - edges.weights
    matched = permutation[edges.i] == edges.j
    of_row, of_column = np.full(n, np.inf), np.full(m, np.inf)
    of_row[edges.i[matched]] = gain[matched]
    of_column[edges.j[matched]] = gain[matched]
    near = ~matched & (gain > 0) & (gain >= (1 - tie) * np.minimum(of_row[edges.i], of_column[edges.j]))
    joins = near | matched
    graph = scipy.sparse.csr_matrix((np.ones(joins.sum()), (edges.i[joins], n + edges.j[joins])), shape=(n + m, n + m))
    component = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    touched = np.zeros(n + m, bool)
    touched[edges.i[near]] = touched[n + edges.j[near]] = True
    ambiguous = np.isin(component[:n], component[touched]) & (permutation >= 0)
    family = np.full(n, -1)
    family[ambiguous] = np.unique(component[:n][ambiguous], return_inverse=True)[1]
    return family
