"""Cells: the units of work of a study, each a pure function of its settings and of the cells before it.

A cell's key is the hash of its stage, name, settings, stage revision and the keys of its inputs, so that any change of
what matters gives another key and anything finished is recognised. Cells know nothing of how or where they are run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from saelab.core.config import digest_of

# Raise a stage's number when its results change for the same settings: its cells are then done anew.
REVISIONS: Mapping[str, int] = {
    "text": 1,
    "harvest": 1,
    "train": 1,
    "interp": 1,
    "read": 1,
    "evaluate": 2,
    "select": 1,
    "calibrate": 1,
    "steer": 1,
    "anchors": 1,
    "match": 2,
    "stats": 2,
}


@dataclass(frozen=True)
class Cell:
    """One unit of work.

    stage and name address it for people (`interp`, `topk.l0_32.resid_post.15`); settings is JSON-able and holds all
    that determines the result beside the inputs; estimate is a rough number of seconds, for progress and plans only.
    """

    stage: str
    name: str
    settings: Mapping[str, Any]
    inputs: tuple["Cell", ...] = ()
    estimate: float = 1.0
    key: str = field(init=False)

    def __post_init__(self) -> None:
        content = {
            "stage": self.stage,
            "revision": REVISIONS[self.stage],
            "name": self.name,
            "settings": dict(self.settings),
            "inputs": [c.key for c in self.inputs],
        }
        object.__setattr__(self, "key", digest_of(content))

    def __str__(self) -> str:
        return f"{self.stage} {self.name}".strip()


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """The cells and all their inputs, each once, inputs first, otherwise in the order given."""
    seen: dict[str, Cell] = {}

    def visit(cell: Cell) -> None:
        if cell.key not in seen:
            for before in cell.inputs:
                visit(before)
            seen[cell.key] = cell

    for cell in cells:
        visit(cell)
    return list(seen.values())
