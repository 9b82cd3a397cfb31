"""First principal component of the concept's tokens, centred; the others are only used for its sign."""

from saelab.steering.direction import Direction
from saelab.steering.directions.linear import first_component, pointed
from saelab.steering.examples import Examples


def pca(examples: Examples, *, seed: int = 0) -> Direction:
    """argmax over unit v of the variance of h.v over the concept's tokens; `seed` is not used."""
    del seed
    return pointed(first_component(examples.shown, centred=True), examples, "pca")
