"""The table of SAEBench's suite: a row per SAE, a column per evaluation, what is missing in words.

Pure functions from polars frames to `cells.Table`. Reads nothing, draws nothing.
"""

from typing import Any

import polars as pl

from saelab.interp.suite.catalogue import headlines
from saelab.report import words
from saelab.report.cells import Column, PageTable, TableCell, TableRow, figure, heading, text
from saelab.report.names import Names


def suite(
    evaluations: pl.DataFrame, saes: pl.DataFrame | None, names: Names, published: pl.DataFrame | None = None
) -> PageTable:
    """evaluations: (sae, kind, metric, value, preset, reason); saes: the grid, which gives names and order.

    published: rows of others' files, which stand below as they are.
    """
    there = set(evaluations.select("kind", "metric").iter_rows())
    shown = [(kind, h) for kind, h in headlines() if (kind, h.metric) in there]
    columns = [Column("SAE", kind="text")]
    columns += [Column(h.title, f"{h.hint}, {'↑' if h.better == 'higher' else '↓'}") for _, h in shown]
    found = {(row["sae"], row["kind"], row["metric"]): row for row in evaluations.iter_rows(named=True)}
    rows, place, known = [], None, set(evaluations["sae"].to_list())
    for sae in _named(saes, known, names):
        here = (sae.get("lm"), sae.get("site"))
        if here != place and any(here):
            place = here
            rows.append(heading(f"{here[0]}, {here[1]}"))
        cells = [_figure(found.get((sae["sae"], kind, h.metric))) for kind, h in shown]
        rows.append(TableRow((_name(sae, names), *cells)))
    if published is not None and published.height:
        rows.append(heading("As published, by others"))
        theirs = {(r["sae"], r["kind"], r["metric"]): r for r in published.iter_rows(named=True)}
        for sae in published["sae"].unique(maintain_order=True):
            cells = [_figure(theirs.get((sae, kind, h.metric)), "not in the files") for kind, h in shown]
            rows.append(TableRow((text(sae), *cells)))
    return PageTable("SAEBench's evaluations of every SAE", tuple(columns), tuple(rows))


def differing(published: pl.DataFrame) -> PageTable:
    """Where the settings of published results are not those of this run: such figures are of two measures."""
    columns = tuple(Column(title, kind="text") for title in ("Evaluation", "SAEs", "Settings that differ"))
    groups = published.group_by("kind", "differs", maintain_order=True).agg(pl.col("sae").unique(maintain_order=True))
    rows = []
    for kind, said, saes in groups.iter_rows():
        what = "not evaluated here" if said is None else said or "none"
        rows.append(TableRow((text(kind), text(words.listing(saes)), text(what))))
    return PageTable("Settings of the published results against those used here", columns, tuple(rows))


def _named(saes: pl.DataFrame | None, known: set[str], names: Names) -> list[dict[str, Any]]:
    """The SAEs with results, in the order of the grid where there is one."""
    rows = [] if saes is None else [r for r in names.in_grid_order(saes).iter_rows(named=True) if r["sae"] in known]
    return rows + [{"sae": name} for name in sorted(known - {r["sae"] for r in rows})]


def _name(sae: dict[str, Any], names: Names) -> TableCell:
    if sae.get("architecture") is None:
        return text(sae["sae"])
    name = sae["architecture"]
    return text(f"{names.architecture(name)} {sae['level']:g}", swatch=names.swatch(name), title=sae["sae"])


def _figure(row: dict[str, Any] | None, absent: str = "not evaluated") -> TableCell:
    if row is None:
        return figure(None, why=absent)
    return figure(row["value"], 3, why=row["reason"] or "no value was recorded")
