"""The section on SAEs that were not trained in this study: where each came from, how it was read, what is not scored.

Pure functions of the run's summary. Knows no file and no format.
"""

from typing import Any

import polars as pl

from saelab.report import words
from saelab.report.cells import Column, PageTable, TableRow, estimate, figure, text
from saelab.report.material import Material
from saelab.report.parts import Part, Section

FOLDED = 12  # pairs, above which the table is opened by a click
OVERLAPS = {"same_source": "the source of this study's text", "another_source": "not this study's source"}


def adopted_of(material: Material) -> list[dict[str, Any]]:
    """The records of the SAEs that were adopted."""
    return list(material.summary.get("adopted") or [])


def all_adopted(material: Material) -> bool:
    """Whether the run is of several SAEs that exist, and trains none."""
    names = {r["sae"] for r in adopted_of(material)}
    return len(names) > 1 and material.saes is not None and set(material.saes["sae"]) <= names


def adopted(material: Material) -> Section:
    """A row per SAE: its source, level, language model, and the verdict on its conventions."""
    rows = adopted_of(material)
    columns = (
        Column("SAE", "source", kind="text"),
        Column("L0", "level, and whence", room=14),
        Column("FVU", room=5),
        Column("Trained on", "language model and text, in its files", kind="text"),
        Column("Its conventions", kind="text"),
    )
    table = PageTable("SAEs that were adopted", columns, tuple(TableRow(tuple(_cells(row))) for row in rows))
    lost = sum(row["state"] != "ok" for row in rows)
    lead = (
        "These SAEs were not trained here. Each was read as its files (or the study) say, and held on held-out text "
        "against other conventions for the same weights. Whether they were trained on that very text is not known: "
        "texts of one source may share documents."
    )
    if lost:
        lead += f" {words.plural(lost, 'SAE')} of {len(rows)} could not be adopted and has no scores."
    parts = [Part("table", table)]
    if material.compared is not None and material.compared.height:
        parts.append(Part("table", pairs(material.compared)))
    return Section("adopted", "SAEs from elsewhere", lead, tuple(parts))


def pairs(compared: pl.DataFrame) -> PageTable:
    """Every pair of SAEs of a site by every aspect: the difference with its interval, and which is better."""
    columns = (
        Column("Aspect", kind="text"),
        Column("First", kind="text"),
        Column("Second", kind="text"),
        Column("First less second", "95 % interval", room=16),
        Column("Better", kind="text"),
    )
    rows = []
    for row in compared.iter_rows(named=True):
        ends = {"difference_low": row["low"], "difference_high": row["high"]}
        unlike = "" if row["first_l0"] is None else f"L0 {row['first_l0']:.1f}, {row['second_l0']:.1f}"
        cells = [text(row["aspect"], unlike), text(row["first"]), text(row["second"])]
        cells.append(estimate(row | ends, "difference", 3, why=words.reason(row["state"])))
        rows.append(TableRow((*cells, text(row["better"] or "cannot be told"))))
    return PageTable("Which is better at what, pair by pair", columns, tuple(rows), folded=compared.height > FOLDED)


def _cells(row: dict[str, Any]) -> list[Any]:
    lost = "" if row["state"] == "ok" else f"{words.upper(words.reason(row['state']))}. "
    level = "" if row["level"] is None else f"{row['level']} {row['level_from'] or ''}".strip()
    forced = "another LM, as asked (force_lm)" if row["forced_lm"] else ""
    source = ", ".join(filter(None, (row.get("text") or "text not said", OVERLAPS.get(row.get("overlap", ""), ""))))
    doubt = "scored as read all the same (as_read)" if row["doubted"] else ""
    said = ", ".join(f"{name} {value}" for name, value in row["declared"].items())
    return [
        text(row["sae"], row["reference"] + (f"; declared: {said}" if said else "")),
        figure(row["l0"], 1, note=level, why="not measured"),
        figure(row["fvu"], 3, why="not measured"),
        text(row["lm"] or "LM not said", "; ".join(filter(None, (source, forced)))),
        text(lost + (row["sentence"] or "not measured"), doubt),
    ]
