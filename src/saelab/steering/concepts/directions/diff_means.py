"""Difference in means: mean activation of the concept's tokens minus that of the others (AxBench's DiffMean)."""

from saelab.steering.concepts.directions.linear import pointed
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples
from saelab.steering.direction import Direction


def diff_means(examples: Examples, using: Fitting) -> Direction:
    """mean(h | shown) - mean(h | others), over tokens; nothing else is used."""
    del using
    return pointed(examples.shown.mean(0) - examples.others.mean(0), examples, "diff_means")
