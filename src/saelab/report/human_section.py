"""The section on the human check: how often people find the steered text, and choose as the judges do.

Pure functions of `Material`; the table is what `saelab rate` kept (human/agreement.py). Must never know an answer.
"""

from collections.abc import Iterable
from typing import Any

import polars as pl

from saelab.report import words
from saelab.report.cells import BLANK, Column, PageTable, TableCell, TableRow, estimate, figure, text
from saelab.report.material import Material
from saelab.report.parts import Part, Section

ABSENT = "Nobody has read the steered texts blind: saelab rate on this folder asks a person and keeps the answers here."
STALE = "People have read other texts than this folder holds now: saelab rate --report says what still counts."


def human(material: Material) -> Section:
    """Agreement of every rater with every judge."""
    name, title, table = "human", "A human check", material.human
    if table is None or not table.height:
        return Section(name, title, "", absent=ABSENT)
    if set(table["texts"]) != {material.steered_texts}:
        return Section(name, title, "", absent=STALE)
    lead = (
        "Raters saw what a feature is about and two texts, one of them steered with it, without knowing which: chance "
        "is one half (0 for kappa). Two that find the steered text agree by that alone; only an interval above the "
        "share that follows from both hit rates is agreement on single texts. Intervals: 95 %, features as clusters."
    )
    return Section(name, title, lead, (Part("table", agreement(table)),))


def agreement(table: pl.DataFrame) -> PageTable:
    """A row per rater, comparison and group of trials."""
    columns = (
        Column("Rater", kind="text"),
        Column("What", kind="text"),
        Column("Of", kind="text"),
        Column("Share", "95 % interval", room=14),
        Column("By both hit rates"),
        Column("n", "a side was chosen"),
        Column("Neither"),
        Column("Says", kind="text"),
    )
    return PageTable("Raters and judges", columns, tuple(TableRow(tuple(_row(r))) for r in table.iter_rows(named=True)))


def _row(row: dict[str, Any]) -> Iterable[TableCell]:
    yield from (text(row[column]) for column in ("rater", "what", "of"))
    ends = {"value": row["value"], "value_low": row["low"], "value_high": row["high"]}
    yield estimate(ends, "value", why=row["says"])
    yield BLANK if row["by_hits"] is None else figure(row["by_hits"])
    yield from (BLANK if row[c] is None else TableCell(words.number(row[c], 0)) for c in ("n", "neither"))
    yield text(row["says"])
