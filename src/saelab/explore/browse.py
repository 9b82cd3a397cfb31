"""All features as a table: the page that holds it, and the rows that it asks for as it is scrolled.

Must never know how it is served.
"""

from collections.abc import Mapping
from typing import Any

from saelab.core.errors import UserError
from saelab.explore.columns import IndexColumn, columns_of
from saelab.explore.drawing import Shown, shown
from saelab.explore.index import Filter
from saelab.explore.links import Links
from saelab.explore.pages import script_data
from saelab.explore.session import Session
from saelab.report.words import percent, plural, visible

MOST = 500  # rows of one answer
SHARES = ("density",)  # columns that are read as percent


def browse_page(session: Session, links: Links) -> Shown:
    """What the template of the table prints."""
    index = session.index
    columns = columns_of(index)
    setup = {"columns": [{"name": c.name, "label": c.label, "about": c.about, "numeric": c.numeric,
                          "shown": c.shown} for c in columns], "several": len(session.names) > 1}  # fmt: skip
    missing = [
        {"said": f"{m.sae} has no {m.what}. {m.why} Made by".replace("  ", " "), "command": m.command}
        for m in session.explored.missing
    ]
    return {
        "title": "Features", "saes": session.names, "columns": columns, "missing": missing,
        "total": plural(index.table.height, "feature"), "setup": script_data(setup),
    }  # fmt: skip


def rows_of(session: Session, asked: Mapping[str, str], links: Links) -> dict[str, Any]:
    """Rows from `offset`, as many as `limit`. asked: q, sae, sort, desc, and of a column c: c.low, c.high, c.is."""
    index = session.index
    page = index.search(
        asked.get("q", "")[:200],
        sort=asked.get("sort") or None,
        descending=asked.get("desc", "1") == "1",
        filters=filters_of(asked, columns_of(index)),
        offset=whole(asked, "offset", 0),
        limit=min(MOST, whole(asked, "limit", 100)),
    )
    return {"total": page.total, "rows": [row_of(row, links) for row in page.rows]}


def row_of(row: Mapping[str, Any], links: Links) -> dict[str, Any]:
    """A row as it is shown: every value as text, with the address of its feature."""
    cells = {name: _cell(name, value) for name, value in row.items() if name not in ("sae", "feature")}
    sae, feature = row["sae"], row["feature"]
    return {"sae": sae, "feature": feature, "href": links.feature(sae, feature), "cells": cells}


def _cell(name: str, value: Any) -> str:
    if isinstance(value, str):
        return visible(value)
    if name in SHARES and value is not None:
        return percent(value, 3)
    return shown(value)


def filters_of(asked: Mapping[str, str], columns: list[IndexColumn]) -> dict[str, Filter]:
    """The filters of an address."""
    found: dict[str, Filter] = {"sae": (asked["sae"],)} if asked.get("sae") else {}
    for c in columns:
        low, high = (_number(asked, f"{c.name}.{end}") for end in ("low", "high"))
        if c.numeric and (low is not None or high is not None):
            found[c.name] = (low, high)
        if asked.get(f"{c.name}.is") and c.numeric:
            raise UserError(f"{c.name} is a number.", hint=f"Filter it by {c.name}.low and {c.name}.high.")
        if asked.get(f"{c.name}.is"):
            found[c.name] = (asked[f"{c.name}.is"],)
    return found


def _number(asked: Mapping[str, str], name: str) -> float | None:
    try:
        return float(asked[name]) if asked.get(name) else None
    except ValueError as error:
        raise UserError(f"{asked[name]!r} is no number to filter by.") from error


def whole(asked: Mapping[str, str], name: str, usual: int) -> int:
    """A whole number of an address; what is none, or has more than nine digits, is the usual one."""
    text = asked.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else usual
