"""What becomes of a feature from one site to the next: carried on, changed, merged, died; born or split off another.

From the pairs of unit rows whose cosine is at least t = 1 - rho (partial.py: the level at which 1 % of features would
find a partner in an unrelated dictionary), with d = 1 - cosine and the partial cosine of i and j given p,

    r(i, j | p) = (c_ij - c_ip c_jp) / sqrt((1 - c_ip^2) (1 - c_jp^2)):

    carried on   matched, d <= strict * rho            changed     matched, further
    merged       unmatched; its nearest j has a partner p, and r(i, j | p) >= t: i is in j beside p
    split off    the same of a feature of B            died, born  unmatched otherwise

A pair (i, p) is ambiguous where, given another neighbour of one of the two, the other adds less than t to it. Such a
pair is left over, and is dissolved, where that neighbour is nearer and taken by a feature beside which the one is a
part of it. Errors on planted dictionaries are stated in docs/matching.md. Data-free; names say nothing about meaning,
only about directions.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy  # its parts are loaded at first use
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.matching.cost import Costs, Edges
from saelab.matching.partial import admissible, rejections, solved

STRICT = 0.5
CARRIED, CHANGED, MERGED, DIED, SPLIT, BORN = "carried on", "changed", "merged", "died", "split off", "born"
ONE, MANY, INTO, UNSURE = "one to one", "one to many", "many to one", "ambiguous"  # relations of a pair
TOGETHER = 1 << 13  # dot products of rows at a time
ROUNDS = 8  # of matching without the pairs that are left over; what is left over then stays ambiguous

Rows = tuple[Tensor, Tensor]  # of the features that are asked about, and of the others


@dataclass(frozen=True)
class Classes:
    """permutation: the partial matching (-1: none). distance: d of each pair (NaN: none). into: the feature of B that
    an unmatched feature of A has merged into; off: the feature of A that an unmatched one of B has split off (-1:
    none). ambiguous: of a feature of A, whether its pair is. rho: the reject cost; strict: the share of it that is
    near.
    """

    permutation: Int[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    into: Int[np.ndarray, " n"]
    off: Int[np.ndarray, " m"]
    ambiguous: Bool[np.ndarray, " n"]
    rho: float
    strict: float = STRICT

    @property
    def names(self) -> list[str]:
        """The class of each feature of A."""
        near = self.distance <= self.strict * self.rho
        rows = zip(self.permutation, near, self.into, strict=True)
        return [(CARRIED if k else CHANGED) if j >= 0 else MERGED if i >= 0 else DIED for j, k, i in rows]

    @cached_property
    def born(self) -> Bool[np.ndarray, " m"]:
        """Which features of B have no partner and have not split off."""
        return ~np.isin(np.arange(len(self.off)), self.permutation) & (self.off < 0)

    @cached_property
    def relations(self) -> list[str | None]:
        """Of each pair whether it stands alone, is one of a family, or ambiguous; None: no pair."""
        many = np.isin(np.arange(len(self.permutation)), self.off)
        into = np.isin(self.permutation, self.into[self.into >= 0])
        return [
            None if j < 0 else UNSURE if unsure else MANY if split else INTO if joined else ONE
            for j, unsure, split, joined in zip(self.permutation, self.ambiguous, many, into, strict=True)
        ]

    @cached_property
    def family(self) -> Int[np.ndarray, " n"]:
        """A number shared by the features of A that a pair, a split or a merge joins (-1: a pair alone, or none)."""
        n, m = len(self.permutation), len(self.off)
        i = [np.flatnonzero(self.permutation >= 0), np.flatnonzero(self.into >= 0), self.off[self.off >= 0]]
        j = [self.permutation[i[0]], self.into[i[1]], np.flatnonzero(self.off >= 0)]
        joined = np.concatenate([*i[1:], np.flatnonzero(np.isin(self.permutation, j[1]))])
        rows, columns = np.concatenate(i), n + np.concatenate(j)
        graph = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(n + m, n + m))
        component = scipy.sparse.csgraph.connected_components(graph, directed=False)[1][:n]
        kept = np.isin(component, component[joined]) & ((self.permutation >= 0) | (self.into >= 0))
        family = np.full(n, -1)
        family[kept] = np.unique(component[kept], return_inverse=True)[1]
        return family

    @property
    def counts(self) -> dict[str, int]:
        """How many of each; families and ambiguous pairs are counted in their classes as well."""
        names = self.names
        found = {name: names.count(name) for name in (CARRIED, CHANGED, MERGED, DIED)}
        found |= {BORN: int(self.born.sum()), SPLIT: int((self.off >= 0).sum())}
        return found | {name: self.relations.count(name) for name in (ONE, MANY, INTO, UNSURE)}


def classed(costs: Costs, rho: float, *, strict: float = STRICT) -> Classes:
    """The classes at a reject cost, of rows of unit norm."""
    edges, level = admissible(costs, rho), 1 - rho
    rows, turned_rows = (costs.a, costs.b), (costs.b, costs.a)
    for _ in range(ROUNDS):
        permutation, back, turned = _paired(edges, costs, rho)
        alone = _left_over(edges, permutation, back, rows, level)[edges.i]
        alone |= _left_over(turned, back, permutation, turned_rows, level)[edges.j]
        left = alone & (permutation[edges.i] == edges.j)
        if not left.any():
            break
        edges = edges.kept(~left)
    permutation, back, turned = _paired(edges, costs, rho)
    distance = np.full(len(permutation), np.nan)
    own = edges.kept(permutation[edges.i] == edges.j)
    distance[own.i] = own.weights / 2
    into = _joined(edges, permutation, back, rows, level)
    off = _joined(turned, back, permutation, turned_rows, level)
    ambiguous = _dispensable(edges, permutation, rows, level)
    ambiguous |= (permutation >= 0) & _dispensable(turned, back, turned_rows, level)[permutation]
    return Classes(permutation, distance, into, off, ambiguous, rho, strict)


def _paired(edges: Edges, costs: Costs, rho: float) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"], Edges]:
    """The partial matching on some edges, by row and by column, and the edges seen from the columns."""
    permutation, _ = solved(edges, *rejections(costs, rho))
    back = np.full(costs.shape[1], -1)
    back[permutation[permutation >= 0]] = np.flatnonzero(permutation >= 0)
    return permutation, back, Edges(edges.j, edges.i, edges.weights)


def partial_cosine(c_ij: np.ndarray, c_ip: np.ndarray, c_jp: np.ndarray) -> Float[np.ndarray, " K"]:
    """The cosine of what of i and of j is orthogonal to p (0 where nothing is), from their three cosines."""
    rest = np.sqrt(np.clip(1 - c_ip**2, 0, None) * np.clip(1 - c_jp**2, 0, None))
    return np.divide(c_ij - c_ip * c_jp, rest, out=np.zeros_like(rest), where=rest > 1e-9)


def _nearest(edges: Edges) -> Int[np.ndarray, " K"]:
    """Of every row that has any, its nearest edge."""
    order = np.lexsort((edges.weights, edges.i))
    return order[np.unique(edges.i[order], return_index=True)[1]]


def _part_of(
    edges: Edges, some: Int[np.ndarray, " K"], back: Int[np.ndarray, " m"], rows: Rows, level: float
) -> Bool[np.ndarray, " K"]:
    """Whether the i of some edges is a part of their j beside the partner of j."""
    i, j, p = edges.i[some], edges.j[some], back[edges.j[some]]
    c_ip, c_jp = _cosines(rows[0], rows[0], i, p), _cosines(rows[1], rows[0], j, p)
    return partial_cosine(1 - edges.weights[some] / 2, c_ip, c_jp) >= level


def _joined(
    edges: Edges, pairs: Int[np.ndarray, " n"], back: Int[np.ndarray, " m"], rows: Rows, level: float
) -> Int[np.ndarray, " n"]:
    """Of every feature without a pair the nearest other one that it is a part of, beside that one's partner; or -1."""
    first = _nearest(edges)
    some = first[(pairs[edges.i[first]] < 0) & (back[edges.j[first]] >= 0)]
    some = some[_part_of(edges, some, back, rows, level)]
    found = np.full(len(pairs), -1)
    found[edges.i[some]] = edges.j[some]
    return found


