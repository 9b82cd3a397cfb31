"""How verbs print results: a readable table, or JSON with --json. The only helpers that print.

On a terminal nothing is split inside a number or a word: a table that is too wide becomes a block of lines per row.
What goes into a pipe or a file is not broken at all. `--quiet` and `--log-level` say how much is told beside results.
"""

import json
import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saelab.core.errors import UserError
from saelab.core.hardware import DEVICE, check_device

if TYPE_CHECKING:
    import polars as pl

# What is told beside results: errors; also notes; also progress; also tracebacks and what libraries log.
LEVELS = ("error", "warning", "info", "debug")
_COMMAND = re.compile(r"\b(saelab|pip) [a-z]+ ")
_QUOTED, _JOINED = re.compile(r"'[^' ]* [^' ]*'"), "\ue000"  # a token such as ' the'; what stands for its blank
_CHOSEN = {"level": "info"}


def show_table(frame: "pl.DataFrame", *, as_json: bool, title: str | None = None) -> None:
    """Print a frame as a table, or as JSON rows."""
    if as_json:
        print(json.dumps(frame.to_dicts(), ensure_ascii=False, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    rows = [[_cell(v) for v in row] for row in frame.iter_rows()]
    columns = list(zip(frame.columns, *rows, strict=True))
    least = [max(map(len, " ".join(column).split()), default=1) for column in columns]
    frame_room, width = 3 * len(columns) + 1, _width(sys.stdout)
    spare = 10**6 if width is None else width - frame_room - sum(least)
    if spare < 0:
        _show_rows(frame.columns, rows, title)
        return
    console = Console(highlight=False, width=10**6 if width is None else width, file=sys.stdout)
    if title:
        console.print(title, style="italic", markup=False)  # a table's own title is broken at the table's width
    table = Table(header_style="bold")
    for column, kind, room in zip(columns, frame.dtypes, least, strict=True):
        more = min(spare, max(map(len, column)) - room)
        spare -= more
        table.add_column(column[0], justify="right" if kind.is_numeric() else "left", width=room + more)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _show_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None) -> None:
    """A table that is too wide for the terminal: a block of lines per row."""
    if title:
        say(title)
    for row in rows:
        say("")
        _show_lines(dict(zip(columns, row, strict=True)))


def show_record(record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a mapping as aligned lines, or as one JSON object."""
    if as_json:
        print(json.dumps(record, ensure_ascii=False, default=str))
        return
    _show_lines({key: _cell(value) for key, value in record.items()})


def _show_lines(record: Mapping[str, str]) -> None:
    """Names and values, the values under each other where a line is broken too."""
    room = max((len(k) for k in record), default=0)
    for key, value in record.items():
        print(fitted(f"{key:<{room}}  {value}", _width(sys.stdout), indent=" " * (room + 2)))


def say(text: str) -> None:
    """Print text for people."""
    print(fitted(text, _width(sys.stdout)))


def note(text: str) -> None:
    """Print text for people beside the output: what a program reads is not disturbed."""
    if told("warning"):
        print(fitted(text, _width(sys.stderr)), file=sys.stderr, flush=True)


def complain(message: str, hint: str | None) -> None:
    """Print an error with its hint."""
    print(fitted(f"saelab: {message}", _width(sys.stderr)), file=sys.stderr)
    if hint:
        print(fitted(f"  {hint}", _width(sys.stderr), indent="  "), file=sys.stderr)


def told(level: str) -> bool:
    """Whether what is of this level is shown."""
    return LEVELS.index(_CHOSEN["level"]) >= LEVELS.index(level)


def size_said(study: Any, seconds: float | int) -> str:
    """How much a study is, and about how long that takes here."""
    from saelab.study.spec import saes_of

    tokens = study.text.train_contexts * study.text.context
    minutes = seconds / 60
    time = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
    count = len(saes_of(study))
    return f"{count} SAE{'s' * (count != 1)} on {tokens:,} tokens: about {'a minute' if minutes < 1.5 else time} here."


def settled(arguments: Sequence[str]) -> list[str]:
    """Take `--quiet`, `--log-level LEVEL` and `--device NAME` out of a command line, wherever they stand, and keep to
    them. Raises `UserError` for a level or a device that does not exist.
    """
    rest, level, given = [], "info", iter(arguments)
    for one in given:
        if one == "--":
            rest += [one, *given]
        elif one == "--quiet":
            level = LEVELS[0]
        elif one == "--log-level" or one.startswith("--log-level="):
            level = next(given, "") if one == "--log-level" else one.partition("=")[2]
            if level not in LEVELS:
                raise UserError(f"There is no log level {level!r}.", hint=f"Levels: {', '.join(LEVELS)}.")
        elif one == "--device" or one.startswith("--device="):
            os.environ[DEVICE] = check_device(next(given, "") if one == "--device" else one.partition("=")[2])
        else:
            rest.append(one)
    _CHOSEN["level"] = level
    logging.getLogger().setLevel(level.upper())
    return rest


def fitted(text: str, width: int | None, *, indent: str = "") -> str:
    """Text broken between words where a terminal of so many columns (None: none) would break it anywhere; indent: of
    the lines that follow. A line that holds a command stays one line, so that it can be copied.
    """
    if width is None:
        return text
    wrap = textwrap.TextWrapper(
        width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, replace_whitespace=False,
        drop_whitespace=False,
    )  # fmt: skip
    lines = [
        wrap.fill(_QUOTED.sub(_whole, line)) if len(line) > width and not _COMMAND.search(line) else line
        for line in text.split("\n")
    ]
    return "\n".join(part.rstrip().replace(_JOINED, " ") for line in lines for part in line.split("\n"))


def _whole(quoted: "re.Match[str]") -> str:
    """A quoted word with its blanks, which no line ends in."""
    return quoted[0].replace(" ", _JOINED)


def _width(stream: Any) -> int | None:
    """Columns of a terminal; None for what is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _cell(value: Any) -> str:
    if value is None:
        return "missing"
    if isinstance(value, float):
        return f"{value:,.0f}" if 9999.5 <= abs(value) < 1e9 else f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_cell(v) for v in value)
    return str(value)
