"""Meta-structure: how far are an SAE's directions themselves made of a few shared ones?

A BatchTopK SAE of a quarter of the width is trained on the rows of W_dec (k of its latents per row):

    decoder_fraction_variance_explained = 1 - sum ||w - wh||^2 / sum ||w - wbar||^2         (lower: more atomic latents)

Rows are scaled to unit norm first, without which the ratio measures norms. Source: SAEBench
`meta_structure_decoder_variance` (0.6.0), Bussmann et al. 2025 (matryoshka SAEs), appendix D.1. No LM and no text.
"""

import math
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from saelab.core.config import Config
from saelab.core.seeds import seed_of
from saelab.interp.suite.config import Preset
from saelab.interp.suite.evaluation import Evaluation, SaebenchFile, Subject
from saelab.interp.suite.result import Result
from saelab.saes.architectures.batch_topk import BatchTopKConfig
from saelab.training.sweep import train

KIND = "meta_structure_decoder_variance"
DEVIATIONS = (
    "rows scaled to unit norm",
    "saelab's own BatchTopK trainer (Adam, inputs centred and scaled) in place of SAELens' with autocast",
    "train_time_seconds is null: the same settings give the same bytes",
)


class MetaConfig(Config):
    """Width and training of the meta-SAE."""

    width_ratio: float = Field(default=0.25, gt=0, le=1, description="Its latents per latent of the SAE.")
    k: int = Field(default=4, ge=1, description="Its active latents per row.")
    train_steps: int = Field(default=1500, ge=1, description="Steps.")
    train_batch_size: int = Field(default=1024, ge=1, description="Rows per step, drawn with replacement.")
    learning_rate: float = Field(default=5e-4, gt=0, description="Constant.")


PRESETS: Mapping[Preset, MetaConfig] = {
    "paper": MetaConfig(),
    "small": MetaConfig(train_steps=300, train_batch_size=256, learning_rate=2e-3),
    "tiny": MetaConfig(train_steps=60, train_batch_size=64, learning_rate=5e-3),
}


def evaluate(W_dec: Float[Tensor, "F D"], config: MetaConfig, *, seed: int = 0) -> Result:
    """Train the meta-SAE and measure what it explains of all rows. Rows of zero norm are left out."""
    norms = W_dec.norm(dim=1, keepdim=True)
    rows = (W_dec / norms.clamp_min(1e-12))[norms[:, 0] > 0].float()
    width = max(math.ceil(len(rows) * config.width_ratio), config.k)
    own = BatchTopKConfig(
        d_in=rows.shape[1],
        d_sae=width,
        k=config.k,
        lr=config.learning_rate,
        lr_warmup=0.0,
        lr_decay=0.0,
    )
    batches = list(_batches(rows, config, seed))
    (meta,) = train([own], batches, steps=config.train_steps, seed=seed, precision="float32")
    with torch.inference_mode():
        error = float((rows - meta.decode(meta.encode(rows))).double().square().sum())
    variance = float((rows - rows.mean(0)).double().square().sum())
    metrics = {
        "meta_structure": {
            "decoder_fraction_variance_explained": 1 - error / variance if variance else None,
            "train_time_seconds": None,
            "final_reconstruction_mse": error / rows.numel(),
        }
    }
    return Result(KIND, metrics, config.model_dump() | {"deviations": list(DEVIATIONS)})


def _batches(rows: Float[Tensor, "N D"], config: MetaConfig, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed_of(seed, "meta-structure rows"))
    for _ in range(config.train_steps):
        yield rows[torch.randint(len(rows), (config.train_batch_size,), generator=generator)]


def _evaluate(subject: Subject, shared: None) -> Result:
    del shared
    config = subject.site.config
    return evaluate(subject.sae.W_dec, PRESETS[config.preset], seed=config.seed)


EVALUATION = Evaluation(
    KIND,
    PRESETS,
    _evaluate,
    saebench=SaebenchFile("meta_structure", demanded=("meta_structure",), filled=("train_time_seconds",)),
)
