"""What a run over written concepts does, and what it is given: one frozen config and the opened inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from pydantic import Field

from saelab.core.config import Config
from saelab.judges.client import Judge
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.steering.concepts.axbench import AxBench, Concept
from saelab.steering.concepts.directions.catalogue import method_of, usable
from saelab.steering.concepts.directions.likelihood import Fit
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.config import UtilityConfig


class ConceptsConfig(Config):
    """Settings of the run over written concepts. The steering settings are those of a feature's utility."""

    site: str = Field(description="Where directions are read and act.")
    methods: tuple[str, ...] = Field(
        default=usable(), min_length=1, description="Fitted methods; sae_feature and sae_auroc need an SAE."
    )
    max_tokens: int = Field(default=192, ge=8, description="Longest text read, in tokens.")
    n_train: int = Field(default=72, ge=2, description="Training texts of each kind, at most.")
    n_detect: int = Field(default=36, ge=2, description="Detection texts of each kind, at most.")
    fit_texts: int = Field(default=72, ge=1, description="How many of each kind SSV and ReFT-r1 train on.")
    fit_epochs: int = Field(default=3, ge=1, description="Epochs of SSV and ReFT-r1.")
    fit_batch: int = Field(default=6, ge=1, description="Texts per step of SSV and ReFT-r1.")
    prompting: bool = Field(default=True, description="Ask for the concept in words beside the directions.")
    steering: UtilityConfig = Field(default=UtilityConfig(), description="Factors, instructions, texts and seed.")


@dataclass(frozen=True)
class ConceptInputs:
    """What the stage reads: AxBench's data and those of its concepts that are wanted, instructions, a judge.

    sae, features: an SAE and interp's table of it (for the feature by label). prompts: by concept, the words of the
    prompting baseline; a fixed sentence where none is given.
    """

    lm: LanguageModel
    data: AxBench
    concepts: Sequence[Concept]
    instructions: Sequence[str]
    judge: Judge
    sae: Sae | None = None
    features: pl.DataFrame | None = None
    prompts: Mapping[int, str] = field(default_factory=dict)
    judge_record: Mapping[str, Any] = field(default_factory=dict)


def fitting_of(config: ConceptsConfig, inputs: ConceptInputs) -> Fitting:
    """What the methods may read. Raises `UserError` where a wanted method is unknown or needs what is not there."""
    fit = Fit(epochs=config.fit_epochs, batch=config.fit_batch, texts=config.fit_texts, max_tokens=config.max_tokens)
    found = Fitting(config.steering.seed, fit, inputs.sae, inputs.features)
    for name in config.methods:
        method_of(name).check(found)
    return found
