"""Two classes told apart: AUROC and logistic regression, as scikit-learn defines them, which is loaded late.

Nothing else of saelab defines either. No texts, no activations, no SAEs here.
"""

import warnings
from importlib import import_module
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float

STEPS = 1000


def auroc(scores: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float:
    """P(score of a positive > score of a negative), ties counting half. Both classes must be present."""
    return float(aurocs(scores[:, None], positive)[0])


def aurocs(scores: Float[np.ndarray, "N F"], positive: Bool[np.ndarray, " N"]) -> Float[np.ndarray, " F"]:
    """`auroc` of every column at once: (sum of the positives' mid-ranks - P (P + 1) / 2) / (P Q), P and Q the counts.

    By Mann and Whitney (1947). scikit-learn's number, which takes a hundred times as long for a dozen windows.
    """
    p = int(positive.sum())
    ranks = scipy.stats.rankdata(scores, axis=0)[positive].sum(axis=0)
    return (ranks - p * (p + 1) / 2) / (p * (len(positive) - p))


def logistic(x: Any, positive: Bool[np.ndarray, " N"], *, cost: float = 1.0, steps: int = STEPS, **more: Any) -> Any:
    """A fitted `sklearn.linear_model.LogisticRegression`. x: [N, D], dense or sparse; cost: its C; more: its others.

    `steps` are the effort that is asked for, so that reaching them is no warning.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", _sklearn("exceptions").ConvergenceWarning)
        return _sklearn("linear_model").LogisticRegression(C=cost, max_iter=steps, **more).fit(x, positive)


def _sklearn(module: str) -> Any:
    """A module of scikit-learn, which has no types."""
    return import_module(f"sklearn.{module}")
