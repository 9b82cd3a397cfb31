"""Every fitted direction by name. A new method is a file beside this and one line here; all checks run over this list.

The others have inputs of their own: `sae_feature` (an index), `sae_auroc` (an SAE), `equal_norm` (another direction).
"""

from typing import Protocol, runtime_checkable

from saelab.core.errors import UserError, nearest
from saelab.steering.direction import Direction
from saelab.steering.directions.diff_means import diff_means
from saelab.steering.directions.lat import lat
from saelab.steering.directions.pca import pca
from saelab.steering.directions.probe import probe
from saelab.steering.directions.reft_r1 import reft_r1
from saelab.steering.directions.ssv import ssv
from saelab.steering.examples import Examples


@runtime_checkable
class Method(Protocol):
    """Fits a direction to examples of a concept; the same examples and seed give the same direction."""

    def __call__(self, examples: Examples, *, seed: int = 0) -> Direction: ...


METHODS: dict[str, Method] = {
    "diff_means": diff_means,
    "pca": pca,
    "lat": lat,
    "probe": probe,
    "ssv": ssv,
    "reft_r1": reft_r1,
}


def method_of(name: str) -> Method:
    """The method of this name, or a `UserError` with the nearest ones."""
    if name not in METHODS:
        raise UserError(f"There is no direction method {name!r}.", hint=nearest(name, METHODS))
    return METHODS[name]
