"""The matching of two SAEs' features: fold, price, assign, certify (arXiv 2410.07656, with an exact solver).

`permutation[i] = j` pairs feature i of the first SAE with feature j of the second; -1 is unmatched. Composition is
index composition: `compose(ab, bc)[i] = bc[ab[i]]`.
"""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.matching.assignment import assign
from saelab.matching.cost import Costs, Parts, costs_between
from saelab.matching.fold import Fold, FoldedFeatures, HasFeatures, features_of
from saelab.matching.partial import match_partially, null_reject
from saelab.saes.directions import Directions

UNMATCHED = -1


@dataclass(frozen=True)
class Matching:
    """A matching with its certificate.

    cost, lower_bound: total over pairs, in folded units squared; gap = cost - lower_bound, proved over all pairs (a
    partial matching is exact, so its bound is its cost). pair_cost, cosine: per feature of the first SAE (NaN where
    unmatched); cosine is of the folded decoder rows. rejected_at: the reject cost used. clipped: tiny scales raised,
    per SAE.
    """

    permutation: Int[np.ndarray, " n"]
    cost: float
    lower_bound: float
    pair_cost: Float[np.ndarray, " n"]
    cosine: Float[np.ndarray, " n"]
    method: str
    rounds: int
    seconds: float
    rejected_at: float | None
    clipped: tuple[int, int]

    @property
    def gap(self) -> float:
        """How far the cost can be from the optimum."""
        return self.cost - self.lower_bound


def match(
    sae_a: HasFeatures | Directions,
    sae_b: HasFeatures | Directions,
    *,
    fold: Fold = "theta",
    parts: Parts = "all",
    reject: float | Literal["null"] | None = None,
    activations: tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]] | None = None,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    seed: int = 0,
    progress: Progress = SILENT,
) -> Matching:
    """Match the features of two SAEs of one input width, or of what writes to a site (decoder rows only).

    fold: the scale of each feature, see `fold.features_of`; "theta" (the paper) falls back on nothing: an SAE without
    thresholds needs another. parts: which tensors are compared. reject: None for a full matching; rho for a partial
    one (admissible where the cost is at most rho times the sum of squared norms); "null" takes the rho at which 1 %
    of features would match a rotated, unrelated dictionary. activations: of each SAE's site, for the folds that are
    measured. A full matching of SAEs with different numbers of features leaves none of the smaller one's unmatched.
    Raises `UserError` for SAEs of different input widths.
    """
    if sae_a.W_dec.shape[1] != sae_b.W_dec.shape[1]:
        raise UserError(f"SAEs of width {sae_a.W_dec.shape[1]} and {sae_b.W_dec.shape[1]} cannot be matched.")
    if parts != "decoder" and any(isinstance(s, Directions) for s in (sae_a, sae_b)):
        raise UserError(
            f"One of them has decoder rows only, and {parts} were to be compared.",
            hint="Match by directions: parts='decoder', fold='none' (--parts decoder --fold none).",
        )
    rows = activations or (None, None)
    first, second = (features_of(s, fold, activations=x) for s, x in zip((sae_a, sae_b), rows, strict=True))
    costs = costs_between(first, second, parts, weights)
    if reject is None:
        found = assign(costs, progress=progress)
        permutation, cost, bound = found.permutation, found.cost, found.lower_bound
        method, rounds, seconds = found.method, found.rounds, found.seconds
    else:
        began = time.perf_counter()
        rho = null_reject(costs, seed=seed) if reject == "null" else float(reject)
        permutation, cost = match_partially(costs, rho)
        seconds = time.perf_counter() - began
        bound, method, rounds, reject = cost, "partial", 1, rho
    return Matching(
        permutation, cost, bound, *_of_pairs(costs, first, second, permutation), method, rounds, seconds,
        rejected_at=reject, clipped=(first.clipped, second.clipped),
    )  # fmt: skip


def compose(first: Int[np.ndarray, " n"], second: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """The matching a -> c from a -> b and b -> c; unmatched stays unmatched."""
    return np.where(first == UNMATCHED, UNMATCHED, second[first])


def _of_pairs(
    costs: Costs, first: FoldedFeatures, second: FoldedFeatures, permutation: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    i = np.flatnonzero(permutation != UNMATCHED)
    j = permutation[i]
    cost, cosine = np.full(len(permutation), np.nan), np.full(len(permutation), np.nan)
    cost[i] = costs.edges(i, j)
    rows = first.decoder[torch.from_numpy(i)], second.decoder[torch.from_numpy(j)]
    cosine[i] = torch.nn.functional.cosine_similarity(*rows, dim=1).double().numpy()
    return cost, cosine
