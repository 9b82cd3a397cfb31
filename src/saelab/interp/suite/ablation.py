"""Ablating latents for a probe, exactly and at the cost of one matrix product.

Setting the codes of latents S to zero while keeping the SAE's error gives at every token x' = x - f_S W_dec[S], because
decoding is affine. Pooling is a mean over tokens, so for a text

    x'(text) = x(text) - f_S(text) W_dec[S]

and neither the tokens nor the LM are needed again. (SAEBench decodes every padded position too, where latents that fire
on the zero vector leak into its mean; not here.) Which latents to ablate for a probe of direction w follows SHIFT: by
their effect m_f <w, W_dec[f]>, m_f the difference of the class means of f on train.
"""

from jaxtyping import Float, Int
from torch import Tensor

from saelab.interp.suite.probes import LinearProbe


def ablated(
    x: Float[Tensor, "N D"], codes: Float[Tensor, "N F"], W_dec: Float[Tensor, "F D"], latents: Int[Tensor, " K"]
) -> Float[Tensor, "N D"]:
    """Pooled activations with the latents' contributions taken out."""
    return x - codes[:, latents] @ W_dec[latents]


def effects_on(
    probe: LinearProbe, difference: Float[Tensor, " F"], W_dec: Float[Tensor, "F D"], *, signed: bool
) -> Float[Tensor, " F"]:
    """e_f = m_f <w, W_dec[f]>; unsigned (SCR) its absolute value, signed (TPP) with m_f = max(0, m_f)."""
    along = W_dec @ probe.weight
    return difference.clamp(min=0) * along if signed else (difference * along).abs()


def strongest(effects: Float[Tensor, " F"], n: int) -> Int[Tensor, " K"]:
    """The n latents of largest effect; fewer where fewer have a positive one."""
    return effects.topk(min(n, int((effects > 0).sum()))).indices
