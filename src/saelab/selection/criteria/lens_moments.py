"""Moments of a feature's logit lens over the vocabulary: a look at the weights alone, no forward pass.

With v = head(norm(W_dec[f])) and z its standardised entries: spread = sd(v), skew = E[z^3], kurtosis = E[z^4] - 3
(Bloom and Lin 2024: high kurtosis with positive skew marks a feature that predicts tokens, negative skew one that
suppresses them).
"""

from functools import cached_property

from jaxtyping import Float
from torch import Tensor


class Lens:
    """Lens logits, one row per feature; the powers that the moments share are computed once, on first use."""

    def __init__(self, logits: Float[Tensor, "B V"]):
        self.logits = logits.float()

    @cached_property
    def centred(self) -> Float[Tensor, "B V"]:
        """Logits less their mean."""
        return self.logits - self.logits.mean(-1, keepdim=True)

    @cached_property
    def square(self) -> Float[Tensor, "B V"]:
        """Their squares."""
        return self.centred * self.centred

    @cached_property
    def variance(self) -> Float[Tensor, "B"]:
        """Their mean squares."""
        return self.square.mean(-1)


def spread(lens: Lens) -> Float[Tensor, "B"]:
    """Standard deviation of each row."""
    return lens.variance.sqrt()


def skew(lens: Lens) -> Float[Tensor, "B"]:
    """Skew of each row; a constant row has no shape and gets NaN."""
    return (lens.square * lens.centred).mean(-1) / lens.variance**1.5


def kurtosis(lens: Lens) -> Float[Tensor, "B"]:
    """Excess kurtosis of each row; NaN for a constant one."""
    return (lens.square * lens.square).mean(-1) / lens.variance**2 - 3
