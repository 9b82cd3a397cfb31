"""k annealing, an option of the rules that choose the k largest: k falls while the SAE is trained (Karvonen et al.,
dictionary_learning).

    k(p) = k_start + (k - k_start) min(1, p / k_anneal),   p the share of the run that is done

Early steps then give many latents a gradient. The finished SAE knows `k` alone. This file must never know what is done
with k.
"""

from pydantic import Field, model_validator

from saelab.saes.base import TrainConfig


class AnnealedConfig(TrainConfig):
    """A config whose `k` may fall from `k_start`. Both are said only where it does: a config's digest seeds its first
    weights.
    """

    k: int = Field(ge=1, description="Active latents per token, on average where a whole batch chooses.")
    fitted_start: bool = True
    k_start: int | None = Field(
        default=None, ge=1, exclude_if=lambda k: k is None, description="The k of the first step; null: k throughout."
    )
    k_anneal: float = Field(
        default=0.5,
        gt=0,
        le=0.9,
        exclude_if=lambda share: share == 0.5,
        description="Share of the run over which k falls from k_start; then thresholds settle.",
    )

    @property
    def level(self) -> int:
        return self.k

    def k_at(self, progress: float) -> int:
        """The k of a step; `progress`: the share of the run that is done."""
        if self.k_start is None:
            return self.k
        return round(self.k_start + (self.k - self.k_start) * min(1.0, progress / self.k_anneal))

    @model_validator(mode="after")
    def _k_fits(self) -> "AnnealedConfig":
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}")
        if self.k_start is not None and not self.k <= self.k_start <= self.d_sae:
            raise ValueError(f"k_start = {self.k_start} is not between k = {self.k} and d_sae = {self.d_sae}")
        return self
