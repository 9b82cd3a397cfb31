"""The selection stage of one SAE: the effects of its features, written to `effects.parquet`.

The only place of this package with files. Columns: feature, alive, one per criterion (edit, strength and prefix are in
the config), the control criteria, top_tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from pydantic import Field

from saelab.core.config import Config
from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.lm.model import LanguageModel
from saelab.saes.transcoder import AnySae
from saelab.selection.criteria.catalogue import CRITERIA, that_read, usual
from saelab.selection.effects import PREFIX, feature_effects
from saelab.store.folders import SelectionFolder

SHOWN_TOKENS = 10


class SelectionConfig(Config):
    """Settings of the effects of features (arXiv 2510.03659, section 4, by default)."""

    prefixes: tuple[str, ...] = Field(
        default=(PREFIX,), min_length=1, description="Neutral texts; effects are averaged."
    )
    alpha: float = Field(default=10.0, description="Strength: see selection/edits.py for what each edit does with it.")
    k: int = Field(default=1, ge=1, description="Tokens counted by Delta Token Confidence.")
    edit: Literal["add", "scale", "replace"] = Field(default="add", description="How a feature is changed.")
    positions: Literal["all", "last"] = Field(
        default="all", description="Edited positions; `last` is several times cheaper."
    )
    criteria: tuple[str, ...] = Field(
        default_factory=usual, description="Scores to compute, by name (docs/selection.md)."
    )
    features: Literal["all", "tested"] = Field(
        default="all",
        description="Features to compute them of; `tested`: those whose description was tested, the only ones that "
        "the study steers with.",
    )
    float32: bool = Field(
        default=True, description="Run in float32 whatever the model's dtype: bfloat16 changes who is in the tails."
    )
    batch_size: int = Field(default=128, ge=1, description="Features restarted together.")
    seed: int = Field(default=0, description="Names the control criterion's draw.")


def run(
    config: SelectionConfig,
    lm: LanguageModel,
    sae: AnySae,
    folder: Path,
    *,
    alive: Sequence[bool] | None = None,
    tested: Sequence[int] = (),
    progress: Progress = SILENT,
) -> list[Path]:
    """Write `effects.parquet` into `folder`, one row per feature that the config asks for.

    alive[i]: feature i fired in the text; null where unknown. tested: features whose description was tested.
    """
    width = len(sae.W_dec)
    if alive is not None and len(alive) != width:
        raise UserError(f"`alive` speaks of {len(alive)} features; the SAE has {width}.")
    wanted = list(range(width)) if config.features == "all" else sorted(tested)
    if not wanted:
        raise UserError(
            "No description of this SAE's features was tested, so no effect is wanted.",
            hint="Set `interp: {n_scored: ...}` above 0, or `selection: {features: all}`.",
        )
    effects = feature_effects(
        lm.to_dtype("float32") if config.float32 and lm.dtype != torch.float32 else lm,
        sae,
        prefix=config.prefixes,
        alpha=config.alpha,
        k=config.k,
        edit=config.edit,
        positions=config.positions,
        features=wanted,
        criteria=config.criteria,
        batch_size=config.batch_size,
        progress=progress,
    )
    fired = pl.Series("alive", [None if alive is None else alive[f] for f in wanted], dtype=pl.Boolean)
    controls = [
        pl.Series(name, CRITERIA[name].score(width, config.seed).numpy()[wanted], dtype=pl.Float64)
        for name in that_read("nothing")
    ]
    shown = pl.col("top_tokens").list.head(SHOWN_TOKENS)
    table = effects.select("feature", fired, *config.criteria, *controls, shown)
    return [SelectionFolder(folder).effects.write(table)]
