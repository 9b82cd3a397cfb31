"""The matching stage of two SAEs: matching.parquet and quality.json.

The table has one row per feature of the first (a, b, cost, cosine, partner, class, distance, family, relation, into);
`partner` is of the partial matching (classes.py), null without one.

With the steps of a path, their composition is evaluated beside the direct matching, and paths.parquet follows every
feature from its birth to its death. The only place here with files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from saelab.core.config import Config
from saelab.core.progress import SILENT, Progress
from saelab.lm.model import LanguageModel
from saelab.matching import baselines
from saelab.matching.baselines import BASELINES, COMPOSED, MATCHED, Baseline
from saelab.matching.classes import classed
from saelab.matching.cost import Costs, Parts, costs_between
from saelab.matching.evaluate import (
    Skip,
    TwoSites,
    clean_nll,
    coactivation,
    coactive,
    cost_shares,
    decoder_distances,
    read_sites,
    skips,
    tensor_errors,
)
from saelab.matching.fold import Fold, FoldedFeatures, features_of, has_thresholds
from saelab.matching.match import Matching, compose, match
from saelab.matching.partial import null_reject, persistence
from saelab.matching.paths import feature_paths, survival
from saelab.matching.written import certificate, pairs_table
from saelab.saes.base import Sae
from saelab.stats.estimate import Estimate
from saelab.stats.ratio import Sums, ratio_estimate
from saelab.store.folders import MatchingFolder
from saelab.text.pack import PackedText

EVEN = (1.0, 1.0, 1.0)
CURVE = (0.25, 0.5, 0.75, 1.0)  # reject costs of the persistence curve, as shares of the null's


class MatchConfig(Config):
    """How features are matched across sites."""

    fold: Literal["theta", "mean", "rms", "quantile", "max", "none"] = Field(
        default="none", description="The scale of each feature; none: unit decoder rows."
    )
    parts: Literal["all", "decoder", "encoder"] = Field(default="decoder", description="Tensors that are compared.")
    weights: tuple[float, float, float] = Field(
        default=EVEN,
        exclude_if=lambda weights: weights == EVEN,
        description="How much decoder, encoder and biases count in the cost where all parts are compared.",
    )
    reject: float | Literal["null"] | None = Field(
        default=None, description="Reject cost of a partial matching; None: full."
    )
    contexts: int = Field(default=64, ge=1, description="Held-out contexts on which a matching is evaluated.")
    quantiles: tuple[float, ...] = Field(
        default=(), description="Shares of the pairs, of least decoder distance, that are moved alone (Eq. 6)."
    )
    controls: tuple[Literal["directions", "folded", "unfolded"], ...] = Field(
        default=("directions", "folded", "unfolded"),
        description="Other matchings of the same features, put to work beside: by decoder directions, by all tensors "
        "folded (the paper), by raw tensors.",
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
    two = read_sites(lm, text, sites, config.contexts)
    rows = two.first[two.kept], two.second[two.kept]
    saes = (first, second)
    found = _matched(config, saes, rows, (config.fold, config.parts), progress)
    folded = tuple(features_of(s, config.fold, activations=x) for s, x in zip(saes, rows, strict=True))
    costs = costs_between(folded[0], folded[1], config.parts, config.weights)
    # Classes are told by decoder directions alone: distance is 1 - cosine, whatever the fold.
    directions = costs_between(features_of(first, "none"), features_of(second, "none"), "decoder")
    classes = classed(directions, null_reject(directions, seed=config.seed))
    with torch.inference_mode():
        on = first.encode(rows[0]) > 0, second.encode(rows[1]) > 0
    work = _Work(lm, two, sites[1], saes, on, config.seed, progress)
    scales = (folded[0].scale, folded[1].scale)
    quality: dict[str, Any] = {"fold": config.fold, "parts": config.parts} | certificate(found)
    quality |= {} if config.weights == EVEN else {"weights": config.weights}
    quality |= work.score(found.permutation)
    quality |= (
        {"shares": cost_shares(folded[0], folded[1], found.permutation, config.weights)}
        if config.parts == "all"
        else {}
    )
    quality |= {"reject": found.rejected_at, "matched_share": float((found.permutation >= 0).mean())}
    distance = decoder_distances(folded[0], folded[1], found.permutation)
    moved = {f"quantile_{q:g}": distance <= np.nanquantile(distance, q) for q in config.quantiles}
    skipped = work.skips(found.permutation, scales, moved=moved)
    every = {name: work.ends(name, skip) for name, skip in skipped.items()}
    quality |= {"skip": every.pop(MATCHED), "compared_with": {k: v for k, v in every.items() if k not in moved}}
    quality["limited"] = {k: every[k] for k in moved}
    quality["controls"] = {
        b.name: _control(config, b, work, rows, found.permutation, skipped[MATCHED])
        for b in BASELINES.values()
        if b.name in config.controls and b.control not in (None, (config.fold, config.parts))
    }
    quality |= _beside(folded, costs, found, config.seed)
    curve = [s * classes.rho for s in CURVE]
    quality["classes"] = classes.counts | {"rho": classes.rho, "strict": classes.strict}
    quality["persistence"] = dict(zip(map(str, CURVE), persistence(directions, curve).tolist(), strict=True))
    place = MatchingFolder(folder)
    written = []
    if steps:
        path = _composed([s["b"].to_numpy() for s in steps])
        own = work.ends(COMPOSED, work.skips(path, scales, beside=False)[MATCHED])
        same = float((path == found.permutation).mean())
        partners = [s["partner"].fill_null(-1).to_numpy() for s in steps]
        kept = _composed(partners)
        agree = (kept == classes.permutation)[(kept >= 0) & (classes.permutation >= 0)]
        quality[COMPOSED] = work.score(path) | {"skip": own, "same_as_direct": same}
        quality[COMPOSED] |= {"same_as_direct_of_partners": float(agree.mean()) if len(agree) else None}
        quality["survival"] = [s.tolist() for s in survival(partners)]
        written.append(place.paths.write(feature_paths(partners, costs.shape[1])))
    return [place.matching.write(pairs_table(found, classes)), place.quality.write(quality), *written]


Rows = tuple[Tensor, Tensor]
MEASURES = ("matching_score", "explained_variance", "ce_change")


@dataclass(frozen=True)
class _Work:
    """Two SAEs at their sites on one text, where any matching of their features can be put to work.

    on: which features are on at the kept positions, of either SAE.
    """

    lm: LanguageModel
    two: TwoSites
    site: str
    saes: tuple[Sae, Sae]
    on: Rows
    seed: int
    progress: Progress

    @cached_property
    def clean(self) -> Tensor:
        return clean_nll(self.lm, self.two, self.site)

    @property
    def documents(self) -> Tensor:
        return self.two.documents[self.two.kept]

    def skips(self, permutation: np.ndarray, scales: Rows, **more: Any) -> dict[str, Skip]:
        asked = {"clean": self.clean, "progress": self.progress} | more
        return skips(self.lm, self.two, self.site, self.saes, permutation, scales, **asked)

    def score(self, permutation: np.ndarray) -> dict[str, Any]:
        """The matching scores, the first with its interval over documents."""
        sums = coactive(*self.on, permutation, self.documents)
        return coactivation(*self.on, permutation) | _interval("matching_score", self.estimate("score", sums))

    def ends(self, name: str, skip: Skip) -> dict[str, Any]:
        """A skip's numbers, with intervals over documents."""
        found: dict[str, Any] = dict(skip.record)
        found |= _interval("explained_variance", self.estimate(f"{name}/variance", skip.variance))
        return found | _interval("ce_change", self.estimate(f"{name}/ce", skip.ce))

    def estimate(self, name: str, first: Sums, less: Sums | None = None) -> Estimate:
        return ratio_estimate(first, less, name=f"matching/{name}", seed=self.seed)


