"""Two classes told apart as scikit-learn defines it: AUROC and logistic regression. The library is loaded late."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

STEPS = 1000


def auroc(scores: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float:
    """P(score of a positive > score of a negative), ties counting half. Both classes must be present."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def logistic(
    x: Float[np.ndarray, "N D"], positive: Bool[np.ndarray, " N"], *, cost: float = 1.0, steps: int = STEPS, **more: Any
) -> Any:
    """A fitted `sklearn.linear_model.LogisticRegression`. cost: its C; more: its other settings.

    `steps` are the effort that is asked for, so that reaching them is no warning.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=cost, max_iter=steps, **more).fit(x, positive)
