"""Concept-logit lift: an output score that knows the concept.

Mean change of log p over the concept's tokens, less the mean change over tokens of like frequency that are not of
the concept, so that an edit which lifts every rare word scores nothing. Needs the concept's tokens.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.selection.criteria.observation import Observation


def concept_lift(seen: Observation) -> Float[Tensor, "B"]:
    """Mean log-probability change inside the concept minus outside, in nats; NaN where a row has no concept token."""
    if seen.concept is None:
        raise UserError(
            "concept_lift needs the concept's tokens.", hint="Pass concepts=..., or leave the criterion out."
        )
    return _mean_change(seen, seen.concept.inside) - _mean_change(seen, seen.concept.outside)


def _mean_change(seen: Observation, ids: Int[Tensor, "B C"]) -> Float[Tensor, "B"]:
    real = ids >= 0
    safe = ids.clamp(min=0)
    change = seen.steered.log_probs_of(safe) - seen.base.log_probs_of(safe)
    return torch.where(real, change, 0.0).sum(-1) / real.sum(-1)
