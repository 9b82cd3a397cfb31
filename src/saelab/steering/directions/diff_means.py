"""Difference in means: mean activation of the concept's tokens minus that of the others (AxBench's DiffMean)."""

from saelab.steering.direction import Direction
from saelab.steering.directions.linear import pointed
from saelab.steering.examples import Examples


def diff_means(examples: Examples, *, seed: int = 0) -> Direction:
    """mean(h | shown) - mean(h | others), over tokens; `seed` is not used."""
    del seed
    return pointed(examples.shown.mean(0) - examples.others.mean(0), examples, "diff_means")
