"""The `harvest` section of a study file: how activations are read, and whether SAEs are trained on stored ones.

What is done with it is in streams.py. Nothing is computed here.
"""

from typing import Literal

from pydantic import Field

from saelab.activations.harvest import HarvestConfig
from saelab.activations.live import BUFFER_ROWS

STORED_GB = 64.0
SAMPLE_TOKENS = 1 << 18


class StudyHarvest(HarvestConfig):
    """How activations are harvested, and what of them is stored."""

    stream: bool | Literal["auto"] = Field(
        default="auto",
        exclude_if=lambda stream: stream == "auto",
        description="Whether SAEs are trained on the running language model's activations, of which only a sample is "
        "stored; auto: where all of them would take more than `stored_gb`.",
    )
    stored_gb: float = Field(
        default=STORED_GB,
        ge=0,
        exclude_if=lambda gb: gb == STORED_GB,
        description="Up to how many GB the activations of one language model are stored.",
    )
    sample_tokens: int = Field(
        default=SAMPLE_TOKENS,
        ge=1,
        exclude_if=lambda tokens: tokens == SAMPLE_TOKENS,
        description="Of a stream: tokens of text whose activations are stored, for scaling and all later stages.",
    )
    buffer_rows: int = Field(
        default=BUFFER_ROWS,
        ge=1,
        exclude_if=lambda rows: rows == BUFFER_ROWS,
        description="Of a stream: positions that are shuffled together.",
    )
    stream_saes: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda saes: saes is None,
        description="Of a stream: SAEs that are trained on one pass of the language model, and so by one cell; null: "
        "all that its training seed and steps allow.",
    )

    @property
    def own(self) -> HarvestConfig:
        """What a harvest itself is asked."""
        return HarvestConfig.model_validate(self.model_dump(include=set(HarvestConfig.model_fields)))

    def sample_contexts(self, context: int, most: int) -> int:
        """Contexts of the sample, out of `most`."""
        return min(most, -(-self.sample_tokens // context))
