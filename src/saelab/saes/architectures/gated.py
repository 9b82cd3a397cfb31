"""Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014, equations 6 to 9; spec A.2).

    u = (x - b_dec) W_enc,  π = u + b_gate,  z = 1[π > 0] relu(u exp(r_mag) + b_mag)
    loss = ||x - x̂||² + λ Σ_j relu(π)_j + ||x - (relu(π) W_dec + b_dec)||²,  W_dec and b_dec frozen in the last term

As in the paper the auxiliary term trains the gating path only (SAELens lets it move the decoder), decoder rows have
unit norm, and Adam runs with beta1 = 0 in the paper preset. All terms live on the entries with π > 0.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saelab.core.names import Look
from saelab.saes.base import (
    START_L0,
    Rule,
    RuleGradient,
    Sae,
    SaeConfig,
    StepContext,
    TrainConfig,
    Weights,
    bound_for,
    folded,
)
from saelab.saes.sparse_ops import DenseEntries, SparseEntries, Values, above


class GatedSae(Sae):
    """The gating path decides, the magnitude path measures. `b_enc` is the gating path's bias b_gate."""

    saelens_name = "gated"
    extra = ("r_mag", "b_mag")
    r_mag: Tensor
    b_mag: Tensor

    def activate(self, pre: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        magnitude = (pre - self.b_enc) * self.r_mag.exp() + self.b_mag
        return magnitude.clamp(min=0) * (pre > 0)


class GatedRule(Rule):
    """π is the pre-activation of the entries; b_enc is b_gate."""

    finished = GatedSae
    scaled = ("b_mag",)

    first_coefficient = 0.1

    def __init__(self, target_l0: int, dtype: torch.dtype):
        self.target_l0 = target_l0
        self.dtype = dtype

    def initial(self, weights: Weights, sample: Float[Tensor, "B D"]) -> None:
        weights.b_enc -= bound_for(sample @ weights.encoder.T, START_L0 * self.target_l0)
        weights.extra["r_mag"] = torch.zeros_like(weights.b_enc)
        weights.extra["b_mag"] = weights.b_enc.clone()

    def entries(self, pre: Float[Tensor, "B F"], weights: Weights, reach: float = 1.0) -> SparseEntries | DenseEntries:
        return above(pre, 0.0, self.dtype)

    def codes(self, entries: SparseEntries | DenseEntries, weights: Weights) -> Values:
        return self._magnitude(entries, weights).clamp(min=0) * (entries.pre > 0)

    def _magnitude(self, entries: SparseEntries | DenseEntries, weights: Weights) -> Values:
        gain = entries.at(weights.extra["r_mag"].exp())
        return (entries.pre - entries.at(weights.b_enc)) * gain + entries.at(weights.extra["b_mag"])

    def gradient(
        self, entries: SparseEntries | DenseEntries, weights: Weights, d_codes: Values, step: StepContext
    ) -> RuleGradient:
        n = step.n
        active = entries.pre > 0
        gating = entries.pre * active
        residual = entries.decode(gating, weights.decoder) + weights.b_dec - step.x
        d_gating = (entries.project(residual * (2 / n), weights.decoder) + step.coefficient / n) * active
        magnitude = self._magnitude(entries, weights)
        d_magnitude = d_codes * (active & (magnitude > 0))
        d_gain = d_magnitude * (magnitude - entries.at(weights.extra["b_mag"]))
        own = {"b_enc": d_gating, "b_mag": d_magnitude, "r_mag": d_gain}
        return RuleGradient(
            d_magnitude * entries.at(weights.extra["r_mag"].exp()) + d_gating,
            own={name: entries.per_latent(values) for name, values in own.items()},
            penalty=step.coefficient / n * float(gating.sum()) + float(residual.square().sum()) / n,
        )

    def shift(self, weights: Weights, amount: float) -> None:
        weights.b_enc += amount

    def module(self, weights: Weights, scale: float, mean: Float[Tensor, " D"], cfg: SaeConfig) -> Sae:
        return GatedSae(cfg, folded(weights, scale, mean, scaled=self.scaled))


class GatedConfig(TrainConfig):
    """A Gated SAE of `d_sae` latents with `target_l0` of them active per token on average."""

    architecture: Literal["gated"] = "gated"
    target_l0: int = Field(ge=1, description="Active latents per token, on average.")

    paper: ClassVar[dict[str, Any]] = {"beta1": 0.0, "aux_coefficient": 0.0}
    look: ClassVar[Look] = Look("Gated", "#b3561b", "#e8975c")

    @property
    def level(self) -> int:
        return self.target_l0

    def rule(self, dtype: torch.dtype) -> GatedRule:
        return GatedRule(self.target_l0, dtype)
