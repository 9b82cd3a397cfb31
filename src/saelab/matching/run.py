"""The matching stage of two SAEs: matching.parquet (a, b, cost, cosine, partner, class, distance, family; one row per
feature of the first) and quality.json. `partner` is b where the pair beats the null (partial.py), else null.

With the steps of a path, their composition is evaluated beside the direct matching, and paths.parquet follows every
feature from its birth to its death. The only place here with files.
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
from saelab.matching.baselines import BASELINES, COMPOSED, MATCHED
from saelab.matching.classes import Classes, classed
from saelab.matching.cost import Costs, costs_between
from saelab.matching.evaluate import coactivation, decoder_distances, read_sites, skips, tensor_errors
from saelab.matching.fold import FoldedFeatures, features_of
from saelab.matching.match import Matching, compose, match
from saelab.matching.partial import null_reject, persistence
from saelab.matching.paths import feature_paths, survival
from saelab.saes.base import Sae
from saelab.store.layout import MatchingFolder
from saelab.text.pack import PackedText

CURVE = (0.25, 0.5, 0.75, 1.0)  # reject costs of the persistence curve, as shares of the null's


class MatchConfig(Config):
    """How features are matched across sites."""

    fold: Literal["theta", "mean", "rms", "quantile", "max", "none"] = Field(
        default="theta", description="The scale of each feature."
    )
    parts: Literal["all", "decoder", "encoder"] = Field(default="all", description="Tensors that are compared.")
    reject: float | Literal["null"] | None = Field(
        default=None, description="Reject cost of a partial matching; None: full."
    )
    contexts: int = Field(default=32, ge=1, description="Held-out contexts on which a matching is evaluated.")
    quantiles: tuple[float, ...] = Field(
        default=(), description="Shares of the pairs, of least decoder distance, that are moved alone (Eq. 6)."
    )
    seed: int = Field(default=0, description="Names the draws of the random baseline and of rejected costs.")


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
    """Match, evaluate and write; returns the files.

    text: held out from training. steps: the tables of the matchings between the sites in between, in order.
    """
    reading = read_sites(lm, text, sites, config.contexts)
    rows = reading.first[reading.kept], reading.second[reading.kept]
    found = match(
        first, second, fold=config.fold, parts=config.parts, reject=config.reject, activations=rows,
        seed=config.seed, progress=progress,
    )  # fmt: skip
    saes = (first, second)
    folded = [features_of(s, config.fold, activations=x) for s, x in zip(saes, rows, strict=True)]
    costs = costs_between(folded[0], folded[1], config.parts)
    # Classes are told by decoder directions alone: distance is 1 - cosine, whatever the fold.
    directions = costs_between(features_of(first, "none"), features_of(second, "none"), "decoder")
    classes = classed(directions, null_reject(directions, seed=config.seed))
    with torch.inference_mode():
        on = first.encode(rows[0]) > 0, second.encode(rows[1]) > 0
    scales = (folded[0].scale, folded[1].scale)
    quality: dict[str, Any] = _certificate(found) | coactivation(*on, found.permutation)
    quality |= {"reject": found.rejected_at, "matched_share": float((found.permutation >= 0).mean())}
    distance = decoder_distances(folded[0], folded[1], found.permutation)
    moved = {f"quantile_{q:g}": distance <= np.nanquantile(distance, q) for q in config.quantiles}
    every = skips(lm, reading, sites[1], saes, found.permutation, scales, moved=moved, progress=progress)
    quality |= {"skip": every.pop(MATCHED), "compared_with": {k: v for k, v in every.items() if k not in moved}}
    quality["limited"] = {k: every[k] for k in moved}
    quality |= _beside(folded, costs, found, config.seed)
    curve = [s * classes.rho for s in CURVE]
    quality["classes"] = classes.counts | {"rho": classes.rho, "strict": classes.strict}
    quality["persistence"] = dict(zip(map(str, CURVE), persistence(directions, curve).tolist(), strict=True))
    place = MatchingFolder(folder)
    written = []
    if steps:
        path = _composed([s["b"].to_numpy() for s in steps])
        own = skips(lm, reading, sites[1], saes, path, scales, progress=progress)[MATCHED]
        same = float((path == found.permutation).mean())
        partners = [s["partner"].fill_null(-1).to_numpy() for s in steps]
        kept = _composed(partners)
        agree = (kept == classes.permutation)[(kept >= 0) & (classes.permutation >= 0)]
        quality[COMPOSED] = coactivation(*on, path) | {"skip": own, "same_as_direct": same}
        quality[COMPOSED] |= {"same_as_direct_of_partners": float(agree.mean()) if len(agree) else None}
        quality["survival"] = [s.tolist() for s in survival(partners)]
        written.append(place.paths.write(feature_paths(partners, costs.shape[1])))
    return [place.matching.write(_table(found, classes)), place.quality.write(quality), *written]


def _composed(steps: Sequence[np.ndarray]) -> np.ndarray:
    path = steps[0]
    for step in steps[1:]:
        path = compose(path, step)
    return path


def _certificate(found: Matching) -> dict[str, Any]:
    return {
        "cost": found.cost,
        "lower_bound": found.lower_bound,
        "gap": found.gap,
        "method": found.method,
        "rounds": found.rounds,
        "clipped": list(found.clipped),
    }


def _beside(folded: Sequence[FoldedFeatures], costs: Costs, found: Matching, seed: int) -> dict[str, Any]:
    """What the matching is compared with: cosines, costs of the baselines, and errors per tensor in folded units."""
    first, second = folded
    alike = len(first) == len(second)
    floors = {b.name: b.pairs(costs, seed) for b in BASELINES.values() if b.pairs is not None and alike}
    quality: dict[str, Any] = {"cosine": {"matched_median": _median(found.cosine)}}
    quality["cosine"]["top1_median"] = _median(baselines.top_cosine(first.decoder, second.decoder))
    if alike:
        pairs = torch.from_numpy(baselines.random_pairs(len(first), seed))
        chance = torch.nn.functional.cosine_similarity(first.decoder, second.decoder[pairs], dim=1)
        quality["cosine"]["random_median"] = _median(chance.double().numpy())
    quality["baselines"] = {k: float(costs.edges(np.arange(len(p)), p).sum()) for k, p in floors.items()}
    quality["baselines"]["mutual_nearest_share"] = float((baselines.mutual_nearest(costs) >= 0).mean())
    named = floors | {MATCHED: found.permutation}
    quality["mse"] = {k: tensor_errors(first, second, p) for k, p in named.items()}
    return quality


def _median(x: np.ndarray) -> float | None:
    known = x[np.isfinite(x)]
    return float(np.median(known)) if len(known) else None


def _table(found: Matching, classes: Classes) -> pl.DataFrame:
    table = pl.DataFrame({"a": np.arange(len(found.permutation)), "b": found.permutation})
    return table.with_columns(
        pl.Series("cost", found.pair_cost).fill_nan(None),
        pl.Series("cosine", found.cosine).fill_nan(None),
        pl.Series("partner", [int(j) if j >= 0 else None for j in classes.permutation], pl.Int64),
        pl.Series("class", classes.names),
        pl.Series("distance", classes.distance).fill_nan(None),
        pl.Series("family", [int(f) if f >= 0 else None for f in classes.family], pl.Int64),
    )
