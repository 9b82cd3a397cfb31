"""Moments of a feature's logit lens over the vocabulary: a look at the weights alone, no forward pass.

With v = head(norm(W_dec[f])) and z its standardised entries: spread = sd(v), skew = E[z^3], kurtosis = E[z^4] - 3
(Bloom and Lin 2024: high kurtosis with positive skew marks a feature that predicts tokens, negative skew one that
suppresses them).
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class Moments(NamedTuple):
    """Spread, skew and excess kurtosis of each row."""

    spread: Float[Tensor, "B"]
    skew: Float[Tensor, "B"]
    kurtosis: Float[Tensor, "B"]


def lens_moments(lens: Float[Tensor, "B V"]) -> Moments:
    """Moments of each row of lens logits; a constant row has no shape and gets NaN for skew and kurtosis."""
    centred = lens.float() - lens.float().mean(-1, keepdim=True)
    square = centred * centred
    variance = square.mean(-1)
    third = (square * centred).mean(-1)
    fourth = (square * square).mean(-1)
    return Moments(variance.sqrt(), third / variance**1.5, fourth / variance**2 - 3)
