"""Catalogue of what a matching is read against: other matchings, and other predictions of the second site's state.

A new one is an entry of `BASELINES`: the stage computes it, its record holds it by its name, the page draws it. The
functions give index arrays like `Matching.permutation`; top-1 may use a column twice, mutual nearest leaves features
unmatched.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.seeds import numpy_generator
from saelab.matching.cost import Costs, Parts
from saelab.matching.fold import Fold, HasFeatures
from saelab.matching.listing import listed
from saelab.matching.prices import samples_of

Predict = Callable[[HasFeatures, HasFeatures, Tensor, Tensor], Tensor]


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
    edges = listed(costs, samples_of(costs), torch.zeros_like(costs.a_square), torch.zeros_like(costs.b_square)).edges
    n, m = costs.shape
    partner = np.full(n, -1)
    taken = np.zeros(m, bool)
    for e in np.argsort(edges.weights, kind="stable"):
        if partner[edges.i[e]] < 0 and not taken[edges.j[e]]:
            partner[edges.i[e]] = edges.j[e]
            taken[edges.j[e]] = True
    alone = partner < 0
    partner[alone] = np.flatnonzero(~taken)[: alone.sum()]
    return partner


def top_cosine(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[np.ndarray, " n"]:
    """The largest cosine of every row of a with a row of b: what no one-to-one matching can exceed."""
    a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
    return torch.cat([(x @ b.T).amax(dim=1) for x in a.split(1024)]).double().numpy()


@dataclass(frozen=True)
class Baseline:
    """Something that a matching is drawn beside.

    name: in the quality record. label, colour (a variable of the page's palette), dash: how the page draws it.
    note, note_of: its short name in the table of matchings, and the measure beside which it stands there.
    pairs: an index array from the costs and a seed; only between as many features on both sides.
    control: fold and parts of another matching of the same features, which is put to work as the matching is.
    predict: the second site's state [N, D] from both SAEs and both sites' states.
    """

    name: str
    label: str
    colour: str
    dash: str = "dot"
    note: str = ""
    note_of: str = ""
    pairs: Callable[[Costs, int], Int[np.ndarray, " n"]] | None = None
    predict: Predict | None = None
    control: tuple[Fold, Parts] | None = None


MATCHED, COMPOSED = "matched", "composed"
BASELINES = {
    b.name: b
    for b in (
        Baseline(MATCHED, "Matched features", "line-0", "solid"),
        Baseline(COMPOSED, "Matched step by step", "line-0", "dash"),
        Baseline("directions", "Matched by decoder directions", "line-1", "dash", control=("none", "decoder")),
        Baseline("folded", "Matched by all tensors, folded", "line-5", "dash", control=("theta", "all")),
        Baseline("unfolded", "Matched by all tensors, unfolded", "line-2", "dash", control=("none", "all")),
        Baseline("drop", "Blocks dropped", "line-3", note="blocks dropped", note_of="ce_change",
                 predict=lambda a, b, x, y: x),
        Baseline("current", "Encode-decode, nothing skipped", "line-1", note="nothing skipped",
                 note_of="explained_variance", predict=lambda a, b, x, y: b.decode(b.encode(y))),
        Baseline("previous", "Encode-decode of the state before", "line-2",
                 predict=lambda a, b, x, y: a.decode(a.encode(x))),
        Baseline("identity", "Same index", "line-4", "dashdot", pairs=lambda costs, seed: np.arange(costs.shape[0])),
        Baseline("random", "Chance", "line-4", pairs=lambda costs, seed: random_pairs(costs.shape[0], seed)),
        Baseline("greedy", "Greedy matching", "line-5", pairs=lambda costs, seed: greedy(costs)),
        Baseline("chance", "Chance", "line-4", note="chance", note_of="matching_score"),
    )
}  # fmt: skip
