"""The section on hard baselines: which scores tell SAEs from frozen ones, and a language model from its shuffle.

Pure functions of the table `baselines` (study/baselines.py). Reads nothing.
"""

from typing import Any

import polars as pl

from saelab.interp.suite.catalogue import headlines
from saelab.report import words
from saelab.report.cells import Column, PageTable, TableRow, estimate, figure, heading, text
from saelab.report.names import Names
from saelab.report.parts import Part, Section

CONTROLS = {
    "frozen_decoder": "SAEs whose decoder stays as it was drawn",
    "frozen_encoder": "SAEs whose encoder stays as it was drawn",
    "frozen_soft": "SAEs whose decoder rows stay near where they were drawn",
    "frozen_principal": "dictionaries of principal directions",
    "shuffled_weights": "SAEs of the language model with shuffled weights",
}
OF_SAES = {"fvu": "FVU", "ce_recovered": "CE recovered", "dead_share": "share of dead features"}
LOWER_IS_BETTER = ("fvu", "dead_share", *(f"suite: {h.title}" for _, h in headlines() if h.better == "lower"))


def section(table: pl.DataFrame, names: Names) -> Section:
    """A sentence and a block of rows per control."""
    lead = (
        "Each SAE beside one of the same place that was not trained in full, or whose language model has learnt "
        "nothing. A score that does not tell the two apart does not show learning. Intervals are 95 %, each of its own "
        "score."
    )
    said = tuple(Part("callout", sentence) for sentence in sentences(table, names))
    return Section(
        "baselines", "Which scores tell trained from frozen", lead, (*said, Part("table", _table(table, names)))
    )


def sentences(table: pl.DataFrame, names: Names) -> list[str]:
    """Of each control: the scores that tell SAEs from it as better or as worse, those that do not, and those of which
    nothing can be said.
    """
    found = []
    better = (pl.col("difference") < 0) == pl.col("score").is_in(LOWER_IS_BETTER)
    kinds = {
        "told as better by": pl.col("told") & better,
        "told as worse by": pl.col("told") & ~better,
        "not told by": ~pl.col("told"),
        "unknown for": pl.col("told").is_null(),
    }
    for (name,), rows in table.group_by("control", maintain_order=True):
        by = {said: [_score(s, names) for s in rows.filter(kept)["score"]] for said, kept in kinds.items()}
        clauses = [f"{said} {words.listing(shown)}" for said, shown in by.items() if shown]
        found.append(f"From {_control(name)}, trained SAEs are {'; '.join(clauses)}.")
    return found


def _control(name: object) -> str:
    return CONTROLS.get(str(name), str(name).replace("_", " "))


def _score(name: str, names: Names) -> str:
    if name.startswith("suite: "):
        return name.removeprefix("suite: ")
    if name.endswith("_lift"):
        return f"lift, {names.variable(name.removesuffix('_lift'))}"
    return OF_SAES.get(name) or names.variable(name)


def _table(table: pl.DataFrame, names: Names) -> PageTable:
    columns = (
        Column("Score", kind="text"),
        Column("Trained"),
        Column("Control"),
        Column("Trained less control", "95 % interval", room=16),
        Column("Pairs", "of SAEs"),
        Column("Tells them apart", kind="text"),
    )
    rows = []
    for (name,), part in table.group_by("control", maintain_order=True):
        rows.append(heading(words.upper(_control(name))))
        rows += [_row(row, names) for row in part.iter_rows(named=True)]
    return PageTable("Trained SAEs less their controls, score by score", columns, tuple(rows))


def _row(row: dict[str, Any], names: Names) -> TableRow:
    ends = {"difference_low": row["low"], "difference_high": row["high"]}
    told = {True: "yes", False: "not told"}.get(row["told"], "cannot be told")
    cells = [text(_score(row["score"], names), row["method"] or "")]
    cells += [figure(row[side], 3) for side in ("trained", "untrained")]
    cells.append(estimate(row | ends, "difference", 3, why=words.reason(row["state"], "pairs")))
    return TableRow((*cells, figure(row["saes"], 0), text(told)))
