"""What a way to find a concept's direction declares, and what it may read beside the concept's texts.

A method is a pure function of the texts and of a `Fitting`; the same ones give the same direction. It says what it
needs, so that the stage refuses it before any work where that is not there. Knows no method by name.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from saelab.core.errors import UserError
from saelab.saes.base import Sae
from saelab.steering.concepts.directions.likelihood import Fit
from saelab.steering.concepts.examples import Examples
from saelab.steering.direction import Direction

Need = Literal["sae", "features"]
NEEDED = {"sae": "an SAE", "features": "the table of an SAE's features"}


@dataclass(frozen=True)
class Fitting:
    """What is there beside the texts.

    seed: names every draw. fit: the training of methods that learn through the language model. sae: an SAE of the
    site. features: interp's table of that SAE (feature, max_activation, terms).
    """

    seed: int = 0
    fit: Fit = field(default_factory=Fit)
    sae: Sae | None = None
    features: pl.DataFrame | None = None


@dataclass(frozen=True)
class Method:
    """One way to find a direction.

    label: for people. find: raises `UserError` where the concept has no direction of this kind. needs: what of a
    `Fitting` must be there. axbench: AxBench's prefix of the method's columns, where it has the method.
    """

    name: str
    label: str
    find: Callable[[Examples, Fitting], Direction]
    needs: tuple[Need, ...] = ()
    axbench: str | None = None

    def __call__(self, examples: Examples, using: Fitting | None = None) -> Direction:
        """The direction of a concept; raises `UserError` where there is none."""
        using = using or Fitting()
        self.check(using)
        return self.find(examples, using)

    def check(self, using: Fitting) -> None:
        """Raise `UserError` where something that the method needs is not there."""
        for need in self.needs:
            if getattr(using, need) is None:
                raise UserError(f"{self.name} needs {NEEDED[need]}, and none was given.")
