"""The matching stage of two SAEs: matching.parquet (a, b, cost, cosine, null_cosine) and quality.json.

With the steps of a path, their composition is evaluated beside the direct matching. The only place here with files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from pydantic import Field

from saelab.core.config import Config
from saelab.core.progress import SILENT, Progress
from saelab.lm.model import LanguageModel
from saelab.matching import baselines
from saelab.matching.cost import costs_between
from saelab.matching.evaluate import coactivation, read_sites, skips
from saelab.matching.fold import features_of
from saelab.matching.match import Matching, compose, match
from saelab.saes.base import Sae
from saelab.store.files import write_json
from saelab.store.tables import write_table
from saelab.text.pack import PackedText


class MatchConfig(Config):
    """How features are matched across sites."""

    fold: Literal["theta", "mean", "rms", "max", "none"] = Field(
        default="theta", description="The scale of each feature."
    )
    parts: Literal["all", "decoder", "encoder"] = Field(default="all", description="Tensors that are compared.")
    reject: float | Literal["null"] | None = Field(
        default=None, description="Reject cost of a partial matching; None: full."
    )
    contexts: int = Field(default=32, ge=1, description="Held-out contexts on which a matching is evaluated.")
    seed: int = 0


def run(
    config: MatchConfig,
    first: Sae,
    second: Sae,
    folder: Path,
    *,
    lm: LanguageModel,
    text: PackedText,
    sites: tuple[str, str],
    steps: Sequence[pl.DataFrame] = (),
    progress: Progress = SILENT,
) -> list[Path]:
    """Match, evaluate and write; returns the two files.

    text: held out from training. steps: the tables of the matchings between the sites in between, in order.
    """
    reading = read_sites(lm, text, sites, config.contexts)
    rows = reading.first[reading.kept], reading.second[reading.kept]
    found = match(
        first, second, fold=config.fold, parts=config.parts, reject=config.reject, activations=rows,
        seed=config.seed, progress=progress,
    )  # fmt: skip
    folded = [features_of(s, config.fold, activations=x) for s, x in zip((first, second), rows, strict=True)]
    costs = costs_between(folded[0], folded[1], config.parts)
    top = baselines.top_cosine(folded[0].decoder, folded[1].decoder)
    shuffled = baselines.random_pairs(len(folded[0]), config.seed)
    chance = _cosines(folded[0].decoder, folded[1].decoder, shuffled)
    with torch.inference_mode():
        on = first.encode(rows[0]) > 0, second.encode(rows[1]) > 0
    scales = (folded[0].scale, folded[1].scale)
    quality: dict[str, Any] = _certificate(found) | coactivation(*on, found.permutation)
    quality |= {"reject": found.rejected_at, "matched_share": float((found.permutation >= 0).mean())}
    every = skips(lm, reading, sites[1], (first, second), found.permutation, scales, progress=progress)
    quality |= {"skip": every["matched"], "compared_with": {k: v for k, v in every.items() if k != "matched"}}
    quality["cosine"] = {
        "matched_median": float(np.nanmedian(found.cosine)),
        "top1_median": float(np.median(top)),
        "random_median": float(np.median(chance)),
    }
    quality["baselines"] = {
        "random": float(costs.edges(np.arange(len(shuffled)), shuffled).sum()),
        "greedy": float(costs.edges(np.arange(len(shuffled)), baselines.greedy(costs)).sum()),
        "mutual_nearest_share": float((baselines.mutual_nearest(costs) >= 0).mean()),
    }
    if steps:
        path = steps[0]["b"].to_numpy()
        for step in steps[1:]:
            path = compose(path, step["b"].to_numpy())
        own = skips(lm, reading, sites[1], (first, second), path, scales, progress=progress)["matched"]
        same = float((path == found.permutation).mean())
        quality["composed"] = coactivation(*on, path) | {"skip": own, "same_as_direct": same}
    paths = [folder / "matching.parquet", folder / "quality.json"]
    write_table(paths[0], _table(found))
    write_json(paths[1], quality)
    return paths


def _certificate(found: Matching) -> dict[str, Any]:
    return {
        "cost": found.cost,
        "lower_bound": found.lower_bound,
        "gap": found.gap,
        "method": found.method,
        "rounds": found.rounds,
        "clipped": list(found.clipped),
    }


def _table(found: Matching) -> pl.DataFrame:
    table = pl.DataFrame({"a": np.arange(len(found.permutation)), "b": found.permutation})
    return table.with_columns(
        pl.Series("cost", found.pair_cost).fill_nan(None), pl.Series("cosine", found.cosine).fill_nan(None)
    )


def _cosines(a: torch.Tensor, b: torch.Tensor, permutation: np.ndarray) -> np.ndarray:
    return torch.nn.functional.cosine_similarity(a, b[torch.from_numpy(permutation)], dim=1).double().numpy()
