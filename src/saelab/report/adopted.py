"""The section on SAEs that were not trained in this study: where each came from, how it was read, what is not scored.

Pure functions of the run's summary. Knows no file and no format of checkpoints.
"""

from typing import Any

from saelab.report import words
from saelab.report.cells import Column, PageTable, TableRow, figure, text
from saelab.report.material import Material
from saelab.report.parts import Part, Section

LEVELS = {"declared": "as declared", "stated": "as its files say", "measured": "measured here"}


def adopted_of(material: Material) -> list[dict[str, Any]]:
    """The records of the SAEs that were adopted."""
    return list(material.summary.get("adopted") or [])


def adopted(material: Material) -> Section:
    """A row per SAE: its source, level, language model, and the verdict on its reading."""
    rows = adopted_of(material)
    columns = (
        Column("SAE", kind="text"),
        Column("Source", kind="text"),
        Column("State", kind="text"),
        Column("Level", "from", room=10),
        Column("L0", "on held-out text", room=6),
        Column("FVU", room=5),
        Column("Language model", "in its files", kind="text"),
        Column("Its reading", kind="text"),
    )
    table = PageTable("SAEs that were adopted", columns, tuple(TableRow(tuple(_cells(row))) for row in rows))
    lost = sum(row["state"] != "ok" for row in rows)
    lead = (
        "These SAEs were not trained here. Each was read as its files (or the study) say, and held on held-out text "
        "against other readings of the same weights. Whether they were trained on that text is not known."
    )
    if lost:
        lead += f" {words.plural(lost, 'SAE')} of {len(rows)} could not be adopted and has no scores."
    return Section("adopted", "SAEs from elsewhere", lead, (Part("table", table),))


def _cells(row: dict[str, Any]) -> list[Any]:
    state = "scored" if row["state"] == "ok" else words.reason(row["state"])
    own = row["lm"] or "not said"
    forced = "another one, as asked (force_lm)" if row["forced_lm"] else ""
    doubt = "scored as read all the same (as_read)" if row["doubted"] else ""
    said = ", ".join(f"{name} {value}" for name, value in row["declared"].items())
    return [
        text(row["sae"]),
        text(row["reference"], f"declared: {said}" if said else ""),
        text(state),
        figure(row["level"], 0, note=LEVELS.get(row["level_from"], "")),
        figure(row["l0"], 1, why="not measured"),
        figure(row["fvu"], 3, why="not measured"),
        text(own, forced),
        text(row["sentence"] or "not measured", doubt),
    ]