def _matched(
    config: MatchConfig, saes: tuple[Sae, Sae], rows: Rows, how: tuple[Fold, Parts], progress: Progress
) -> Matching:
    asked = {"reject": config.reject, "weights": config.weights, "seed": config.seed}
    return match(*saes, fold=how[0], parts=how[1], activations=rows, progress=progress, **asked)


def _control(
    config: MatchConfig, other: Baseline, work: _Work, rows: Rows, permutation: np.ndarray, skip: Skip
) -> dict[str, Any]:
    """Another matching of the same features, put to work alike. less: the matching less this one, on the same text."""
    assert other.control is not None
    fold, parts = other.control
    fold = "mean" if fold == "theta" and not all(map(has_thresholds, work.saes)) else fold
    found = _matched(config, work.saes, rows, (fold, parts), work.progress)
    scales = tuple(features_of(s, fold, activations=x).scale for s, x in zip(work.saes, rows, strict=True))
    own = work.skips(found.permutation, (scales[0], scales[1]), beside=False)[MATCHED]
    halves = [coactive(*work.on, p, work.documents) for p in (permutation, found.permutation)]
    pairs = {MEASURES[0]: halves, MEASURES[1]: (skip.variance, own.variance), MEASURES[2]: (skip.ce, own.ce)}
    less = {name: work.estimate(f"{other.name}/{name}", a, b) for name, (a, b) in pairs.items()}
    record: dict[str, Any] = {"fold": fold, "parts": parts, "gap": found.gap}
    record |= work.score(found.permutation) | {"skip": work.ends(other.name, own)}
    record["same_as_matched"] = float((found.permutation == permutation).mean())
    record["less"] = {n: {"value": e.value, "low": e.low, "high": e.high, "note": e.note} for n, e in less.items()}
    return record


def _interval(name: str, found: Estimate) -> dict[str, float | None]:
    return {f"{name}_low": found.low, f"{name}_high": found.high}


def _composed(steps: Sequence[np.ndarray]) -> np.ndarray:
    path = steps[0]
    for step in steps[1:]:
        path = compose(path, step)
    return path


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
