"""The tables of what the instrument says: the gate's controls, every arm by both outcomes, and what can be told apart.

Pure functions from the study's tables (study/steering.py) to `cells.Table`. Reads nothing, draws nothing.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import polars as pl

from saelab.instrument.readers import CLASSES, RANDOM
from saelab.report import words
from saelab.report.cells import (
    BLANK,
    Column,
    PageTable,
    TableCell,
    TableRow,
    estimate,
    figure,
    heading,
    missing,
    text,
    with_like,
    with_prompts,
)
from saelab.report.names import Names

SETS = {CLASSES: "Known classes", RANDOM: "Features of random dictionaries"}
HOLDS = {True: "holds", False: "does not hold", None: ""}


def controls(table: pl.DataFrame, names: Names) -> PageTable:
    """The controls of every site's gate."""
    columns = (
        Column("What is steered with", kind="text"),
        Column("Outcome", kind="text"),
        Column("Lift", "95 % interval", room=14),
        Column("p", "exchanged readers"),
        Column("Asked for", kind="text"),
        Column("", kind="text"),
        Column("n", "features"),
    )
    rows = []
    for (lm, site), part in table.group_by("lm", "site", maintain_order=True):
        rows.append(heading(f"{lm}, {site}"))
        rows += [TableRow(tuple(_control(r, names))) for r in part.iter_rows(named=True)]
    return PageTable("The controls of the gate", columns, tuple(rows))


def _control(row: dict[str, Any], names: Names) -> Iterable[TableCell]:
    yield text(SETS.get(row["name"], words.upper(words.label(row["name"]))))
    yield text(names.variable(row["outcome"]))
    yield estimate(_ends(row, "value"), "value", why=words.reason(row["state"], "features"))
    yield BLANK if row["p"] is None else TableCell(words.p_value(row["p"]))
    bound = words.finite(row["bound"])
    side = "above" if row["name"] == CLASSES else "below"
    yield text("" if bound is None else f"{side} {words.number(bound)}")
    yield text(HOLDS[row["holds"]])
    yield TableCell(words.number(row["n"], 0))


def arms(table: pl.DataFrame, names: Names) -> list[PageTable]:
    """Every arm, a table per outcome."""
    columns = (
        Column("Features chosen by", kind="text"),
        Column("Lift", "over wrong readers", room=14),
        Column("Less random dictionary", "of the lift", room=14),
        Column("p", "Welch"),
        Column("Percentile", "chance 0.5", room=12),
        Column("Against no selection", "of the percentile", room=14),
        Column("p Holm", "permuted within SAEs"),
        Column("n", "features / SAEs", room=5),
    )
    found = []
    for (outcome,), part in table.group_by("outcome", maintain_order=True):
        rows = [TableRow(tuple(_arm(row, names))) for row in part.iter_rows(named=True)]
        found.append(PageTable(words.upper(names.variable(str(outcome))), columns, tuple(rows)))
    return found


def _arm(row: dict[str, Any], names: Names) -> Iterable[TableCell]:
    few = "too few SAEs"
    yield text(words.upper(names.arm(row["arm"])))
    yield estimate(row, "lift", why=few)
    yield _less(row, few)
    yield BLANK if row["less_p"] is None else TableCell(words.p_value(row["less_p"]))
    yield estimate(row, "percentile", why=few)
    base = row["arm"] in names.arms_of("baseline")
    against = with_like(estimate(row, "difference", 3, why=few), row, "difference_like", 3)
    yield BLANK if base else with_prompts(against, row, "difference_prompts", 3)
    yield BLANK if base or row["difference_p"] is None else TableCell(words.p_value(row["difference_p"]))
    yield TableCell(words.number(row["n"], 0), f"/ {words.number(row['n_saes'], 0)}")


def _less(row: dict[str, Any], few: str) -> TableCell:
    """The difference with the interval of these SAEs, and beneath it that of SAEs like these."""
    return with_like(estimate(row, "less", why=few), row, "less_like")


def spread(table: pl.DataFrame, names: Names) -> PageTable:
    """Whether SAEs are told apart by each score, and what could be."""
    columns = (
        Column("Score", kind="text"),
        Column("SAEs"),
        Column("Features", "per SAE"),
        Column("F", "1 without differences"),
        Column("p"),
        Column("Reliability", "of an SAE's mean"),
        Column("Standard error", "of an SAE's mean"),
        Column("Smallest difference", "between two SAEs, power 0.8"),
    )
    rows = []
    for row in table.iter_rows(named=True):
        name = row["score"].removesuffix("_lift")
        cells = [
            text(words.upper(names.variable(name)), "lift" if name != row["score"] else ""),
            TableCell(str(row["items"])),
        ]
        cells.append(figure(row["repeats"], 0))
        if row["state"] != "ok":
            cells += [missing(words.reason(row["state"], "SAEs")), *[BLANK] * 4]
        else:
            cells += [figure(row["f"]), TableCell(words.p_value(row["p"]))]
            cells.append(
                _over_prompts(figure(row["reliability"]), row.get("reliability_prompts"), "prompts like these", 2)
            )
            cells.append(_over_prompts(figure(row["se"], 3), row.get("prompt_se"), _few(row), 3))
            cells.append(figure(row["smallest"], 3))
        rows.append(TableRow(tuple(cells)))
    return PageTable("What the design can tell apart", columns, tuple(rows))


def _few(row: dict[str, Any]) -> str:
    """What few prompts add to a standard error, and whether that is told from nothing."""
    p = words.finite(row.get("prompt_p"))
    return f"{words.number(row.get('prompts') or 0, 0)} prompts add" + ("" if p is None else f" (p {words.p_value(p)})")


def _over_prompts(cell: TableCell, value: object, said: str, digits: int) -> TableCell:
    known = words.finite(value)
    return cell if known is None else replace(cell, under=f"{said} {words.number(known, digits)}")


def _ends(row: dict[str, Any], name: str) -> dict[str, Any]:
    """A row of an estimate as `cells.estimate` reads it."""
    return row | {f"{name}_low": row["low"], f"{name}_high": row["high"]}
