"""All features as a table: the page that holds it, and the rows that it asks for as it is scrolled.

Must never know how it is served.
"""

from collections.abc import Mapping
from typing import Any

from saelab.core.errors import UserError
from saelab.explore.columns import IndexColumn, columns_of
from saelab.explore.drawing import Shown, shown
from saelab.explore.index import INTEREST, Filter
from saelab.explore.links import Links
from saelab.explore.opened import Missing
from saelab.explore.pages import script_data
from saelab.explore.session import Session
from saelab.report.words import listing, percent, plural, visible

MOST = 500  # rows of one answer
NAMED = 3  # SAEs that a line names
SHARES = ("density",)  # columns that are read, and filtered, as percent
NUMBER = "number"  # the order of features' numbers, beside those of columns


def browse_page(session: Session, links: Links) -> Shown:
    """What the template of the table prints."""
    index = session.index
    columns = columns_of(index)
    known = [
        {"name": c.name, "label": c.label, "about": c.about, "numeric": c.numeric, "share": c.name in SHARES,
         "shown": c.shown}
        for c in columns
    ]  # fmt: skip
    setup = {"columns": known, "several": len(session.names) > 1}
    return {
        "title": "Features", "saes": session.names, "columns": columns, "shares": SHARES,
        "missing": _missing(session), "number": NUMBER,
        "total": plural(index.table.height, "feature"), "setup": script_data(setup),
    }  # fmt: skip


def _missing(session: Session) -> list[Shown]:
    """What there is nothing of, a line for all SAEs that lack it."""
    found = dict[tuple[str, str], list[Missing]]()
    for one in session.explored.missing:
        found.setdefault((one.what, one.why), []).append(one)
    lines = []
    for (what, why), lacking in found.items():
        names, commands = listing([m.sae for m in lacking[:NAMED]]), list(dict.fromkeys(m.command for m in lacking))
        who = names if len(lacking) <= NAMED else f"{plural(len(lacking), 'SAE')} ({lacking[0].sae} and others)"
        made = "Made by" if len(commands) == 1 else "Made, of each by itself, as by"
        lines.append({"said": " ".join(filter(None, (f"No {what} of {who}.", why, made))), "command": commands[0]})
    return lines


def rows_of(session: Session, asked: Mapping[str, str], links: Links) -> dict[str, Any]:
    """Rows from `offset`, as many as `limit`. asked: q, sae, sort, desc, and of a column c: c.low, c.high, c.is."""
    index = session.index
    page = index.search(
        asked.get("q", "")[:200],
        sort=None if asked.get("sort") == NUMBER else asked.get("sort") or INTEREST,
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
    """The filters of an address; bounds of a share are in percent, as it is shown."""
    found: dict[str, Filter] = {"sae": (asked["sae"],)} if asked.get("sae") else {}
    for c in columns:
        unit = 100 if c.name in SHARES else 1
        low, high = (_number(asked, f"{c.name}.{end}", unit) for end in ("low", "high"))
        if c.numeric and (low is not None or high is not None):
            found[c.name] = (low, high)
        if asked.get(f"{c.name}.is") and c.numeric:
            raise UserError(f"{c.name} is a number.", hint=f"Filter it by {c.name}.low and {c.name}.high.")
        if asked.get(f"{c.name}.is"):
            found[c.name] = (asked[f"{c.name}.is"],)
    return found


def _number(asked: Mapping[str, str], name: str, unit: int = 1) -> float | None:
    try:
        return float(asked[name]) / unit if asked.get(name) else None
    except ValueError as error:
        raise UserError(f"{asked[name]!r} is no number to filter by.") from error


def whole(asked: Mapping[str, str], name: str, usual: int) -> int:
    """A whole number of an address; what is none, or has more than nine digits, is the usual one."""
    text = asked.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else usual
