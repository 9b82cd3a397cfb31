"""The direction of one SAE feature: its decoder row, with its maximum activation as the unit of strength.

`x + factor * m_f * v_f` (arXiv 2510.03659, section 3; AxBench's "SAE" addition), v_f the decoder row and m_f the
largest code of the feature in the text that was looked at. Codes are in raw activation units, so the distance at
factor 1 is m_f |v_f| whatever the SAE's decoder-norm policy.
"""

from dataclasses import replace

from saelab.saes.base import Sae
from saelab.steering.direction import Direction, unit
from saelab.steering.methods import SAE_FEATURE


def sae_feature(sae: Sae, feature: int, max_activation: float | int) -> Direction:
    """The direction of `feature`; a feature whose `max_activation` is not positive is a `UserError`."""
    row = sae.W_dec[feature]
    found = unit(
        row,
        site=str(sae.cfg.site),
        reference=max_activation * float(row.detach().norm()),
        method=SAE_FEATURE,
        origin=f"feature {feature}",
        source="max activation",
    )
    return replace(found, feature=feature)
