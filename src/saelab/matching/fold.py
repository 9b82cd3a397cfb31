"""Put the features of an SAE on one scale before they are compared (SAE Match, arXiv 2410.07656, section 3.1, Eq. 4).

First the gauge: unit decoder rows, their norms moved into encoder and bias, and b_dec's share of the pre-activation
moved into the bias. Then folding by one scale s_i > 0 per feature:

    D'_i = s_i D_i      E'_i = E_i / s_i      b'_i = b_i / s_i      (codes f / s)

With s = theta (the paper) a JumpReLU's threshold becomes 1; the function is unchanged for any s. The paper's Eq. 1
and 4 disagree in their transposes; features are rows here throughout, so there is one form. Nothing here knows
costs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError, nearest
from saelab.saes.directions import Directions

Fold = Literal["theta", "mean", "rms", "quantile", "max", "none", "custom"]

# Scales below this quantile of the SAE's own are raised to it: 1 / s would let a few tiny thresholds rule every
# pairing.
CLIP_QUANTILE = 0.001
SHORT = 1e-12  # rows whose squares float32 may lose


@runtime_checkable
class HasFeatures(Protocol):
    """What matching asks of an SAE."""

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, codes: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class FoldedFeatures:
    """The features of one SAE in gauge and folded. `scale`: codes of the SAE = scale * folded codes. `clipped`:
    count.
    """

    decoder: Float[Tensor, "F D"]
    encoder: Float[Tensor, "F D"]
    bias: Float[Tensor, " F"]
    scale: Float[Tensor, " F"]
    clipped: int = 0

    def __len__(self) -> int:
        return self.decoder.shape[0]


def features_of(
    sae: HasFeatures | Directions,
    fold: Fold = "theta",
    *,
    activations: Float[Tensor, "N D"] | None = None,
    quantile: float = 0.9,
    custom: Float[Tensor, " F"] | None = None,
) -> FoldedFeatures:
    """Features of an SAE, gauged and folded.

    activations: rows for the folds that need data (mean, rms, quantile, max of a feature's positive codes); features
    that never fire on them take the median scale. custom: the scales, in the units of the SAE's codes. Raises
    `UserError` where the fold needs what is not there.
    """
    if fold not in get_args(Fold):
        raise UserError(f"There is no fold {fold!r}.", hint=nearest(fold, get_args(Fold)))
    _check_finite(sae, ("W_dec", "W_enc", "b_enc", "b_dec") + (("threshold",) if fold == "theta" else ()))
    with torch.no_grad():
        if isinstance(sae, Directions):
            return _rows_only(sae, fold)
        return _folded(sae, fold, activations, quantile, custom)


def _folded(
    sae: HasFeatures, fold: Fold, activations: Tensor | None, quantile: float, custom: Tensor | None
) -> FoldedFeatures:
    norms = _norms(sae.W_dec)
    subtract = bool(getattr(getattr(sae, "cfg", None), "subtract_b_dec", False))
    offset = sae.b_dec @ sae.W_enc if subtract else torch.zeros_like(sae.b_enc)
    raw = 1 / norms if fold == "none" else _scales(sae, fold, activations, quantile, custom)
    scale, clipped = _clipped(raw)
    gauged = scale * norms  # the scale of a unit-norm feature's codes
    return FoldedFeatures(
        decoder=sae.W_dec * scale[:, None],
        encoder=(sae.W_enc.T * (norms / gauged)[:, None]).contiguous(),
        bias=(sae.b_enc - offset) * norms / gauged,
        scale=scale,
        clipped=clipped,
    )


def _norms(rows: Float[Tensor, "F D"]) -> Float[Tensor, " F"]:
    """Lengths of rows, never 0. Where float32 cannot hold their squares they are taken in float64."""
    norms = rows.norm(dim=1)
    odd = (norms < SHORT) | ~torch.isfinite(norms)
    norms[odd] = torch.linalg.vector_norm(rows[odd], dim=1, dtype=torch.float64).to(norms.dtype)
    if not bool(torch.isfinite(norms).all()):
        raise UserError("W_dec has rows too long for their type, so its features cannot be compared.")
    return norms.masked_fill(norms == 0, SHORT)


def _check_finite(sae: HasFeatures | Directions, names: Sequence[str]) -> None:
    """Refuse weights that are NaN or infinite, by name."""
    for name in names:
        found = getattr(sae, name, None)
        if isinstance(found, Tensor) and not bool(torch.isfinite(found).all()):
            raise UserError(f"{name} holds values that are NaN or infinite, so its features cannot be compared.")


def _rows_only(rows: Directions, fold: Fold) -> FoldedFeatures:
    """Unit decoder rows and nothing else: encoder and biases are zeros that no cost may look at."""
    if fold != "none":
        raise UserError(
            f"What writes to {rows.site} has decoder rows only, which a fold by {fold} would need codes for.",
            hint="Match by directions: fold='none', parts='decoder' (--fold none --parts decoder).",
        )
    norms = _norms(rows.W_dec)
    scale = 1 / norms
    return FoldedFeatures(
        rows.W_dec * scale[:, None], torch.zeros(()).expand_as(rows.W_dec), torch.zeros_like(norms), scale
    )


def implied_threshold(sae: HasFeatures) -> Tensor | None:
    """The value of a code at which it switches on, [F]: the threshold, a Gated SAE's b_mag - exp(r) b_gate; else
    None.
    """
    if isinstance(theta := getattr(sae, "threshold", None), Tensor):
        return theta.expand(sae.W_dec.shape[0])
    r_mag, b_mag = getattr(sae, "r_mag", None), getattr(sae, "b_mag", None)
    if isinstance(r_mag, Tensor) and isinstance(b_mag, Tensor):
        b_gate = getattr(sae, "b_gate", sae.b_enc)
        return b_mag - r_mag.exp() * b_gate
    return None


def has_thresholds(sae: HasFeatures) -> bool:
    """Whether `theta` can fold it."""
    theta = implied_threshold(sae)
    return theta is not None and bool((theta > 0).any())


def _scales(
    sae: HasFeatures, fold: Fold, activations: Tensor | None, quantile: float, custom: Tensor | None
) -> Float[Tensor, " F"]:
    """One scale per feature in the units of the SAE's codes, of any fold but `none`."""
    if fold == "custom":
        if custom is None:
            raise UserError("fold='custom' needs the scales.", hint="Give custom=Tensor[F].")
        return custom.to(sae.W_dec.dtype)
    if fold == "theta":
        theta = implied_threshold(sae)
        if theta is None or not has_thresholds(sae):
            raise UserError(
                "fold='theta' needs thresholds in raw units, and this SAE has none.",
                hint="Use fold='mean', which is measured on activations, or fold='none' (cosine).",
            )
        return theta
    if activations is None:
        raise UserError(f"fold={fold!r} is measured on activations.", hint="Give activations=Tensor[N, D].")
    return _measured(sae, fold, activations, quantile)


def _measured(sae: HasFeatures, fold: Fold, activations: Tensor, quantile: float) -> Float[Tensor, " F"]:
    codes = sae.encode(activations).float()
    on = codes > 0
    count = on.sum(0).clamp_min(1)
    if fold == "mean":
        found = codes.sum(0) / count
    elif fold == "rms":
        found = (codes.square().sum(0) / count).sqrt()
    elif fold == "max":
        found = codes.amax(0)
    else:
        found = torch.nanquantile(codes.masked_fill(~on, torch.nan), quantile, dim=0).nan_to_num(0.0)
    silent = found <= 0
    return found.masked_fill(silent, float(found[~silent].median()) if bool((~silent).any()) else 1.0)


def _clipped(scale: Float[Tensor, " F"]) -> tuple[Float[Tensor, " F"], int]:
    positive = scale[scale > 0]
    floor = float(torch.quantile(positive[: 1 << 22].double(), CLIP_QUANTILE))
    low = scale < floor
    return scale.clamp_min(floor), int(low.sum())
