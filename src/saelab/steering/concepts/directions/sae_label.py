"""The SAE feature whose description speaks of the concept (AxBench's "SAE", where the label *is* the concept).

Overlap of words: a feature's score is the weight of those of its terms that are words of the concept, over the weight
of all its terms; ties go to the feature that fired strongest. Without any overlap no feature has the label, and none
is made up: the concept is not covered.
"""

import polars as pl

from saelab.core.errors import UserError
from saelab.steering.concepts.describe import WORD
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples
from saelab.steering.direction import Direction
from saelab.steering.directions.sae_feature import sae_feature


def sae_label(examples: Examples, using: Fitting) -> Direction:
    """The direction of the labelled feature; strength by its largest activation. Raises `UserError` without overlap."""
    assert using.sae is not None and using.features is not None
    found = labelled_feature(examples.concept, using.features)
    if found is None:
        raise UserError("No feature's description speaks of the concept.")
    return sae_feature(using.sae, *found)


def labelled_feature(concept: str, features: pl.DataFrame) -> tuple[int, float] | None:
    """The feature and its largest activation, from interp's table; None without overlap."""
    wanted = {word for w in WORD.findall(concept.lower()) for word in (w, w.removesuffix("s"))} - _COMMON
    best: tuple[float, float, int] | None = None
    rows = features.filter(pl.col("max_activation") > 0).sort("feature")
    for feature, peak, terms in rows.select("feature", "max_activation", "terms").iter_rows():
        known = [(t["text"].strip().lower(), t["weight"]) for t in terms or ()]
        found = sum(w for text, w in known if text in wanted or text.removesuffix("s") in wanted)
        if found > 0:
            candidate = (found / sum(w for _, w in known), float(peak), int(feature))
            best = candidate if best is None or candidate[:2] > best[:2] else best
    return None if best is None else (best[2], best[1])


_COMMON = {
    "about", "and", "are", "as", "at", "by", "for", "from", "in", "into", "its", "of", "on", "or", "other", "related",
    "such", "terms", "that", "the", "their", "this", "to", "various", "which", "with", "references", "reference",
    "mentions", "phrases", "words", "elements", "associated", "specific", "concepts",
}  # fmt: skip
