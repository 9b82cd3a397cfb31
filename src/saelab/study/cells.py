"""Cells: the units of work of a study, each a pure function of its settings and of the cells before it.

A cell's key is the hash of its stage, name, settings, stage revision, the sums of the files that its settings name and
the keys of its inputs, so that any change of what matters gives another key and anything finished is recognised. Cells
know nothing of how or where they are run.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from saelab.core.config import digest_of

# Raise a stage's number when its results change for the same settings: its cells are then done anew.
REVISIONS: Mapping[str, int] = {
    "text": 1,
    "harvest": 1,
    "train": 1,
    "adopt": 1,
    "interp": 2,
    "read": 1,
    "evaluate": 2,
    "published": 1,
    "select": 1,
    "calibrate": 1,
    "gate": 2,
    "steer": 3,
    "rate": 1,
    "anchors": 1,
    "match": 4,
    "stats": 10,
    "record": 1,
}


@dataclass(frozen=True)
class Cell:
    """One unit of work.

    stage and name address it for people (`interp`, `topk.l0_32.resid_post.15`); settings is JSON-able and holds all
    that determines the result beside the inputs; estimate is a rough number of seconds, for progress and plans only;
    sums: of the files that names in the settings stand for, by name.
    """

    stage: str
    name: str
    settings: Mapping[str, Any]
    inputs: tuple["Cell", ...] = ()
    estimate: float = 1.0
    sums: Mapping[str, str] = field(default_factory=dict[str, str])
    key: str = field(init=False)

    def __post_init__(self) -> None:
        content = {
            "stage": self.stage,
            "revision": REVISIONS[self.stage],
            "name": self.name,
            "settings": dict(self.settings),
            "sums": dict(self.sums),
            "inputs": [c.key for c in self.inputs],
        }
        object.__setattr__(self, "key", digest_of(content))

    @property
    def own(self) -> dict[str, Any]:
        """What is its own in its key, as plain data: settings and sums."""
        return json.loads(json.dumps({"settings": dict(self.settings), "sums": dict(self.sums)}))

    @property
    def before(self) -> list["Cell"]:
        """All cells that it rests on, directly or not."""
        return in_order(self.inputs)

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


def stamped(cells: Iterable[Cell], sums: Mapping[str, Callable[[], str]]) -> list[Cell]:
    """The cells with the sums of what their settings name. sums: by name, how to take one; taken when first needed."""
    taken = cache(lambda name: sums[name]())
    made: dict[str, Cell] = {}
    for cell in in_order(cells):
        found = {text: taken(text) for text in sorted(set(_texts(dict(cell.settings)))) if text in sums}
        made[cell.key] = replace(cell, inputs=tuple(made[c.key] for c in cell.inputs), sums=found)
    return list(made.values())


def _texts(data: Any) -> Iterator[str]:
    """All texts in nested plain data."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for value in data.values():
            yield from _texts(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _texts(value)
