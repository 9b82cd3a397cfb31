"""The parts of a table on the page: cells, rows, columns, and the strip that draws an interval on a fixed scale.

Frozen records with text already in words; a template only lays them out. A missing value is a cell of its own kind with
its count and reason, and no other cell can be made from one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from saelab.report import words


@dataclass(frozen=True)
class Strip:
    """A dot with its interval, over the range of chance, on a scale from -1 to 1 (as percent of the width)."""

    value: float
    low: float | None
    high: float | None
    null_low: float | None = None
    null_high: float | None = None

    @staticmethod
    def place(value: float | int) -> str:
        """Where a value lies on the scale, in percent of its width."""
        return f"{50 + 50 * max(-1.0, min(1.0, value)):.1f}"

    @staticmethod
    def span(low: float | int, high: float | int) -> str:
        """Width of an interval, in percent of the scale."""
        return f"{50 * (min(1.0, high) - max(-1.0, low)):.1f}"


@dataclass(frozen=True)
class TableCell:
    """One cell: its text, a smaller note after it and one under it, and at most one ornament.

    kind "missing" is printed as words. swatch is a CSS class of `Names` (a colour before the text), title a hover
    text, link the id of what on the page the text leads to.
    """

    text: str
    note: str = ""
    kind: Literal["text", "number", "missing", "strip"] = "number"
    swatch: str = ""
    title: str = ""
    link: str = ""
    under: str = ""
    strip: Strip | None = None


@dataclass(frozen=True)
class TableRow:
    """A row; "heading" rows span the table, "total" rows stand out."""

    cells: tuple[TableCell, ...]
    kind: Literal["row", "heading", "total"] = "row"
    id: str = ""  # by which figures lead to it


@dataclass(frozen=True)
class Column:
    """A column's label, what it means (shown small beneath it), and how its cells are set.

    room: width kept for the notes of its cells, in characters, so that numbers stand under each other.
    """

    label: str
    hint: str = ""
    kind: Literal["text", "number", "strip"] = "number"
    room: int = 0


@dataclass(frozen=True)
class PageTable:
    """A table with its caption; `folded` ones open on a click."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    folded: bool = False


BLANK = TableCell("", kind="text")


def missing(reason: str, n: int = 1) -> TableCell:
    """A cell for n values that do not exist, and why."""
    return TableCell(f"missing ({words.number(n, 0)})", note=reason, kind="missing")


def text(value: str, note: str = "", *, swatch: str = "", title: str = "", link: str = "") -> TableCell:
    """A cell of words."""
    return TableCell(value, note, kind="text", swatch=swatch, title=title, link=link)


def figure(
    value: object, digits: int = 2, *, note: str = "", why: str = "no value was recorded", n: int = 1
) -> TableCell:
    """A cell for a number, or for its absence: n values are missing, and why."""
    known = words.finite(value)
    return missing(why, n) if known is None else TableCell(words.number(known, digits), note)


def percentage(value: object, digits: int = 0, *, signed: bool = False, note: str = "", why: str = "") -> TableCell:
    """A cell for a share, as percent."""
    known = words.finite(value)
    if known is None:
        return missing(why or "no value was recorded")
    return TableCell(words.percent(known, digits, signed=signed), note)


def estimate(row: dict, name: str, digits: int = 2, *, why: str, n: int = 1) -> TableCell:
    """A cell for `name` with the interval in `name`_low and `name`_high where there is one."""
    low, high = words.finite(row.get(f"{name}_low")), words.finite(row.get(f"{name}_high"))
    note = "" if low is None or high is None else words.interval(low, high, digits)
    return figure(row.get(name), digits, note=note, why=why, n=n)


def heading(value: str, note: str = "") -> TableRow:
    """A row that names the rows below it."""
    return TableRow((text(value, note),), kind="heading")


def with_like(cell: TableCell, row: Mapping[str, Any], name: str, digits: int = 2) -> TableCell:
    """A cell with the interval of SAEs (or LMs) like these under it, where the row has one (NAME_low, NAME_high)."""
    return _with_under(cell, row, name, "like these", digits)


def with_prompts(cell: TableCell, row: Mapping[str, Any], name: str, digits: int = 2) -> TableCell:
    """A cell with the interval of prompts like these under it, where the row has one (NAME_low, NAME_high)."""
    return _with_under(cell, row, name, "prompts like these", digits)


def _with_under(cell: TableCell, row: Mapping[str, Any], name: str, of: str, digits: int) -> TableCell:
    low, high = (words.finite(row.get(f"{name}_{end}")) for end in ("low", "high"))
    if low is None or high is None:
        return cell
    return replace(cell, under="; ".join(filter(None, [cell.under, f"{of} {words.interval(low, high, digits)}"])))
