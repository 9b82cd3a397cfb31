"""JumpReLU SAE (Rajamanoharan et al. 2024, arXiv 2407.14435, equations 9 to 12; spec A.5).

    z = pre 1[pre > θ],  θ > 0 per latent,   loss = ||x - x̂||² + c L0

Straight-through estimators with a rectangle of width ε around θ:
    dz/dθ = -(θ / ε) 1[|pre - θ| < ε/2],   dL0/dθ = -(1 / ε) 1[|pre - θ| < ε/2];   pre gets the hard mask only.
θ is a direct float32 parameter, kept ≥ 0; L0 is read from pre (not from z, which hides the lower half of the window).
The step needs the active entries and those inside the window only. c is found by the controller; it replaces the fixed
λ of the paper and dictionary_learning's λ (L0 / T - 1)², whose slope at L0 is a c of one proportional term.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
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


class JumpReluSae(Sae):
    """A pre-activation above its latent's threshold is a code."""

    saelens_name = "jumprelu"
    extra = ("threshold",)
    threshold: Tensor

    def activate(self, pre: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        return pre * ((pre > self.threshold) & (pre > 0))


class JumpReluRule(Rule):
    """Entries above θ are active; entries within ε/2 of θ move it."""

    finished = JumpReluSae
    scaled = ("threshold",)

    def __init__(self, cfg: "JumpReluConfig", dtype: torch.dtype):
        self.target_l0 = cfg.target_l0
        self.first_coefficient = 0.1 / cfg.target_l0
        self.threshold = cfg.threshold
        self.bandwidth = cfg.bandwidth
        self.held_from, self.held_rise = cfg.held_from, cfg.held_rise
        self.reopens = cfg.reopen
        self.dtype = dtype

    def initial(self, weights: Weights, sample: Float[Tensor, "B D"]) -> None:
        start = self.threshold
        if start is None:
            multiple = START_L0 if self.held_from is None else self.held_from
            start = bound_for(sample @ weights.encoder.T, multiple * self.target_l0)
        weights.extra["threshold"] = torch.full_like(weights.b_enc, start)

    def entries(self, pre: Float[Tensor, "B F"], weights: Weights, reach: float = 1.0) -> SparseEntries | DenseEntries:
        theta = weights.extra["threshold"].clamp_(min=0)
        return above(pre, (theta - self.bandwidth / 2).clamp(min=0), self.dtype)

    def codes(self, entries: SparseEntries | DenseEntries, weights: Weights) -> Values:
        return entries.pre * (entries.pre > entries.at(weights.extra["threshold"]))

    def gradient(
        self, entries: SparseEntries | DenseEntries, weights: Weights, d_codes: Values, step: StepContext
    ) -> RuleGradient:
        theta = entries.at(weights.extra["threshold"])
        above_theta = entries.pre > theta
        band = (entries.pre - theta).abs() < self.bandwidth / 2
        per_token = step.coefficient / step.n
        d_theta = (theta * d_codes + per_token) * band / -self.bandwidth
        return RuleGradient(
            d_codes * above_theta,
            own={"threshold": entries.per_latent(d_theta)},
            penalty=step.coefficient * step.l0,
        )

    def heights(self, entries: SparseEntries | DenseEntries, weights: Weights) -> Tensor:
        return entries.pre - entries.at(weights.extra["threshold"])

    def shift(self, weights: Weights, amount: float) -> None:
        weights.extra["threshold"] -= amount

    def held_l0(self, progress: float) -> float | None:
        if self.held_from is None:
            return None
        return self.target_l0 * self.held_from ** (1 - min(1.0, progress / self.held_rise))

    def reopen(self, weights: Weights, dead: Int[Tensor, " M"], reached: Float[Tensor, " M"]) -> None:
        theta = weights.extra["threshold"]
        theta[dead] = torch.minimum(theta[dead], reached.clamp(min=0))

    def module(self, weights: Weights, scale: float, mean: Float[Tensor, " D"], cfg: SaeConfig) -> Sae:
        weights.extra["threshold"].clamp_(min=0)
        return JumpReluSae(cfg, folded(weights, scale, mean, scaled=self.scaled))


class JumpReluConfig(TrainConfig):
    """A JumpReLU SAE of `d_sae` latents. Threshold and bandwidth in units of the inputs' root mean square deviation."""

    architecture: Literal["jumprelu"] = "jumprelu"
    target_l0: int = Field(ge=1, description="Active latents per token, on average.")
    threshold: float | None = Field(
        default=None, gt=0, description="Where thresholds start; by default where twice the target L0 passes."
    )
    bandwidth: float = Field(default=0.1, gt=0, description="Width of the kernel that gives thresholds a gradient.")
    held_from: float | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda multiple: multiple is None,
        description="Multiple of the target L0 on which shifts of all thresholds hold the first step, without an L0 "
        "term; null: the L0 term leads to the target.",
    )
    held_rise: float = Field(
        default=0.6,
        gt=0,
        le=1,
        exclude_if=lambda share: share == 0.6,
        description="Share of the run over which the held L0 goes from there to the target.",
    )
    reopen: bool = Field(
        default=False,
        exclude_if=lambda on: not on,
        description="Whether thresholds of dead latents fall to what as many tokens pass as of the average latent.",
    )

    paper: ClassVar[dict[str, Any]] = {"threshold": 0.001, "bandwidth": 0.001, "aux_coefficient": 0.0}
    look: ClassVar[Look] = Look("JumpReLU", "#bf3560", "#ee86a5")

    @property
    def level(self) -> int:
        return self.target_l0

    def rule(self, dtype: torch.dtype) -> JumpReluRule:
        return JumpReluRule(self, dtype)
