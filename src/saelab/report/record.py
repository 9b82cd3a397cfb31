"""The section on what was run: language model, text, seeds, versions, time, and what of all scores is missing.

Pure functions of `Material`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from saelab.report import words
from saelab.report.cells import Column, PageTable, TableCell, TableRow, text
from saelab.report.material import Material
from saelab.report.parts import Part, Section


@dataclass(frozen=True)
class Fact:
    """A labelled value; `title` is the whole of a value that was shortened."""

    label: str
    value: str
    title: str = ""


@dataclass(frozen=True)
class FactGroup:
    """A titled group of facts."""

    title: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Bar:
    """A bar of a plain bar list: its width in percent of the longest."""

    label: str
    width: str
    value: str


@dataclass(frozen=True)
class Bars:
    """A titled bar list."""

    title: str
    bars: tuple[Bar, ...]


GROUPS = (
    ("Language model", "lm"),
    ("Text", "text"),
    ("Counts", "counts"),
    ("What the judge was paid for", "spend"),
    ("The judge's anchors, asked first and last", "anchors"),
    ("Seeds", "seeds"),
    ("Versions", "versions"),
    ("Machine", "machine"),
)
SHOWN_FILES = 5  # of those that were damaged
NOT_ASKED = ("untested", "dead")


def what_was_run(material: Material) -> Section:
    """LM, text, seeds, versions, seconds, and what is missing."""
    summary = material.summary
    name, title = "run", "What was run"
    if not summary and not material.states.height:
        return Section(name, title, "", absent="The run left no summary (summary.json) yet.")
    facts = [group for head, key in GROUPS for group in fact_groups(head, summary.get(key) or {})]
    parts = [Part("facts", facts)] if facts else []
    seconds = stage_seconds(summary)
    if seconds:
        most = max(seconds.values()) or 1.0
        bars = tuple(Bar(words.label(k), f"{100 * s / most:.1f}", words.duration(s)) for k, s in seconds.items())
        total = words.duration(sum(seconds.values()))
        parts.append(Part("bars", Bars(f"Time by stage: {total} of work, some of it side by side", bars)))
    if material.states.height:
        parts.append(Part("table", states(material.states)))
    lead = "What is needed to trace or repeat this page. A failed judgement is counted here and enters no mean."
    return Section(name, title, lead + remade(summary), tuple(parts))


def remade(summary: Mapping[str, Any]) -> str:
    """A sentence on the files that were found damaged and made again; nothing where there were none."""
    files = list(dict.fromkeys(str(r["file"]) for r in summary.get("remade") or []))
    if not files:
        return ""
    more = [f"{words.number(len(files) - SHOWN_FILES, 0)} more"] if len(files) > SHOWN_FILES else []
    named = words.listing([*files[:SHOWN_FILES], *more])
    return f" {words.plural(len(files), 'file')} of the run had been damaged, and were made again: {named}."


def stage_seconds(summary: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by stage; the wall time of the last call, which the study keeps beside them, is no stage."""
    found = {k: words.finite(v) for k, v in (summary.get("seconds") or {}).items() if k != "this_call"}
    return {k: s for k, s in found.items() if s is not None}


def fact_groups(title: str, values: Mapping[str, Any]) -> list[FactGroup]:
    """One group of facts, or one per name where the record holds records by name (of LMs)."""
    if values and all(isinstance(v, Mapping) for v in values.values()):
        return [FactGroup(f"{title}, {name}", flatten(v)) for name, v in values.items()]
    return [FactGroup(title, flatten(values, grouped=title != "Seeds"))] if values else []


def flatten(values: Mapping[str, Any], prefix: str = "", *, grouped: bool = True) -> tuple[Fact, ...]:
    """Facts of a summary record; nested records get their parent's label in front."""
    found: list[Fact] = []
    for key, value in values.items():
        name = f"{prefix}{words.label(str(key))}"
        if isinstance(value, Mapping):
            found += flatten(value, f"{name}, ", grouped=grouped)
        else:
            found.append(_fact(name, value, grouped))
    return tuple(found)


def _fact(name: str, value: Any, grouped: bool) -> Fact:
    if value is None:
        return Fact(name, "not recorded")
    if isinstance(value, bool):
        return Fact(name, "yes" if value else "no")
    if isinstance(value, int):
        return Fact(name, words.number(value, 0) if grouped else str(value))
    if isinstance(value, float):
        return Fact(name, "not recorded" if words.finite(value) is None else words.adaptive(value))
    whole = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return Fact(name, whole if len(whole) <= 96 else whole[:80] + "…", "" if len(whole) <= 96 else whole)


def states(table: pl.DataFrame) -> PageTable:
    """What succeeded and what did not, by stage; a failure is counted here and enters no mean."""
    columns = (
        Column("What", kind="text"),
        Column("Asked"),
        Column("With a value"),
        Column("Missing"),
        Column("Why missing", kind="text"),
        Column("Not asked", kind="text"),
    )
    rows = []
    for (stage,), part in table.group_by("stage", maintain_order=True):
        idle = part.filter(pl.col("state").is_in(NOT_ASKED))
        lost = part.filter(~pl.col("state").is_in(("ok", *NOT_ASKED)))
        failed = int(lost["n"].sum())
        asked = int(part["n"].sum()) - int(idle["n"].sum())
        counts = [TableCell(words.number(n, 0)) for n in (asked, asked - failed, failed)]
        rows.append(TableRow((text(words.upper(str(stage))), *counts, text(_whys(lost)), text(_whys(idle)))))
    return PageTable("States of all scores and judgements", columns, tuple(rows))


def _whys(table: pl.DataFrame, most: int = 6) -> str:
    """Counts with their reasons, most frequent first."""
    parts = []
    for row in table.sort(["n", "state", "reason"], descending=[True, False, False]).iter_rows(named=True):
        detail = f": {row['reason']}" if row["reason"] else ""
        parts.append(f"{words.number(row['n'], 0)} {words.reason(row['state'], 'windows')}{detail}")
    return "; ".join(parts[:most]) + (f"; and {len(parts) - most} further reasons" if len(parts) > most else "")
