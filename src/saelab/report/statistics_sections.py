"""What settles the questions about tau, as tables: change by selection, partial tau, regression, noise, tiers.

Pure functions from the study's table `questions` to parts of a section. Reads nothing.
"""

from collections.abc import Iterable
from typing import Any

import polars as pl

from saelab.report import words
from saelab.report.cells import BLANK, Column, PageTable, TableCell, TableRow, estimate, text
from saelab.report.names import Names
from saelab.report.parts import Part

TITLES = {
    "change": "Does selecting features change τ? (less τ with as many random features, over the same SAEs)",
    "partial": "Is it L0 or reconstruction? (partial τ of interpretability, given these)",
    "regression": "Ranks of how SAEs steer on ranks of interpretability, L0 and FVU together",
    "noise": "Is it noise? (reliability of the scores; τ as observed and without noise)",
    "tier": "The best tail of each score of a feature: chosen on half of the prompts, its gain on the others",
}
FIRST = {"change": "Features chosen by", "tier": "Score", "noise": "Of", "partial": "Given", "regression": "Term"}


def parts(table: pl.DataFrame | None, names: Names) -> list[Part]:
    """A heading and a folded table per question; nothing where the study has not asked them."""
    if table is None or table.is_empty():
        return []
    found = [Part("heading", "What could explain it")]
    for question, title in TITLES.items():
        own = table.filter(pl.col("question") == question)
        if own.height:
            found.append(Part("table", _table(question, title, own, names)))
    return found


def _table(question: str, title: str, own: pl.DataFrame, names: Names) -> PageTable:
    columns = (
        Column(FIRST[question], kind="text"),
        Column("Outcome", kind="text"),
        Column("Value", "95 % interval", room=14),
        Column("p"),
        Column("p Holm", "family-wise"),
        Column("n"),
        Column("How", kind="text"),
    )
    rows = [TableRow(tuple(_row(question, r, names))) for r in own.iter_rows(named=True)]
    return PageTable(title, columns, tuple(rows), folded=True)


def _row(question: str, row: dict[str, Any], names: Names) -> Iterable[TableCell]:
    said = {"change": names.arm, "tier": names.variable, "regression": names.variable}.get(question, str)
    about = row["about"] if question == "noise" else said(row["about"])
    about = about.replace("l0", "L0").replace("fvu", "FVU")
    ends = {"value": row["value"], "value_low": row["low"], "value_high": row["high"]}
    yield text(words.upper(about))
    yield text(names.variable(row["y"]))
    yield estimate(ends, "value", 3 if question == "tier" else 2, why=words.reason(row["state"], "SAEs"))
    for column in ("p", "p_holm"):
        known = words.finite(row[column])
        yield BLANK if known is None else TableCell(words.p_value(known))
    yield TableCell(words.number(row["n"], 0))
    how = "; ".join(dict.fromkeys(v for v in (row["interval_method"], row["p_method"], row["note"]) if v))
    if question == "tier" and row["null_low"] is not None:
        how += f"; shuffled {words.interval(row['null_low'], row['null_high'], 3)}"
    yield text(how)
