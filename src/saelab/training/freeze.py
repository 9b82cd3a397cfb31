"""Hard baselines of training: what of an SAE stays as it began, so that a score can be asked what it owes to learning.

    decoder, encoder   the rows as they were drawn; all the rest learns
    soft               decoder rows stay within a cosine of 0.8 of their start (arXiv 2602.14111)
    principal                encoder and decoder are the principal directions v of a sample, as +v and -v; biases and
                       thresholds learn

Latents beyond the 2 D signed directions read nothing and never fire. This file must never know an architecture.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.saes.base import Freeze, Weights

COSINE = 0.8  # of a soft-frozen row with its start, at least
BOTH = ("encoder", "decoder")
FROZEN: dict[Freeze, tuple[str, ...]] = {"decoder": ("decoder",), "encoder": ("encoder",), "principal": BOTH}


def within(rows: Float[Tensor, "F D"], start: Float[Tensor, "F D"], cosine: float = COSINE) -> Float[Tensor, "F D"]:
    """Each unit row moved to the nearest unit vector whose cosine with the unit row of `start` is at least `cosine`.

    With r = c a + s w, w the unit part of r that is orthogonal to a: rows of c < cosine become
    cosine a + sqrt(1 - cosine^2) w. A row opposite to its start, which has no w, becomes the start.
    """
    out = (rows * start).sum(1) < cosine
    far, near = rows[out].double(), start[out].double()
    across = far - (far * near).sum(1, keepdim=True) * near
    length = across.norm(dim=1, keepdim=True)
    edge = cosine * near + (1 - cosine**2) ** 0.5 * across / length.clamp(min=1e-8)
    found = rows.clone()
    found[out] = torch.where(length > 1e-6, edge, near).to(rows.dtype)
    return found


def principal(rows: Float[Tensor, "M D"]) -> Float[Tensor, "D D"]:
    """The unit principal directions of centred rows, one a row, by falling variance."""
    wide = (rows - rows.mean(0)).double()
    return torch.linalg.eigh(wide.T @ wide).eigenvectors.T.flip(0).to(rows.dtype)


def place(weights: Weights, axes: Float[Tensor, "D D"]) -> None:
    """Make encoder and decoder the signed directions +v, -v of `axes` in turns, as far as there are latents."""
    signed = torch.stack([axes, -axes], 1).flatten(0, 1)[: len(weights.decoder)]
    weights.decoder[: len(signed)] = signed
    weights.encoder.zero_()[: len(signed)] = signed
