"""Divergences between the next-token distributions with and without the edit: the size of an effect, blind to meaning.

`kl = KL(base || steered)`, `kl_reverse = KL(steered || base)`, `js = H(m) - (H(base) + H(steered))/2` with
m the mean of both (at most ln 2). Nats; rounding below zero is cut.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.selection.criteria.observation import Observation


def kl(seen: Observation) -> Float[Tensor, "B"]:
    """KL(base || steered) = -H(base) - E_base[log p_steered]."""
    base, steered = seen.base, seen.steered
    cross = steered.log_norm - steered.logits @ base.probs[0]
    return (cross - base.entropy).clamp(min=0)


def kl_reverse(seen: Observation) -> Float[Tensor, "B"]:
    """KL(steered || base) = -H(steered) - E_steered[log p_base]."""
    base, steered = seen.base, seen.steered
    cross = base.log_norm - (steered.exps @ base.logits[0]) / steered.norm
    return (cross - steered.entropy).clamp(min=0)


def js(seen: Observation) -> Float[Tensor, "B"]:
    """Jensen-Shannon divergence, in [0, ln 2]."""
    mean = (seen.steered.probs + seen.base.probs) / 2
    entropy = -torch.xlogy(mean, mean).sum(-1)  # xlogy(0, 0) = 0: underflowed probabilities contribute nothing
    return (entropy - (seen.base.entropy + seen.steered.entropy) / 2).clamp(min=0)
