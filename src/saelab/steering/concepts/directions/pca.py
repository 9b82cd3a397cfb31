"""First principal component of the concept's tokens, centred; the others are only used for its sign."""

from saelab.steering.concepts.directions.linear import first_component, pointed
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples
from saelab.steering.direction import Direction


def pca(examples: Examples, using: Fitting) -> Direction:
    """argmax over unit v of the variance of h.v over the concept's tokens; nothing else is used."""
    del using
    return pointed(first_component(examples.shown, centred=True), examples, "pca")
