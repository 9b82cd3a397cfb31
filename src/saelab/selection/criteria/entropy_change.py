"""Change of next-token entropy, `H(p_steered) - H(p_base)` in nats: does the edit sharpen or blur the prediction?"""

from jaxtyping import Float
from torch import Tensor

from saelab.selection.criteria.observation import Observation


def entropy_change(seen: Observation) -> Float[Tensor, "B"]:
    """Positive when the edit blurs."""
    return seen.steered.entropy - seen.base.entropy
