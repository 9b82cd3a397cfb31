"""The tables of the report: the grid, the agreement, the selections, the matchings, and what is missing.

Pure functions from polars frames (the artefact tables) to `cells.Table`. Every number on the page that a figure shows
is also in one of these tables. Reads nothing, draws nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from saelab.report import words
from saelab.report.cells import (
    BLANK,
    Column,
    PageTable,
    Strip,
    TableCell,
    TableRow,
    estimate,
    figure,
    heading,
    missing,
    percentage,
    text,
    with_like,
)
from saelab.report.names import Names

AXES = {"architecture": "Architecture", "level": "Sparsity level", "lm": "Language model"}
TITLES = {
    "reported": "as reported: one group per value of an axis, all else pooled",
    "matched": "matched: one axis varies within a group, the others are fixed",
}


def trained(metrics: pl.DataFrame, known: Mapping[str, tuple[str, float]], names: Names) -> PageTable:
    """Where the training of every SAE stands; known: (architecture, level) of an SAE."""
    columns = (
        Column("SAE", kind="text"),
        Column("Tokens seen"),
        Column("FVU"),
        Column("L0", "against target", room=6),
        Column("Dead", "of features"),
    )
    rows = []
    for row in metrics.sort("tokens").unique("sae", keep="last").sort("sae").iter_rows(named=True):
        name, level = known.get(row["sae"], ("", 0.0))
        l0 = words.finite(row["l0"])
        off = "" if l0 is None or not level else words.percent(l0 / level - 1, signed=True)
        cells = (
            text(row["sae"], swatch=names.swatch(name)),
            figure(row["tokens"], 0),
            figure(row["fvu"], 3),
            figure(l0, 1, note=off),
            percentage(row["dead_share"], 1),
        )
        rows.append(TableRow(cells))
    return PageTable("Where training stands, on batches of training text", columns, tuple(rows))


def overall(agreement: pl.DataFrame, names: Names) -> PageTable:
    """The overall tau of every pair of variables, with each of its intervals, read in words."""
    columns = (
        Column("Interpretability against", kind="text"),
        Column("n", "SAEs"),
        Column("τ", "95 % interval", room=12),
        Column("", kind="strip"),
        Column("p", "permutation"),
        Column("The interval", kind="text"),
    )
    rows = []
    whole = agreement.filter(pl.col("mode") == "overall")
    # A second kind of interval that does not exist (clusters of one LM) adds nothing to the first.
    again = pl.int_range(pl.len()).over("x", "y") > 0
    for row in whole.filter(~(again & pl.col("low").is_null())).iter_rows(named=True):
        name = names.variable(row["y"])
        if row["x"] != "interpretability":
            name += f" ({names.variable(row['x'])})"
        name += ", inside LMs" if row["statistic"] == "tau within" else ""
        cells = _tau_row(row, words.upper(name)).cells
        low, high = words.finite(row["low"]), words.finite(row["high"])
        if row["value"] is None or low is None or high is None:
            found = "does not exist"
        else:
            found = "is above zero" if low > 0 else "is below zero" if high < 0 else "includes zero"
        rows.append(TableRow((*cells[:5], text(found))))
    return PageTable("Agreement over all SAEs", columns, tuple(rows))


def agreements(agreement: pl.DataFrame, names: Names) -> list[PageTable]:
    """For every pair of variables its tables, as reported and matched. Only the first pair's are unfolded."""
    found: list[PageTable] = []
    for i, ((x, y), part) in enumerate(agreement.group_by("x", "y", maintain_order=True)):
        top = [_tau_row(r, "All SAEs", "total") for r in part.filter(pl.col("mode") == "overall").iter_rows(named=True)]
        for mode in ("reported", "matched"):
            inside = part.filter(pl.col("mode") == mode)
            if inside.height:
                rows = [*(top if mode == "reported" else []), *_axis_rows(inside, mode, names)]
                title = f"{names.variable(str(x))} against {names.variable(str(y))}, {TITLES[mode]}"
                found.append(PageTable(words.upper(title), _tau_columns(), tuple(rows), folded=i > 0 or len(rows) > 40))
    return found


