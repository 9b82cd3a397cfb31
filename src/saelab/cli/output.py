"""How verbs print results: a readable table, or JSON with --json. The only helpers that print."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

_CONSOLE = Console(highlight=False, soft_wrap=True)


def show_table(frame: pl.DataFrame, *, as_json: bool, title: str | None = None) -> None:
    """Print a frame as a table, or as JSON rows."""
    if as_json:
        print(json.dumps(frame.to_dicts(), ensure_ascii=False, default=str))
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for column, kind in frame.schema.items():
        table.add_column(column, justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.iter_rows():
        table.add_row(*(_cell(v) for v in row))
    _CONSOLE.print(table)


def show_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a mapping as aligned lines, or as one JSON object."""
    if as_json:
        print(json.dumps(record, ensure_ascii=False, default=str))
        return
    width = max((len(k) for k in record), default=0)
    for key, value in record.items():
        _CONSOLE.print(f"{key:<{width}}  {_cell(value)}", markup=False)


def say(text: str) -> None:
    """Print a line for people."""
    _CONSOLE.print(text, markup=False)


def _cell(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_cell(v) for v in value)
    return str(value)


def note(text: str) -> None:
    """Print a line for people beside the output: what a program reads is not disturbed."""
    print(text, file=sys.stderr, flush=True)
