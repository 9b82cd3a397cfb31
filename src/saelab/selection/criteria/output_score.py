"""Output score (arXiv 2505.20063): does the edit bring up the very tokens that the feature's direction promotes?

With l the feature's top tokens through the lens and V the vocabulary, `P(p) = (1 - r/V) * max over t in l of p[t]`,
r the 0-based rank in p of the best-ranked token of l (a tie counts for the feature). Two variants:

- `output_score`: P(steered), as the authors' released code computes it (no base term), in [0, 1];
- `output_score_paper`: P(steered) - P(base), as the paper's equation has it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.selection.criteria.observation import NextToken, Observation


def output_score(seen: Observation) -> Float[Tensor, "B"]:
    """(1 - r/V) * p of the best lens token under the edit, in [0, 1]."""
    steered = seen.steered
    best = steered.logits.gather(1, seen.lens_top).amax(-1)
    rank = (steered.logits > best[:, None]).sum(-1)
    return _weigh(rank, torch.exp(best - steered.log_norm), steered)


def output_score_paper(seen: Observation) -> Float[Tensor, "B"]:
    """The same less its value without the edit."""
    base = seen.base
    rank = base.rank[0][seen.lens_top].amin(-1)
    prob = base.probs[0][seen.lens_top].amax(-1)
    return output_score(seen) - _weigh(rank, prob, base)


def _weigh(rank: Tensor, prob: Float[Tensor, "B"], p: NextToken) -> Float[Tensor, "B"]:
    return (1 - rank / p.logits.shape[1]) * prob