def _tau_columns() -> tuple[Column, ...]:
    return (
        Column("Group", kind="text"),
        Column("n", "SAEs"),
        Column("τ", "95 % interval", room=12),
        Column("", kind="strip"),
        Column("p", "permutation"),
        Column("p Holm", "family-wise"),
        Column("p BH", "false discovery"),
    )


def _axis_rows(part: pl.DataFrame, mode: str, names: Names) -> Iterable[TableRow]:
    for (axis,), inside in part.filter(pl.col("statistic") != "Psi").group_by("axis", maintain_order=True):
        name = AXES.get(str(axis), words.upper(words.label(str(axis))))
        yield heading(name if mode == "reported" else f"{name} varies")
        taus = inside.filter(pl.col("statistic") == "tau")
        if taus.height > 1 and taus["value"].null_count() == taus.height:
            why = "; ".join(sorted({_no_tau(s) for s in taus["state"]}))
            sizes = f"{taus['n'].min()} to {taus['n'].max()}" if taus["n"].n_unique() > 1 else str(taus["n"][0])
            yield TableRow(
                (
                    text(f"All {words.number(taus.height, 0)} groups"),
                    TableCell(sizes),
                    missing(why, taus.height),
                    *[BLANK] * 4,
                )
            )
            continue
        for row in taus.iter_rows(named=True):
            parts = str(row["group"]).split(" / ")
            swatch = next((names.swatch(p) for p in parts if p in names.architectures), "")
            shown = " / ".join(_group(p, str(axis), mode, names) for p in parts)
            yield _tau_row(row, shown, swatch=swatch)
        for row in inside.filter(pl.col("statistic") == "psi").iter_rows(named=True):
            yield _tau_row(row, "ψ, mean of the groups", "total")
    for row in part.filter(pl.col("statistic") == "Psi").iter_rows(named=True):
        yield heading("All axes")
        yield _tau_row(row, "Ψ, mean of the ψ", "total")


def _no_tau(state: str) -> str:
    return "no SAE has both scores" if state == "missing" else words.reason(state, "SAEs")


def _group(value: str, axis: str, mode: str, names: Names) -> str:
    """A value of an axis as a group's name; a bare number is a level of L0."""
    is_level = axis == "level" if mode == "reported" else axis != "level"
    bare = value.removesuffix(".0")
    return f"L0 {bare}" if is_level and bare.isdecimal() else names.architecture(value)


def _tau_row(row: dict[str, Any], name: str, kind: str = "row", *, swatch: str = "") -> TableRow:
    n, why = int(row["n"] or 0), row.get("note") or _no_tau(row["state"])
    value, low, high = (words.finite(row[c]) for c in ("value", "low", "high"))
    unit, units = {"psi": ("group", "groups"), "Psi": ("axis", "axes")}.get(row["statistic"], ("", ""))
    method = str(row.get("interval_method") or row.get("p_method") or "") if row["mode"] == "overall" else ""
    cells = [text(name, method, swatch=swatch), TableCell(words.plural(n, unit, units) if unit else words.number(n, 0))]
    if value is None:
        cells += [missing(why), BLANK]
    else:
        note = "no interval" if low is None or high is None else words.interval(low, high)
        chance = (words.finite(row.get("null_low")), words.finite(row.get("null_high")))
        cells += [
            TableCell(words.number(value), note),
            TableCell("", kind="strip", strip=Strip(value, low, high, *chance)),
        ]
    cells += [_p(row.get(column)) for column in ("p", "p_holm", "p_bh")]
    return TableRow(tuple(cells), kind="total" if kind == "total" else "row")


def _p(value: Any) -> TableCell:
    """A cell for a p value; a test that was not made leaves it empty."""
    known = words.finite(value)
    return BLANK if known is None else TableCell(words.p_value(known))


