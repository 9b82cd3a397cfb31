"""What stands beside a feature: others whose decoder rows point the same way, and others that fire on the same tokens.

Co-activation is measured by phi, the correlation of two features' being active over the tokens read:

    phi = (n n11 - n1 n2) / sqrt(n1 (n - n1) n2 (n - n2))

Blocks of features are compared with all others, so that memory does not grow with their square.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor

from saelab.interp.features.codes import Codes

LEAST = 2  # tokens that two features must share
DENSE = 1 << 24  # entries of a dense block
PRODUCTS = 4e8  # pairs (token, feature, feature) that are counted at most
TOGETHER = 2e7  # of them, in one block


@torch.inference_mode()
def decoder_neighbours(
    rows: Float[Tensor, "F D"], features: range, count: int
) -> tuple[Int[np.ndarray, "K C"], Float[np.ndarray, "K C"]]:
    """The features of largest decoder cosine with each of `features`, itself left out, and the cosines."""
    unit = torch.nn.functional.normalize(rows.float(), dim=1)
    count = min(count, len(unit) - 1)
    found = []
    for start in range(features.start, features.stop, size := max(1, DENSE // len(unit))):
        block = torch.arange(start, min(start + size, features.stop))
        cosines = unit[block] @ unit.T
        cosines[torch.arange(len(block)), block] = -2.0
        found.append(cosines.topk(count))
    return np.concatenate([f.indices.numpy() for f in found]), np.concatenate([f.values.numpy() for f in found])


class Coactivation:
    """Which features fire on the same tokens, over the tokens of some codes.

    tokens: how many were counted; of a dense dictionary fewer than were read, evenly spread, so that time is bounded.
    """

    def __init__(self, codes: Codes, read: Int[np.ndarray, " R"]):
        """read: all the places that were encoded, ascending, active or not."""
        each = np.bincount(np.searchsorted(read, codes.places), minlength=len(read)).astype(np.float64)
        step = max(1, round(float((each**2).sum()) / PRODUCTS))
        kept, counted = codes.places % step == 0, read[read % step == 0]
        self.tokens = len(counted)
        at = (np.searchsorted(counted, codes.places[kept]), codes.features()[kept])
        ones = np.ones(len(at[0]), np.int32)
        self._active: Any = sparse.csr_array((ones, at), shape=(self.tokens, codes.n_features))
        self._columns: Any = self._active.tocsc()
        self.counts = np.asarray(np.diff(self._columns.indptr), np.int64)
        self._work = self._active.T.tocsr() @ np.diff(self._active.indptr).astype(np.float64)

    def of(self, features: range, count: int) -> list[list[tuple[int, float, int]]]:
        """For each of `features`: those of largest phi with it above zero, as (feature, phi, tokens shared)."""
        found: list[list[tuple[int, float, int]]] = []
        start = features.start
        while start < features.stop:
            work = np.cumsum(self._work[start : features.stop])
            stop = start + max(1, int(np.searchsorted(work, TOGETHER)))
            stop = min(stop, features.stop)
            shared = (self._columns[:, start:stop].T.tocsr() @ self._active).tocsr()
            for k in range(stop - start):
                inside = slice(shared.indptr[k], shared.indptr[k + 1])
                found.append(self._best(start + k, shared.indices[inside], shared.data[inside], count))
            start = stop
        return found

    def _best(
        self, own: int, others: Int[np.ndarray, " N"], both: Int[np.ndarray, " N"], count: int
    ) -> list[tuple[int, float, int]]:
        keep = (others != own) & (both >= LEAST)
        others, both = others[keep].astype(np.int64), both[keep].astype(np.float64)
        n, n1, n2 = float(self.tokens), float(self.counts[own]), self.counts[others].astype(np.float64)
        spread = np.sqrt(n1 * (n - n1) * n2 * (n - n2))
        phi = np.divide(n * both - n1 * n2, spread, out=np.zeros(len(others)), where=spread > 0)
        order = np.lexsort((others, -phi))[:count]
        return [(int(others[i]), float(phi[i]), int(both[i])) for i in order if phi[i] > 0]
