"""Linear probe: the normal of a logistic regression that tells the concept's tokens from the others.

Every token inherits its text's label (AxBench's Probe). Fitted by scikit-learn on standardised activations with an L2
penalty, classes balanced, where AxBench runs AdamW under a unit-norm constraint.
"""

import numpy as np
import torch

from saelab.core.classifiers import logistic
from saelab.steering.concepts.directions.linear import pointed
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples
from saelab.steering.direction import Direction

STRENGTH = 1e-3  # inverse penalty: thousands of correlated tokens carry about a hundred independent labels


def probe(examples: Examples, using: Fitting) -> Direction:
    """The coefficient vector in raw activation units."""
    rows = examples.rows.values.numpy()
    label = examples.positive[examples.rows.text].numpy()
    spread = rows.std(0) + 1e-6
    scaled = (rows - rows.mean(0)) / spread
    model = logistic(scaled, label, cost=STRENGTH, steps=500, class_weight="balanced", random_state=using.seed)
    vector = np.asarray(model.coef_[0], dtype=np.float32) / spread.astype(np.float32)
    return pointed(torch.from_numpy(vector), examples, "probe")
