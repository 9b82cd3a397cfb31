"""Trainings of one SAE with several seeds (`seeds` of a grid): which they are, and how stable its features are in them.

Reads what matching has written; computes no matching. Must never know how SAEs are trained.
"""

from typing import Any

import numpy as np
import polars as pl

from saelab.matching.repeats import stability
from saelab.stats.means import mean_estimate
from saelab.store.layout import RunFolder
from saelab.study.spec import SaeSpec, StudyConfig, saes_of


def repeats(first: SaeSpec, second: SaeSpec) -> bool:
    """Whether two SAEs of a grid differ in their training seed alone."""
    if first.adopted or second.adopted or first.seed == second.seed:
        return False
    own, other = (
        (s.model.key, s.architecture, s.level, s.site, s.d_sae, s.reads, s.options, s.start_sha256, s.freeze, s.steps)
        for s in (first, second)
    )
    return own == other and first.ks == second.ks


def stability_of(study: StudyConfig, run: RunFolder, spec: SaeSpec) -> tuple[pl.DataFrame, list[float]] | None:
    """Of an SAE's features their stability (feature, stability), and what chance gives with each other training.

    None where there is no other training, or where a path has matched them otherwise than by directions.
    """
    tables, sides, chance = [], list[str](), list[float]()
    for other in (s for s in saes_of(study) if repeats(spec, s)):
        for pair in ((spec.name, other.name), (other.name, spec.name)):
            folder = run.matching(*pair)
            if folder.quality.exists and (found := folder.quality.read()).get("repeat"):
                tables.append(folder.matching.read(["a", "b", "cosine"]))
                sides.append("ab"[pair.index(spec.name)])
                chance.append(found["chance"])
    return (stability(tables, sides), chance) if tables else None


def stability_row(study: StudyConfig, run: RunFolder, spec: SaeSpec) -> dict[str, Any]:
    """An SAE's stability, the PW-MCC with its other trainings: mean over features with its interval, and chance."""
    found = stability_of(study, run, spec)
    if found is None:
        return {}
    values, name = found[0]["stability"].to_numpy().astype(float), f"{spec.name}/stability"
    mean = mean_estimate(values, name=name, seed=study.seed, bounds=(-1.0, 1.0))
    ends = {"stability_low": mean.low, "stability_high": mean.high}
    return {"stability": mean.value, **ends, "random_stability": float(np.mean(found[1]))}
