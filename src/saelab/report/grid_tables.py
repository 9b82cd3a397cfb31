"""The tables of the SAEs themselves: what each one is and reached, and what steering with its features was worth.

Pure functions from polars frames (the artefact tables) to `cells.Table`. Reads nothing, draws nothing.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import polars as pl

from saelab.instrument.readers import OUTCOMES
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
    percentage,
    text,
)
from saelab.report.names import Names, anchors


def measured(
    saes: pl.DataFrame, names: Names, adopted: Collection[str] = (), cards: Mapping[str, str] | None = None
) -> PageTable:
    """Every SAE: what it is and what it reached; a random dictionary of the same L0 beside it.

    adopted: SAEs that go by a name of their own, which stands beside their architecture. cards: the id of an SAE's
    first card, to which its row leads.
    """
    ids, cards = anchors(saes), cards or {}
    untrained, embedded = (_known(saes, c) for c in ("random_interpretability", "embedding_auroc"))
    stable = _known(saes, "stability")
    columns = (
        Column("SAE", kind="text"),
        Column("L0", "against target", room=6),
        Column("FVU", "random", room=5),
        Column("CE recovered", "random", room=5),
        Column("Dead", "of features"),
        Column("Interpretability", "95 % interval", room=12),
        *([Column("Random", "interpretability")] if untrained else []),
        *([Column("By embedding", "AUROC, random", room=5)] if embedded else []),
        *([Column("Stability", "over seeds, chance", room=8)] if stable else []),
        Column("Features", "scored", room=9),
    )

    def row_of(row: dict[str, Any]) -> TableRow:
        first = replace(_named(row, names, adopted), link=cards.get(row["sae"], ""))
        if row.get("state") in (None, "ok"):
            rest = tuple(_fidelity(row)) + tuple(_described(row, untrained=untrained, embedded=embedded, stable=stable))
        else:
            rest = (text("not scored", words.reason(row["state"])), *[BLANK] * (len(columns) - 2))
        return TableRow((first, *rest), id=ids[row["sae"]])

    return PageTable("The grid: fidelity and interpretability of every SAE", columns, _by_site(saes, names, row_of))


def steered(saes: pl.DataFrame, names: Names, adopted: Collection[str] = ()) -> PageTable | None:
    """The SAEs that were steered with and what that was worth, with intervals; None where none was."""
    outcomes, rated = tuple(o for o in OUTCOMES if _known(saes, o)), _known(saes, "utility")
    own = saes.filter(pl.col("n_steered").is_not_null()) if "n_steered" in saes.columns else saes.clear()
    if not own.height or not (outcomes or rated):
        return None
    columns = (
        Column("SAE", kind="text"),
        *(Column(words.upper(o.replace("_", " ")), "percentile, chance 0.5", room=12) for o in outcomes),
        *(Column(f"Lift, {o.replace('_', ' ')}", "less random dictionary", room=14) for o in outcomes[:1]),
        *([Column("KL", "nats a token"), Column("Moved", "share of norm")] if outcomes else []),
        *([Column("Utility", "ratings, 95 % interval", room=12)] if rated else []),
        Column("Features", "steered", room=9),
    )

    def row_of(row: dict[str, Any]) -> TableRow:
        return TableRow((_named(row, names, adopted), *_steering(row, outcomes, rated=rated)))

    return PageTable("The grid: steering with features of every SAE", columns, _by_site(own, names, row_of))


def _known(saes: pl.DataFrame, column: str) -> bool:
    """Whether there is anything in a column."""
    return column in saes.columns and saes[column].null_count() < saes.height


def _by_site(saes: pl.DataFrame, names: Names, row_of: Callable[[dict[str, Any]], TableRow]) -> tuple[TableRow, ...]:
    """A row per SAE in the grid's order, under a heading for every LM, site, width and length of training."""
    rows, place = [], None
    for row in names.in_grid_order(saes).iter_rows(named=True):
        here = (row["lm"], row["site"], row.get("width"), row.get("steps"))
        if here != place:
            place = here
            width = "" if row.get("width") is None else f"{words.number(row['width'], 0)} features"
            steps = "" if row.get("steps") is None else f"{words.number(row['steps'], 0)} steps of training"
            rows.append(heading(", ".join(filter(None, here[:2])), ", ".join(filter(None, (width, steps)))))
        rows.append(row_of(row))
    return tuple(rows)


def _named(row: dict[str, Any], names: Names, adopted: Collection[str]) -> TableCell:
    name, level = row["architecture"], row["level"]
    shown = names.architecture(name) + ("" if level is None else f"\u00a0{level:g}")
    note = row["sae"] if row["sae"] in adopted else (row.get("control") or "").replace("_", " ")
    return text(shown, note, swatch=names.swatch(name), title=row["sae"])


def _fidelity(row: dict[str, Any]) -> Iterator[TableCell]:
    level, l0 = row["level"], words.finite(row["l0"])
    off = "" if l0 is None or not level else words.percent(l0 / level - 1, signed=True)
    yield figure(l0, 1, note=off, why="fidelity was not measured")
    for measure in ("fvu", "ce_recovered"):
        random = words.finite(row.get(f"random_{measure}"))
        beside = "" if random is None else words.number(random)
        yield figure(row[measure], 3, note=beside, why="fidelity was not measured")
    yield percentage(row.get("dead_share"), 1, why="not measured")


def _described(row: dict[str, Any], *, untrained: bool, embedded: bool, stable: bool) -> Iterator[TableCell]:
    none = "no feature was scored"
    yield estimate(row, "interpretability", why=none)
    if untrained:
        yield figure(row["random_interpretability"], why=none)
    if embedded:
        beside = words.finite(row["random_embedding_auroc"])
        yield figure(row["embedding_auroc"], note="" if beside is None else words.number(beside), why=none)
    if stable:
        beside = words.finite(row["random_stability"])
        yield figure(row["stability"], note="" if beside is None else words.number(beside), why="trained once")
    yield TableCell(words.number(int(row.get("n_scored") or 0), 0))


def _steering(row: dict[str, Any], outcomes: Iterable[str], *, rated: bool) -> Iterator[TableCell]:
    few, lost = "too few features could be read", int(row.get("n_missing") or 0)
    for outcome in outcomes:
        yield estimate(row, outcome, why=few)
    for outcome in tuple(outcomes)[:1]:
        less = words.finite(row[f"{outcome}_less"])
        yield figure(row[f"{outcome}_lift"], note="" if less is None else words.number(less, signed=True), why=few)
        yield figure(row["kl_per_token"], why=few)
        yield figure(row["share"], why=few)
    if rated:
        yield estimate(row, "utility", why="no feature has a complete score", n=max(lost, 1))
    note = f"missing ({words.number(lost, 0)})" if lost else ""
    yield TableCell(words.number(int(row["n_steered"]), 0), note)
