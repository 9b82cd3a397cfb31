"""Input score (arXiv 2505.20063): does the feature fire on the tokens that its direction promotes?

From the peak token of each of the feature's top contexts: `freq` is the share of contexts whose peak token is among
the feature's lens tokens (as the released code counts), `set` the share of distinct peak tokens (as the formula
reads). High in early layers; a penalty rather than a merit for steering.
"""

from collections.abc import Sequence
from typing import Literal

from saelab.core.errors import UserError


def input_score(peaks: Sequence[int], lens_top: Sequence[int], variant: Literal["freq", "set"] = "freq") -> float:
    """Share of peak tokens in `lens_top`, in [0, 1]. `peaks` holds one token id per context, with repeats."""
    if not peaks:
        raise UserError("An input score needs at least one context of the feature.")
    counted = list(peaks) if variant == "freq" else sorted(set(peaks))
    promoted = set(lens_top)
    return sum(token in promoted for token in counted) / len(counted)
