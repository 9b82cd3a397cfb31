"""The matching of two SAEs' features: fold, price, assign, certify (arXiv 2410.07656, with an exact solver).

`permutation[i] = j` pairs feature i of the first SAE with feature j of the second; -1 is unmatched. Composition is
index composition: `compose(ab, bc)[i] = bc[ab[i]]`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError, refuse_name
from saelab.core.progress import SILENT, Progress
from saelab.matching.assignment import assign
from saelab.matching.certificate import lower_bound, rounding_of
from saelab.matching.cost import Costs, Parts, costs_between
from saelab.matching.fold import Fold, FoldedFeatures, HasFeatures, features_of
from saelab.matching.partial import match_partially, null_reject
from saelab.saes.directions import Directions

UNMATCHED = -1


@dataclass(frozen=True)
class Matching:
    """A matching with its certificate.

    cost, lower_bound: total over pairs, in folded units squared; gap = cost - lower_bound, proved over all pairs (a
    partial matching is exact, so its bound is its cost), up to rounding, what float64 sums can be off by. pair_cost,
    cosine: per feature of the first SAE (NaN where unmatched); cosine is of the folded decoder rows. rejected_at: the
    reject cost used. clipped: tiny scales raised, per SAE. prices: (u, v) that prove the bound, in the units of the
    cost (None: partial). asked: fold, parts, weights.
    """

    permutation: Int[np.ndarray, " n"]
    cost: float
    lower_bound: float
    rounding: float
    pair_cost: Float[np.ndarray, " n"]
    cosine: Float[np.ndarray, " n"]
    method: str
    rounds: int
    seconds: float
    rejected_at: float | None
    clipped: tuple[int, int]
    prices: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]] | None
    asked: tuple[Fold, Parts, tuple[float, float, float]]

    def __repr__(self) -> str:
        paired = np.isfinite(self.cosine)
        cosine = f"{np.median(self.cosine[paired]):.2f}" if paired.any() else "missing"
        size = f"{paired.sum():,} of {len(self.permutation):,} features"
        certified = f"gap {self.gap:.2g} up to rounding of {self.rounding:.1g}"
        return f"<Matching of {size}: median cosine {cosine}, cost {self.cost:.4g}, {certified}>"

    @property
    def gap(self) -> float:
        """How far the cost can be from the optimum; what rounding takes below 0 is 0."""
        return max(0.0, self.cost - self.lower_bound)


@dataclass(frozen=True)
class Certificate:
    """What `verify` found: the cost of the pairs and the bound that the prices prove, both computed anew.

    rounding: what the float64 sums of both can be off by.
    """

    cost: float
    lower_bound: float
    rounding: float

    @property
    def gap(self) -> float:
        """How far the cost can be from the optimum; what rounding takes below 0 is 0."""
        return max(0.0, self.cost - self.lower_bound)


def match(
    sae_a: HasFeatures | Directions,
    sae_b: HasFeatures | Directions,
    *,
    fold: Fold = "none",
    parts: Parts = "decoder",
    reject: float | Literal["null"] | None = None,
    activations: tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]] | None = None,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    seed: int = 0,
    progress: Progress = SILENT,
) -> Matching:
    """Match the features of two SAEs of one input width, or of what writes to a site (decoder rows only).

    fold: the scale of each feature, see `fold.features_of`; "none" is unit decoder rows, and "theta" (the paper) falls
    back on nothing: an SAE without thresholds needs another. parts: which tensors are compared (the paper: all).
    reject: None for a full matching; rho for a partial one (admissible where the cost is at most rho times the sum of
    squared norms); "null" takes the rho at which 1 % of features would match a rotated, unrelated dictionary.
    activations: of each SAE's site, for the folds that are measured. A full matching of SAEs with different numbers of
    features leaves none of the smaller one's unmatched.
    Raises `UserError` for SAEs of different input widths.
    """
    _check(sae_a, sae_b)
    if parts != "decoder" and any(isinstance(s, Directions) for s in (sae_a, sae_b)):
        raise UserError(
            f"One of them has decoder rows only, and {parts} were to be compared.",
            hint="Match by directions: parts='decoder', fold='none' (--parts decoder --fold none).",
        )
    first, second, costs, unit = _compared(sae_a, sae_b, (fold, parts, weights), activations)
    prices, square = None, unit**2
    if reject is None:
        found = assign(costs, progress=progress)
        permutation, cost, bound = found.permutation, found.cost, found.lower_bound
        method, rounds, seconds = found.method, found.rounds, found.seconds
        prices, rounding = (found.u * square, found.v * square), rounding_of(costs, found.cost, found.u, found.v)
    else:
        began = time.perf_counter()
        rho = _reject(costs, reject, seed)
        permutation, cost = match_partially(costs, rho)
        seconds = time.perf_counter() - began
        bound, method, rounds, reject = cost, "partial", 1, rho
        rounding = rounding_of(costs, cost)
    pair_cost, cosine = _of_pairs(costs, first, second, permutation)
    return Matching(
        permutation, cost * square, bound * square, rounding * square, pair_cost * square, cosine, method, rounds,
        seconds, rejected_at=reject, clipped=(first.clipped, second.clipped), prices=prices,
        asked=(fold, parts, weights),
    )  # fmt: skip


def verify(
    matching: Matching,
    sae_a: HasFeatures | Directions,
    sae_b: HasFeatures | Directions,
    *,
    activations: tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]] | None = None,
) -> Certificate:
    """The certificate of a full matching computed again, by one pass over all pairs and nothing of the solver's.

    activations: those that it was matched with, for the folds that are measured. Raises `UserError` for a partial
    matching, and for pairs that are not one to one.
    """
    _check(sae_a, sae_b)
    if matching.prices is None:
        raise UserError("A partial matching has no prices.", hint="Its components are solved exactly, one by one.")
    _, _, costs, unit = _compared(sae_a, sae_b, matching.asked, activations)
    u, v = (p / unit**2 for p in matching.prices)
    n, m = costs.shape
    if (len(u), len(v)) != (n, m):
        raise UserError(f"The matching is of {len(u):,} features with {len(v):,}, and the SAEs have {n:,} and {m:,}.")
    i = np.flatnonzero(matching.permutation != UNMATCHED)
    j = matching.permutation[i]
    outside = (j < 0) | (j >= m)
    if len(matching.permutation) != n or outside.any() or len(i) < min(n, m) or len(np.unique(j)) < len(j):
        raise UserError("These pairs are no full matching of these two SAEs.")
    bound = lower_bound(costs.transposed(), v, u) if n > m else lower_bound(costs, u, v)
    cost = float(costs.edges(i, j).sum())
    return Certificate(*(x * unit**2 for x in (cost, bound, rounding_of(costs, cost, u, v))))


def _check(sae_a: HasFeatures | Directions, sae_b: HasFeatures | Directions) -> None:
    """Refuse what cannot be compared, in words."""
    for one in (sae_a, sae_b):
        refuse_name(one, "saelab.load_sae(reference)")
        if not isinstance(getattr(one, "W_dec", None), torch.Tensor):
            raise UserError(f"{type(one).__name__} is no SAE: it has no decoder rows W_dec.")
        if not one.W_dec.is_floating_point():
            raise UserError(f"Weights of type {one.W_dec.dtype} cannot be matched.", hint="Convert them: .float().")
    one, other = sae_a.W_dec, sae_b.W_dec
    if one.shape[1] != other.shape[1]:
        raise UserError(f"SAEs of width {one.shape[1]} and {other.shape[1]} cannot be matched.")
    if one.device != other.device:
        raise UserError(
            f"One SAE lies on {one.device}, the other on {other.device}.",
            hint="Move one to the other's device; costs are made where both lie.",
        )


def _compared(
    sae_a: HasFeatures | Directions,
    sae_b: HasFeatures | Directions,
    asked: tuple[Fold, Parts, tuple[float, float, float]],
    activations: tuple[Tensor, Tensor] | None,
) -> tuple[FoldedFeatures, FoldedFeatures, Costs, float]:
    """Both SAEs' features, and their costs in a unit in which a row is about 1 long."""
    fold, parts, weights = asked
    rows = _rows_of(activations)
    first, second = (features_of(s, fold, activations=x) for s, x in zip((sae_a, sae_b), rows, strict=True))
    costs = costs_between(first, second, parts, weights)
    unit = costs.unit
    # In place, as nobody else has these rows: another copy of them would be most of the memory.
    return first, second, Costs(costs.a.div_(unit), costs.b.div_(unit), costs.widths), unit


