"""Is a feature found again where the same SAE is trained again? Two trainings of one SAE, by decoder directions.

    MCC = mean over features of the cosine with their partner, in the full matching that makes it greatest

PW-MCC (arXiv 2505.20254, section 3) is its mean over pairs of trainings; between unit rows the certified least squared
distance is the greatest sum of cosines. Cosines keep their sign, as codes are not negative; the paper takes absolute
values. Beside it the MCC with a dictionary that has no counterpart (`partial.unrelated`). Must never know a language
model: directions are compared, no text is read.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import scipy

from saelab.core.progress import SILENT, Progress
from saelab.matching.assignment import assign
from saelab.matching.classes import classed
from saelab.matching.cost import Costs, costs_between
from saelab.matching.fold import HasFeatures, features_of
from saelab.matching.match import Matching, match
from saelab.matching.partial import null_reject, unrelated
from saelab.matching.written import certificate, pairs_table
from saelab.store.folders import MatchingFolder

FOLD, PARTS = "none", "decoder"


def run(first: HasFeatures, second: HasFeatures, folder: Path, *, seed: int, progress: Progress = SILENT) -> list[Path]:
    """Match two trainings of an SAE by their directions and write matching.parquet and quality.json (mcc with its ends
    over features, chance).
    """
    found = match(first, second, fold=FOLD, parts=PARTS, seed=seed, progress=progress)
    costs = costs_between(features_of(first, FOLD), features_of(second, FOLD), PARTS)
    classes = classed(costs, null_reject(costs, seed=seed))
    quality = {"fold": FOLD, "parts": PARTS, "repeat": True} | certificate(found)
    low, high = mcc_ends(found)
    quality |= {"mcc": mcc(found), "mcc_low": low, "mcc_high": high, "chance": _chance(costs, seed, progress)}
    quality |= {"classes": classes.counts | {"rho": classes.rho, "strict": classes.strict}}
    place = MatchingFolder(folder)
    return [place.matching.write(pairs_table(found, classes)), place.quality.write(quality)]


def mcc(matching: Matching) -> float:
    """Mean cosine of the pairs of a full matching by directions (of the smaller SAE's features, where sizes differ)."""
    return float(np.nanmean(matching.cosine))


def mcc_ends(matching: Matching) -> tuple[float | None, float | None]:
    """The 95 % interval of the MCC over features drawn again, by the normal law (hundreds of features and more); what
    another seed would give is not in it. None for a single pair.
    """
    pairs = matching.cosine[np.isfinite(matching.cosine)]
    if len(pairs) < 2:
        return None, None
    half = float(scipy.stats.norm.ppf(0.975) * pairs.std(ddof=1) / len(pairs) ** 0.5)
    return mcc(matching) - half, mcc(matching) + half


def _chance(costs: Costs, seed: int, progress: Progress) -> float:
    """The MCC of the first with a dictionary of the second's mean and covariance that shares none of its features."""
    null = Costs(costs.a, unrelated(costs, seed))
    pairs = assign(null, progress=progress).permutation
    i = np.flatnonzero(pairs >= 0)
    return float(1 - null.edges(i, pairs[i]).mean() / 2)  # rows are of unit norm


def stability(tables: Sequence[pl.DataFrame], sides: Sequence[str]) -> pl.DataFrame:
    """Of every feature of one SAE, the mean cosine with its partners in the other trainings: feature, stability.

    tables: matching.parquet of every pair that the SAE is one of; sides: "a" or "b", which of the two it is.
    """
    found = [
        table.filter(pl.col("b") >= 0).select(pl.col(side).alias("feature"), pl.col("cosine").alias("stability"))
        for table, side in zip(tables, sides, strict=True)
    ]
    return pl.concat(found).group_by("feature").agg(pl.col("stability").mean()).sort("feature")
