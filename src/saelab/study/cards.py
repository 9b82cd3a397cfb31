"""What a study would take on a machine with several GPUs, from assumed rates: nobody has measured them with saelab.

The rates are the aims of docs/gpu.md for one card of an H100's kind. A stage's hours are those of its longest cell or
of all its cells shared among the cards, whichever is more; stages follow one another. This file must never know a card.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from saelab.study.cells import Cell
from saelab.study.costs import judge_calls
from saelab.study.plan import SECONDS, cells_of, pass_seconds, trained_by
from saelab.study.sizes import BASE, KNOWN
from saelab.study.spec import SaeSpec, StudyConfig, saes_of

OF = KNOWN["gemma-2-2b"]  # the rates of language models are of one of this size, and fall with the parameters
LARGER = OF.parameters / BASE.parameters


@dataclass(frozen=True)
class Rate:
    """per_second: of what, in words; factor: seconds on a card for one of `plan.SECONDS`."""

    per_second: str
    factor: float


READ = Rate("200,000 tokens read", 1 / SECONDS["harvest"] / (200_000 * LARGER))
TRAINED = Rate("1.5 M tokens an SAE of 2,304 x 16,384", 1 / (1.5e6 * 2304 * 16384) / SECONDS["train"])
WRITTEN = Rate("10,000 tokens written", 1 / SECONDS["steer"] / (10_000 * LARGER))
EFFECTS = Rate("1,000 features", 1 / SECONDS["select"] / (1_000 * LARGER))
RATES: Mapping[str, Rate] = {
    "harvest": READ,
    "train": TRAINED,
    "select": EFFECTS,
    "gate": WRITTEN,
    "steer": WRITTEN,
    "rate": WRITTEN,
    "calibrate": WRITTEN,
}
PASSES = frozenset({"interp", "read", "evaluate", "adopt", "match"})  # what the host does stays, passes are read
HOST = "by processors, as estimated for two cores"
CALLS = 20.0  # answers of a paid judge in a second


def card_table(study: StudyConfig, cards: int) -> pl.DataFrame:
    """One row per stage: cells, hours of one card, hours on so many, and the rate that was assumed; a total last."""
    cells, saes = cells_of(study), saes_of(study)
    rows: list[dict[str, object]] = []
    for stage in dict.fromkeys(c.stage for c in cells):
        seconds = [on_card(study, saes, c) for c in cells if c.stage == stage]
        taken = max(*seconds, sum(seconds) / cards) if len(seconds) > 1 else seconds[0]
        said = RATES[stage].per_second if stage in RATES else HOST
        said += f"; {READ.per_second}" if stage in PASSES or _streams(cells, stage) else ""
        rows.append(_row(stage, len(seconds), sum(seconds), taken, said))
    if (calls := judge_calls(study)) is not None:  # beside the cards, which wait for it
        rows.append(_row("paid judge", 0, 0.0, calls.calls / CALLS, f"{CALLS:g} answers"))
    total = [sum(float(str(row[name])) for row in rows) for name in ("card_hours", "hours")]
    last = {"stage": "total", "cells": len(cells), "card_hours": total[0], "hours": total[1], "assumed_a_second": ""}
    return pl.DataFrame([*rows, last]).with_columns(pl.col("card_hours", "hours").round(2))


def on_card(study: StudyConfig, saes: Sequence[SaeSpec], cell: Cell) -> float:
    """Seconds of a cell on one card. saes: all of the study."""
    if cell.stage in PASSES:
        return SECONDS[cell.stage] + cell.estimate * READ.factor
    if cell.stage == "train" and "stream" in cell.settings:
        passes = pass_seconds(study, trained_by(cell, saes))
        return passes * READ.factor + (cell.estimate - passes) * TRAINED.factor
    return cell.estimate * RATES[cell.stage].factor if cell.stage in RATES else cell.estimate


def _streams(cells: list[Cell], stage: str) -> bool:
    return stage == "train" and any("stream" in c.settings for c in cells if c.stage == stage)


def _row(stage: str, cells: int, card: float, taken: float, said: str) -> dict[str, object]:
    hours = {"card_hours": card / 3600, "hours": taken / 3600}
    return {"stage": stage, "cells": cells, **hours, "assumed_a_second": said}
