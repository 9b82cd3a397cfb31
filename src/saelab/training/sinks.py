"""Where the figures of a run go beside its own table: a tracker that the user runs, wandb or trackio.

Both have the same three calls (init, log, finish). Asked for by name or by the environment variable SAELAB_TRACKER;
without it nothing is imported and nothing leaves the machine. What is sent is what the metrics table holds.
"""

import importlib
import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from saelab.core.errors import MissingDependency, UserError, nearest

TRACKERS = ("trackio", "wandb")
VARIABLE = "SAELAB_TRACKER"


@runtime_checkable
class Sink(Protocol):
    """Takes the figures of a step."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Figures by name, `<sae>/<figure>`."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


class Tracker:
    """A run of wandb or trackio."""

    def __init__(self, module: Any, project: str, name: str):
        self.module = module
        module.init(project=project, name=name)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.module.log(dict(figures), step=step)

    def close(self) -> None:
        self.module.finish()


def tracker(kind: str | None = None, *, project: str = "saelab", name: str) -> Sink | None:
    """A run of the tracker `kind`, by default the one SAELAB_TRACKER names; None where none is asked for."""
    kind = kind or os.environ.get(VARIABLE) or None
    if kind is None:
        return None
    if kind not in TRACKERS:
        raise UserError(f"There is no tracker {kind!r} ({VARIABLE}).", hint=nearest(kind, TRACKERS))
    try:
        module = importlib.import_module(kind)
    except ImportError:
        raise MissingDependency(
            f"The tracker {kind} is not installed.", hint=f"pip install {kind}, or unset {VARIABLE}."
        ) from None
    return Tracker(module, project, name)
