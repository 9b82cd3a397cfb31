"""How the SAEs of one site are trained together: what they share. What is each one's own is in saes/ (TrainConfig)."""

from typing import Literal

from pydantic import Field

from saelab.core.config import Config

Precision = Literal["auto", "float32", "bfloat16"]


class TrainingConfig(Config):
    """One run over one stream of activations."""

    steps: int = Field(default=400, ge=1, description="Optimiser steps of every SAE.")
    batch: int = Field(default=2048, ge=1, description="Tokens per step.")
    precision: Precision = Field(
        default="auto", description="Of the encoder product; auto: bfloat16 where it is native."
    )
    device: str = Field(
        default="auto",
        description="Where the SAEs are trained: auto (CUDA where there is a card, else the CPU), cpu, cuda, cuda:1 or "
        "mps.",
    )
    metrics_every: int = Field(
        default=10, ge=1, description="Steps per row of the metrics table (the last step has one too)."
    )
    checkpoint_seconds: float = Field(
        default=120.0, ge=0, description="Time between checkpoints; 0: after every few steps."
    )
    checkpoints: int = Field(
        default=2,
        ge=1,
        exclude_if=lambda kept: kept == 2,
        description="Checkpoints that are kept; with 1 there is none to go back to where the last one is damaged.",
    )
