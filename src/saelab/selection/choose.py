"""Choosing features by their scores, and what the choice of the best one loses.

A choice is a criterion, a tail (up, down or both) and a number of features. Whether it helped is measured elsewhere, on
instructions that chose nothing. No language model, no SAE, no files here.
"""

from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Float

from saelab.core.errors import UserError, nearest

Tail = Literal["up", "down", "both"]


def choose(effects: pl.DataFrame, criterion: str, tail: Tail, n: int) -> list[int]:
    """The `n` features furthest out in each tail, ascending by index. A null or NaN score is never picked.

    Args:
        effects: a column `feature`, and the criterion's scores in a column of its name.
        criterion: that column.
        tail: up (the largest scores), down (the smallest) or both, each with its own n.
        n: features of each tail.

    Ties in the score are broken by the smaller feature index, so a choice never depends on row order. Raises
    `UserError` where the effects lack the criterion.
    """
    if criterion not in effects.columns:
        known = [c for c in effects.columns if c != "feature"]
        raise UserError(f"The effects have no column {criterion!r}.", hint=nearest(criterion, known))
    table = effects.select("feature", score=pl.col(criterion).cast(pl.Float64)).sort("feature")
    table = table.filter(pl.col("score").is_finite())
    feature, score = table["feature"].to_numpy(), table["score"].to_numpy()
    signs = {"up": [1], "down": [-1], "both": [1, -1]}[tail]
    return sorted({int(f) for sign in signs for f in feature[np.argsort(-sign * score, kind="stable")[:n]]})


def top1_regret(criterion: Float[np.ndarray, " N"], score: Float[np.ndarray, " N"]) -> float | None:
    """Best score among the features less the score of the feature with the highest criterion; None with none known."""
    both = np.isfinite(criterion) & np.isfinite(score)
    if not both.any():
        return None
    return float(score[both].max() - score[both][np.argmax(criterion[both])])