def feature_level(table: pl.DataFrame, names: Names) -> PageTable:
    """Within SAEs: does a feature's score predict how it steers? Where tau and others are given, tau."""
    if "tau" in table["statistic"]:
        table = table.filter(pl.col("statistic") == "tau")
    columns = (
        Column("Predictor", kind="text"),
        Column("Of", kind="text"),
        Column("Correlation", "95 % interval", room=12),
        Column("", kind="strip"),
        Column("p", "permutation"),
        Column("p Holm", "family-wise"),
        Column("Features", "from", room=7),
    )
    regretful = "regret" in table.columns
    if regretful:
        columns = (*columns, Column("Top-1 regret", "of the steering score", room=12))
    rows = []
    for row in table.iter_rows(named=True):
        kind = "τ" if row["statistic"] == "tau" else str(row["statistic"])
        value, low, high = (words.finite(row[c]) for c in ("value", "low", "high"))
        note = "no interval" if low is None or high is None else words.interval(low, high)
        strip = BLANK if value is None else TableCell("", kind="strip", strip=Strip(value, low, high))
        rows.append(
            TableRow((
                text(words.upper(names.variable(row["predictor"])), kind),
                text(names.variable(row["response"])),
                with_like(figure(value, note=note, why=words.reason(row["state"], "features")), row, "like"),
                strip,
                _p(row.get("p")),
                _p(row.get("p_holm")),
                figure(row["n"], 0, note=words.plural(int(row["n_saes"] or 0), "SAE")),
                *([_regret(row)] if regretful else []),
            ))
        )  # fmt: skip
    return PageTable("Correlation of a feature's scores with how it steers", columns, tuple(rows))


def _regret(row: dict[str, Any]) -> TableCell:
    """What the feature ranked first loses against the SAE's best, beside what any feature loses."""
    if (value := words.finite(row["regret"])) is None:
        return BLANK
    low, high, chance = (words.finite(row[c]) for c in ("regret_low", "regret_high", "regret_chance"))
    span = "" if low is None or high is None else f"{words.interval(low, high)}, "
    return figure(value, note=span + ("" if chance is None else f"blindly {chance:.2f}"))


def selections(selection: pl.DataFrame, names: Names, *, told: bool = True) -> list[PageTable]:
    """The pooled criteria with their controls, then every SAE. told: scores are told from those without steering, else
    no gain is said in percent.
    """
    if not told:
        selection = selection.drop("gain").with_columns(gain=None)
    pooled = selection.filter(pl.col("sae") == "all")
    each = selection.filter(pl.col("sae") != "all")
    tables = []
    if pooled.height:
        tables.append(_selection("Steering score by arm, all SAEs", pooled, names, pooled=True))
    if each.height:
        tables.append(_selection("Steering score by arm, SAE by SAE", each, names, pooled=False))
    return tables


def _selection(caption: str, table: pl.DataFrame, names: Names, *, pooled: bool) -> PageTable:
    columns = (
        Column("Features chosen by", kind="text"),
        Column("Steering score", "95 % interval", room=12),
        Column("Gain", "over no selection", room=14),
        *([Column("Above unsteered", "paired over SAEs", room=14)] if pooled else []),
        Column("n", "features"),
        Column("Coverage", "of judgements"),
    )
    rows = []
    for (name,), part in table.group_by("sae", maintain_order=True):
        if not pooled:
            rows.append(heading(str(name)))
        rows += [TableRow(tuple(_selection_cells(r, names, pooled))) for r in part.iter_rows(named=True)]
    return PageTable(caption, columns, tuple(rows), folded=not pooled)


def _selection_cells(row: dict[str, Any], names: Names, pooled: bool) -> Iterable[TableCell]:
    why = words.reason(row["state"], "features")
    low, high = words.finite(row["low"]), words.finite(row["high"])
    yield text(words.upper(names.arm(row["arm"])))
    yield figure(
        row["score"], note="" if low is None or high is None else words.interval(low, high), why=why, n=row["n"] or 1
    )
    ends = [words.finite(row.get(c)) for c in ("gain_low", "gain_high")]
    span = "" if None in ends else "[" + ", ".join(words.percent(e, signed=True) for e in ends if e is not None) + "]"
    yield (
        BLANK if row["arm"] in names.arms_of("baseline") else percentage(row["gain"], signed=True, note=span, why=why)
    )
    if pooled:
        yield BLANK if row.get("over") is None else estimate(row, "over", why=why)
    yield figure(row["n"], 0)
    yield percentage(row.get("coverage"), why=why)
