"""What a steering evaluation of one SAE does and how much of it: one frozen config."""

from typing import Any, Literal

from pydantic import Field, model_validator

from saelab.core.config import Config
from saelab.steering.arms import Arm, default_arms, from_former_keys, named
from saelab.steering.edits import Kind


class UtilityConfig(Config):
    """Settings of the utility of an SAE's features (spec: AxBench, arXiv 2501.17148)."""

    arms: tuple[Arm, ...] = Field(
        default_factory=default_arms, description="Features that are steered with, by what chose them (docs/study.md)."
    )
    ratings: bool | None = Field(
        default=None,
        description="Whether a judge also rates texts (AxBench's utility, at the factors below); by default where it "
        "is a language model.",
    )
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

    @model_validator(mode="before")
    @classmethod
    def _said_as_arms(cls, data: Any) -> Any:
        return from_former_keys(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _factors_are_distinct_and_arms_have_names(self) -> "UtilityConfig":
        if len(set(self.factors)) < len(self.factors) or any(f == 0 for f in self.factors):
            raise ValueError("factors must be distinct and not zero (the unsteered text is always written)")
        named(self.arms)
        return self

    @property
    def features(self) -> int:
        """The most features that are steered with: all arms, none of which overlap."""
        return sum(arm.size for arm in self.arms)
