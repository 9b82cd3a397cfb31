"""Delta Token Confidence (arXiv 2510.03659, section 4): how much an edit changes the confidence of the next token.

`C_k(p) = -(1/k) * sum over the k largest p_j of log p_j` (lower is more confident) and
`DeltaC_k(f) = C_k(p_steered) - C_k(p_base)`. Signed: the paper ranks by the absolute value and by each tail.
With k = 1 it is the change of -log max p. It says nothing about *which* token gains.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.selection.criteria.observation import NextToken, Observation


def confidence(p: NextToken, k: int) -> Float[Tensor, "B"]:
    """C_k of each row, in nats."""
    if k == 1:
        return p.log_norm  # the largest logit is 0
    return p.log_norm - torch.topk(p.logits, k, dim=-1).values.mean(-1)


def delta_confidence(seen: Observation) -> Float[Tensor, "B"]:
    """DeltaC_k of each feature, in nats; positive means less confident."""
    return confidence(seen.steered, seen.k) - confidence(seen.base, seen.k)
