"""The study's tables as text: Markdown, HTML or LaTeX, in the layout of arXiv 2510.03659 Tables 1 to 3.

Table 1 (interpretability against utility) and Table 3 (against the steering gain) are `agreement_table`; Table 2 (what
selection buys, per LM) is `selection_table`. Nothing is computed here: a null is a dash, with its state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import polars as pl

from saelab.core.errors import UserError
from saelab.stats.gains import RELATIVE
from saelab.stats.inputs import require

DASH = "–"
LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "τ": r"$\tau$", "ψ": r"$\psi$", "Ψ": r"$\Psi$",
    "–": "--", "−": "$-$", "<": "$<$", ">": "$>$",
}  # fmt: skip


@dataclass(frozen=True)
class TextTable:
    """Headers, rows of cells and a caption; `lines` are the row numbers above which a rule is drawn."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    lines: frozenset[int] = frozenset()

    def render(self, style: str = "markdown") -> str:
        """The table in one of the three styles; an unknown style is a `UserError`."""
        writers = {"markdown": _markdown, "html": _html, "latex": _latex}
        if style not in writers:
            raise UserError(f"There is no table style {style!r}.", hint=f"Valid: {', '.join(writers)}.")
        return writers[style](self)


def agreement_table(result: pl.DataFrame, *, mode: str = "reported") -> TextTable:
    """The paper's Table 1 or 3 from the frame of `agreement`: overall, groups by axis, psi per axis, Psi."""
    require(result, ["mode", "axis", "group", "statistic", "value", "p_holm", "null_low"])
    headers = ("Axis", "Group", "n", "Pairs", "τ_b", "95 % interval", "p", "p (Holm)", "Null, 95 %")
    rows: list[tuple[str, ...]] = []
    lines: set[int] = set()
    axis = None
    for row in result.filter(pl.col("mode").is_in(["overall", mode])).iter_rows(named=True):
        if row["axis"] != axis or row["statistic"] == "Psi":
            axis = row["axis"]
            lines.add(len(rows))
        rows.append(_agreement_row(row))
    names = "" if result.is_empty() else f"{result['x'][0]} against {result['y'][0]}, {mode} mode."
    return TextTable(headers, tuple(rows), names, frozenset(lines - {0}))


def selection_table(result: pl.DataFrame) -> TextTable:
    """The paper's Table 2 from the frame of `selection_gain`: mean score per arm and LM, and relative gain."""
    require(result, ["group", "arm", "against", "statistic", "value"])
    groups = result["group"].unique(maintain_order=True).to_list()
    scores = result.filter(pl.col("statistic") == "score")
    names = scores["arm"].unique(maintain_order=True).to_list()
    cells = {(r["group"], r["arm"]): r for r in scores.iter_rows(named=True)}
    gains = result.filter((pl.col("statistic") == RELATIVE) & (pl.col("against") == names[-1])) if names else result
    gained = {(r["group"], r["arm"]): r["value"] for r in gains.iter_rows(named=True)}
    rows: list[tuple[str, ...]] = []
    for name in [*names[-1:], *names[:-1]]:  # the baseline first
        row = [name]
        for group in groups:
            cell, gain = cells.get((group, name)), gained.get((group, name))
            shown = DASH if cell is None else _with_interval(cell)
            row.append(shown if gain is None else f"{shown} ({100 * gain:+.1f} %)")
        rows.append(tuple(row))
    caption = "Mean steering score over SAEs, 95 % interval, and relative gain over the first row."
    return TextTable(("Selection", *groups), tuple(rows), caption)


def number(value: float | None, digits: int = 3) -> str:
    """A number with a true minus, or a dash."""
    return DASH if value is None else f"{value:.{digits}f}".replace("-", "−")


def _agreement_row(row: dict[str, Any]) -> tuple[str, ...]:
    names = {"psi": "ψ", "Psi": "Ψ", "tau": row["group"], "tau within": f"{row['group']}, within"}
    group = names[row["statistic"]]
    if row["mode"] == "overall" and row["interval_method"]:
        group = f"{group}, {row['interval_method']}"
    value = number(row["value"]) if row["state"] == "ok" else f"{DASH} ({row['state'].replace('_', ' ')})"
    if row["se"] is not None and row["statistic"] == "psi":
        value += f" (SE {number(row['se'])})"
    pairs = DASH if row["pairs"] is None else str(row["pairs"])
    return (
        row["axis"] or ("overall" if row["mode"] == "overall" else ""), group, str(row["n"]), pairs, value,
        _interval(row["low"], row["high"]), _p(row["p"]), _p(row["p_holm"]),
        _interval(row["null_low"], row["null_high"]),
    )  # fmt: skip


def _with_interval(cell: dict[str, Any]) -> str:
    if cell["low"] is None:
        return number(cell["value"])
    return f"{number(cell['value'])} {_interval(cell['low'], cell['high'])}"


def _interval(low: float | None, high: float | None) -> str:
    return DASH if low is None or high is None else f"[{number(low)}, {number(high)}]"


def _p(value: float | None) -> str:
    if value is None:
        return DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _markdown(table: TextTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"

    body = [line(table.headers), "|" + "---|" * len(table.headers), *map(line, table.rows)]
    return "\n".join([*([table.caption, ""] if table.caption else []), *body]) + "\n"


def _html(table: TextTable) -> str:
    head = "".join(f"<th>{escape(h)}</th>" for h in table.headers)
    body: list[str] = []
    for i, row in enumerate(table.rows):
        mark = ' class="rule"' if i in table.lines else ""
        body.append(f"<tr{mark}>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>")
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(body) + "\n</tbody></table>\n"


def _latex(table: TextTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join("".join(LATEX.get(c, c) for c in cell) for cell in cells) + r" \\"

    body: list[str] = []
    for i, row in enumerate(table.rows):
        body += [r"\midrule"] * (i in table.lines) + [line(row)]
    parts = [r"\begin{tabular}{" + "l" * len(table.headers) + "}", r"\toprule", line(table.headers), r"\midrule"]
    parts += [*body, r"\bottomrule", r"\end{tabular}"]
    caption = [rf"\caption{{{''.join(LATEX.get(c, c) for c in table.caption)}}}"] if table.caption else []
    return "\n".join([r"\begin{table}", r"\centering", *caption, *parts, r"\end{table}"]) + "\n"
