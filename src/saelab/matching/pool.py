"""The pairs that a matching is chosen from, as they grow, and what prices prove over all others.

Listed pairs come with float32 costs. Only where such a cost could matter, because the pair is matched or its reduced
cost could be negative within the rounding, it is computed again in float64: a few per row. Of pairs that are not listed
the bound of their row says enough, or a pass over the rows of which it does not. Nothing here chooses a matching.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saelab.matching.certificate import Below, below
from saelab.matching.cost import Costs, Edges
from saelab.matching.listing import Listing

RELATIVE_GAP = 1e-9
MARGIN = 0.01  # of the median threshold of a row


@dataclass
class Pool:
    """edges: all pairs that are listed. used: those that the assignment chooses from. exact: their cost is of float64.

    floor: a bound for every row on the reduced costs at (u, v) of pairs that are not listed.
    """

    costs: Costs
    listing: Listing | None  # None: all pairs are listed
    edges: Edges
    used: Bool[np.ndarray, " E"]
    exact: Bool[np.ndarray, " E"]
    floor: Float[np.ndarray, " n"]
    u: Float[np.ndarray, " n"]
    v: Float[np.ndarray, " m"]

    @property
    def chosen_from(self) -> Edges:
        return self.edges.kept(self.used)

    def add(
        self,
        i: Int[np.ndarray, " P"],
        j: Int[np.ndarray, " P"],
        weights: Float[np.ndarray, " P"],
        exact: Bool[np.ndarray, " P"],
        use: Bool[np.ndarray, " P"],
    ) -> int:
        """List more pairs, some of them to be used; how many of these are new."""
        m = self.costs.shape[1]
        own, (keys, first) = self.edges.i * m + self.edges.j, np.unique(i.astype(np.int64) * m + j, return_index=True)
        at = np.searchsorted(own, keys)
        there = own[np.minimum(at, len(own) - 1)] == keys
        self.used[at[there & use[first]]] = True
        at, new = at[~there], first[~there]
        olds = self.edges.i, self.edges.j, self.edges.weights, self.used, self.exact
        news = i, j, weights, use, exact
        *edges, self.used, self.exact = (np.insert(old, at, x[new]) for old, x in zip(olds, news, strict=True))
        self.edges = Edges(*edges)
        return int(use[new].sum())

    def use(self, i: Int[np.ndarray, " P"], j: Int[np.ndarray, " P"]) -> None:
        """Use pairs, listed or not."""
        every = np.ones(len(i), bool)
        self.add(i, j, self.costs.edges(i, j), every, every)

    def priced(
        self, u: Float[np.ndarray, " n"], v: Float[np.ndarray, " m"], permutation: Int[np.ndarray, " n"]
    ) -> tuple[float, float, int]:
        """The cost of a matching, the lower bound that prices prove, and how many pairs, used from now on, the matching
        has not minded.

        u, v: prices that fit the matching on the pairs in use.
        """
        i, j = self.edges.i, self.edges.j
        reduced = self.edges.weights - u[i] - v[j]
        matched = permutation[i] == j
        settled = self.exact & self.used
        self._compute(reduced, matched, u, v)
        cost = float(self.edges.weights[matched].sum())
        tolerance = RELATIVE_GAP * cost / len(u) + 1e-13 * self.costs.scale
        wrong = (reduced < -tolerance) | (matched & (reduced > tolerance))
        wrong &= ~settled
        self.used |= wrong
        least, under = np.zeros(len(u)), reduced < 0
        np.minimum.at(least, i[under], reduced[under])
        others = self._others(u, v)
        np.minimum.at(least, others.i, others.reduced)
        bound = float(u.sum() + v.sum() + least.sum()) - others.loose
        use = others.reduced < -tolerance
        return cost, bound, int(wrong.sum()) + self.add(others.i, others.j, others.weights, others.exact, use)

    def _others(self, u: Float[np.ndarray, " n"], v: Float[np.ndarray, " m"]) -> Below:
        """The pairs with reduced costs below the margin, wherever what is known of unlisted ones does not do."""
        if self.listing is None:
            return below(self.costs, u, v, rows=np.zeros(0, int))
        # Pairs a little above zero are listed too, or the next small move of the prices would need another pass.
        slack = float(np.median(self.listing.above) + np.median(self.listing.beside))
        margin = max(4 * slack, MARGIN * float(np.median(self.listing.by_row)))
        by_row, by_column = self.listing.unlisted(u, v)
        by_row = np.maximum(by_row, self.floor - (u - self.u) - max(0.0, float((v - self.v).max())))
        rows, columns = np.flatnonzero(by_row < margin), np.flatnonzero(by_column < margin)
        if (by_row >= 0).all():
            rows = rows[:0]
        found = below(self.costs, u, v, margin, rows, columns)
        by_row[rows] = -np.inf if found.loose else margin
        self.floor, self.u, self.v = by_row, u, v
        return found

    def _compute(
        self,
        reduced: Float[np.ndarray, " E"],
        matched: Bool[np.ndarray, " E"],
        u: Float[np.ndarray, " n"],
        v: Float[np.ndarray, " m"],
    ) -> None:
        """Costs in float64 where a float32 one could matter, in the edges and in `reduced`."""
        if self.listing is None:
            return
        i, j = self.edges.i, self.edges.j
        near = ~self.exact & (matched | (reduced < self.listing.above[i] + self.listing.beside[j]))
        i, j = i[near], j[near]
        self.edges.weights[near] = self.costs.edges(i, j)
        reduced[near] = self.edges.weights[near] - u[i] - v[j]
        self.exact |= near


def pool_of_all(costs: Costs) -> Pool:
    """All pairs, in float64."""
    n, m = costs.shape
    i, j = np.divmod(np.arange(n * m), m)
    every = np.ones(n * m, bool)
    return Pool(
        costs, None, Edges(i, j, costs.edges(i, j)), every, every.copy(), np.full(n, np.inf), np.zeros(n), np.zeros(m)
    )


def pool_of(costs: Costs, listing: Listing, used: Bool[np.ndarray, " E"]) -> Pool:
    """The pairs of a listing, some of them to be used."""
    never, (n, m) = np.zeros(len(used), bool), costs.shape
    return Pool(costs, listing, listing.edges, used, never, np.full(n, -np.inf), np.zeros(n), np.zeros(m))