def _rows_of(activations: tuple[Tensor, Tensor] | None) -> Sequence[Tensor | None]:
    """The activations of each SAE's site, refused in words where they are none."""
    if activations is None:
        return None, None
    given: Sequence[object] = activations if isinstance(activations, Sequence) else ()
    fit = [x for x in given if isinstance(x, Tensor) and x.ndim == 2 and len(x) and bool(torch.isfinite(x).all())]
    if len(given) != 2 or len(fit) != 2:
        raise UserError(
            "activations are two tensors [N, D], finite and not empty: of the first SAE's site, the second's."
        )
    return fit


def _reject(costs: Costs, reject: float | str, seed: int) -> float:
    if reject == "null":
        return null_reject(costs, seed=seed)
    if isinstance(reject, str):
        raise UserError(f"There is no reject cost {reject!r}.", hint="Give a number, or 'null'.")
    return float(reject)


def compose(first: Int[np.ndarray, " n"], second: Int[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """The matching a -> c from a -> b and b -> c; unmatched stays unmatched."""
    return np.where(first == UNMATCHED, UNMATCHED, second[first])


def _of_pairs(
    costs: Costs, first: FoldedFeatures, second: FoldedFeatures, permutation: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    i = np.flatnonzero(permutation != UNMATCHED)
    j = permutation[i]
    device = costs.a.device
    cost, cosine = np.full(len(permutation), np.nan), np.full(len(permutation), np.nan)
    cost[i] = costs.edges(i, j)
    rows = (f.decoder[torch.from_numpy(k).to(device)] for f, k in ((first, i), (second, j)))
    cosine[i] = torch.nn.functional.cosine_similarity(*rows, dim=1).double().cpu().numpy()
    return cost, cosine
