"""The direction of one SAE feature: its decoder row, with its maximum activation as the unit of strength.

`x + factor * m_f * v_f` (arXiv 2510.03659, section 3; AxBench's "SAE" addition), v_f the decoder row and m_f the
largest code of the feature in the text that was looked at. Codes are in raw activation units, so the distance at
factor 1 is m_f |v_f| whatever the SAE's decoder-norm policy.
"""

from dataclasses import replace

from saelab.core.errors import UserError
from saelab.saes.base import Sae
from saelab.saes.directions import Directions
from saelab.steering.direction import Direction, unit
from saelab.steering.methods import SAE_FEATURE


def sae_feature(sae: Sae | Directions, feature: int, max_activation: float | int) -> Direction:
    """The direction of `feature`: of an SAE, or of what writes to a site without being one.

    A feature that is not there, or whose `max_activation` is not positive, is a `UserError`.
    """
    site, count = (sae.site, None) if isinstance(sae, Directions) else (sae.cfg.site, len(sae.W_dec))
    at = sae.row_of(feature) if isinstance(sae, Directions) else feature
    if count is not None and not 0 <= at < count:
        raise UserError(f"Feature {feature} does not exist.", hint=f"The SAE has features 0 to {count - 1}.")
    row = sae.W_dec[at]
    found = unit(
        row,
        site=str(site),
        distance=max_activation * float(row.detach().norm()),
        method=SAE_FEATURE,
        origin=f"feature {feature}",
        source="max activation",
    )
    return replace(found, feature=feature)
