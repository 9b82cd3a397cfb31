"""How a direction changes the stream, for a batch whose rows have directions and strengths of their own.

With unit vector v, strength s = factor x distance, activation x and, for SAE features, code z_f and decoder row w_f:

    add             x + s v
    clamp           x + (s - z_f |w_f|) v             the feature's code set to s / |w_f| (Templeton et al. 2024)
    min_clamp       x + max(s - z_f |w_f|, 0) v       never lowers a code
    subspace_clamp  x + (s - ReLU(x.v)) v             the same on the direction itself (AxBench, for fitted directions)
    ablate          x - (x.v) v

AxBench's released clamp writes one factor into every row of a batch that mixes factors; here row i of strengths,
vectors and features belongs to text i. Rows without a direction are left as they are by every kind.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError, nearest
from saelab.lm.edit import Add, Clamp, Edit, Positions
from saelab.saes.base import Sae
from saelab.saes.transcoder import on_device

Kind = Literal["add", "clamp", "min_clamp", "subspace_clamp", "ablate"]


def edit_of(
    kind: str,
    site: str,
    vectors: Float[Tensor, "B D"],
    strengths: Float[Tensor, "B"],
    positions: Positions,
    *,
    sae: Sae | None = None,
    features: Int[Tensor, "B"] | None = None,
) -> Edit:
    """The edit of a batch. A zero vector marks a row without a direction. Raises `UserError` for an unknown kind, or
    for a clamp of features without an SAE and the features' indices.
    """
    if kind not in get_args(Kind):
        raise UserError(f"There is no steering edit {kind!r}.", hint=nearest(kind, get_args(Kind)))
    if kind == "add":
        return Add(site, vectors, strengths, positions)

    def along(x: Tensor, rows: Tensor) -> Tensor:
        return (x.float() * vectors.to(x.device)[rows][:, None, :]).sum(-1)

    if kind == "ablate":
        return Clamp(site, vectors, torch.zeros_like(strengths), along, positions=positions)
    if kind == "subspace_clamp":
        return Clamp(site, vectors, strengths, lambda x, rows: along(x, rows).clamp(min=0), positions=positions)
    if sae is None or features is None or bool((features < 0)[vectors.any(-1)].any()):
        raise UserError(
            f"{kind} sets the code of an SAE feature.", hint="Use add or subspace_clamp for other directions."
        )
    return Clamp(
        site, vectors, strengths, _CodeLength(sae, features), at_least=kind == "min_clamp", positions=positions
    )


class _CodeLength:
    """Reads z_f |w_f|: how far the stream lies along the row's own feature, by the SAE's account."""

    def __init__(self, sae: Sae, features: Tensor):
        self.sae, self.features = sae, features

    def __call__(self, x: Float[Tensor, "B T D"], rows: Int[Tensor, "B"]) -> Float[Tensor, "B T"]:
        self.sae = on_device(self.sae, x.device)  # once: a step of a generation is short
        feature = self.features.to(x.device)[rows].clamp(min=0)
        codes = self.sae.encode(x.float())
        own = codes.gather(-1, feature[:, None, None].expand(*codes.shape[:2], 1))[..., 0]
        return own * self.sae.W_dec[feature].norm(dim=-1)[:, None]
