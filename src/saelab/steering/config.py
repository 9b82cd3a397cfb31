"""What a steering evaluation of one SAE does and how much of it: one frozen config, with the demo's preset."""

from typing import Literal

from pydantic import Field, model_validator

from saelab.core.config import Config
from saelab.steering.edits import Kind


class UtilityConfig(Config):
    """Settings of the utility of an SAE's features (spec: AxBench, arXiv 2501.17148)."""

    n_random: int = Field(default=48, ge=1, description="Features drawn at random: the SAE's score without selection.")
    top_per_direction: int = Field(
        default=5, ge=0, description="Features with the largest and the smallest delta confidence."
    )
    top_output: int = Field(default=10, ge=0, description="Features with the largest output score.")
    n_control: int = Field(
        default=16, ge=0, description="Random features that a random direction of equal norm stands beside."
    )
    factors: tuple[float, ...] = Field(
        default=(0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
        min_length=1,
        description="Multiples of a feature's maximum activation.",
    )
    n_dev: int = Field(default=5, ge=1, description="Instructions that choose the factor.")
    n_test: int = Field(default=5, ge=1, description="Other instructions, for the score at that factor.")
    max_new_tokens: int = Field(default=128, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(default=1.0, ge=0, description="Sampling temperature; 0 is greedy.")
    edit: Kind = Field(default="add", description="How a direction changes the stream (steering/edits.py).")
    positions: Literal["all", "prompt", "generated", "last"] = Field(
        default="all", description="Positions that are edited."
    )
    batch_size: int = Field(default=128, ge=1, description="Texts written together.")
    chunk: int = Field(
        default=512, ge=1, description="Texts between two saves; a resumed run redoes at most one chunk."
    )
    seed: int = Field(default=0, description="Names every draw: features, instructions, directions, samples.")

    @model_validator(mode="after")
    def _factors_are_positive_and_distinct(self) -> "UtilityConfig":
        if len(set(self.factors)) < len(self.factors) or any(f == 0 for f in self.factors):
            raise ValueError("factors must be distinct and not zero (the unsteered text is always written)")
        return self


def demo_config(seed: int = 0) -> UtilityConfig:
    """The preset for two cores: about twenty features per SAE, 24 new tokens, two dev and two test instructions."""
    return UtilityConfig(
        n_random=10,
        top_per_direction=3,
        top_output=6,
        n_control=3,
        factors=(0.5, 1.0, 2.0),
        n_dev=2,
        n_test=2,
        max_new_tokens=24,
        temperature=0.0,
        seed=seed,
    )