def _left_over(
    edges: Edges, pairs: Int[np.ndarray, " n"], back: Int[np.ndarray, " m"], rows: Rows, level: float
) -> Bool[np.ndarray, " n"]:
    """Whether the pair of a feature is left over: its nearest other one is taken and says all that the partner does."""
    first = _nearest(edges)
    own = pairs[edges.i[first]]
    some = first[(own >= 0) & (own != edges.j[first]) & (back[edges.j[first]] >= 0)]
    i, j, p = edges.i[some], edges.j[some], pairs[edges.i[some]]
    c_ij, c_ip, c_jp = 1 - edges.weights[some] / 2, _cosines(rows[0], rows[1], i, p), _cosines(rows[1], rows[1], j, p)
    worse = (partial_cosine(c_ip, c_ij, c_jp) < level) & (partial_cosine(c_ij, c_ip, c_jp) >= level)
    found = np.zeros(len(pairs), bool)
    found[i[worse & _part_of(edges, some, back, rows, level)]] = True
    return found


def _dispensable(edges: Edges, pairs: Int[np.ndarray, " n"], rows: Rows, level: float) -> Bool[np.ndarray, " n"]:
    """Of every feature with a pair, whether its partner adds less than the level to another neighbour of it."""
    some = np.flatnonzero((pairs[edges.i] >= 0) & (pairs[edges.i] != edges.j))
    i, j, p = edges.i[some], edges.j[some], pairs[edges.i[some]]
    c_ip = _cosines(rows[0], rows[1], i, p)
    found = np.zeros(len(pairs), bool)
    found[i[partial_cosine(c_ip, 1 - edges.weights[some] / 2, _cosines(rows[1], rows[1], p, j)) < level]] = True
    return found


def _cosines(
    left: Float[Tensor, "n d"], right: Float[Tensor, "m d"], i: Int[np.ndarray, " K"], j: Int[np.ndarray, " K"]
) -> Float[np.ndarray, " K"]:
    """Cosines of pairs of unit rows, in float64."""
    found = np.empty(len(i))
    for start in range(0, len(i), TOGETHER):
        part = slice(start, start + TOGETHER)
        a, b = (x[torch.from_numpy(k[part]).to(x.device)].double() for x, k in ((left, i), (right, j)))
        found[part] = torch.linalg.vecdot(a, b).cpu().numpy()
    return found
