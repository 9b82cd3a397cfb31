"""AUROC by hand, as scikit-learn has it, and of many columns at once."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from saelab.core.classifiers import auroc, aurocs


def test_auroc_by_hand_and_of_columns() -> None:
    """Of four pairs two are right and one is tied; columns with ties are scikit-learn's numbers."""
    positive = np.array([True, True, False, False])
    assert auroc(np.array([3.0, 1.0, 2.0, 1.0]), positive) == 2.5 / 4
    labels = np.arange(50) % 3 == 0
    scores = np.random.default_rng(2).normal(size=(50, 40)).round(1)
    known = [roc_auc_score(labels, column) for column in scores.T]
    assert aurocs(scores, labels) == pytest.approx(known, abs=1e-15)
    assert [auroc(column, labels) for column in scores.T] == pytest.approx(known, abs=1e-15)
    assert aurocs(-scores, labels) != pytest.approx(known, abs=0.01)
