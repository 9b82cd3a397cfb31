"""How the command line shows progress: one live display on a terminal, JSON lines elsewhere.

Both show for every task its name, how far it is, its rate, the time left and the figures it reports. No count is beyond
its total, and nothing is cut inside a number.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn
from rich.text import Text

from saelab.cli.output import told
from saelab.core import progress as core

WIDE = 100  # columns from which there is room for bars


@contextmanager
def shown() -> Iterator[core.Progress]:
    """A progress display for the length of a command, on stderr; none where less is to be told."""
    if not told("info"):
        yield core.SILENT
    elif not sys.stderr.isatty():
        yield JsonLines(sys.stderr)
    else:
        console = Console(stderr=True)
        bar = [BarColumn(bar_width=28)] if console.width >= WIDE else []
        with Progress(SpinnerColumn(), *bar, TaskLine(console.width - 34 * len(bar) - 2), console=console) as display:
            yield Display(display)


class TaskLine(ProgressColumn):
    """A task's name, share, rate, times and figures: as many as fit into the width, each whole."""

    def __init__(self, width: int):
        super().__init__()
        self._width = width

    def render(self, task: Any) -> Text:
        left = "" if task.time_remaining is None else f"{_clock(task.time_remaining)} left"
        share = "" if task.total is None else f"{task.percentage:.0f}%"
        facts = [share, left, _clock(task.elapsed or 0), task.fields["rate"], *task.fields["figures"]]
        name = task.description
        if len(name) > self._width:
            name = name[: self._width].rpartition(" ")[0] or name[: self._width]
        line = Text(name)
        for i, fact in enumerate(filter(None, facts)):
            if len(line) + 2 + len(fact) > self._width:
                break
            line.append(f"  {fact}", style="" if i < 2 else "dim")
        return line


def _clock(seconds: float | int) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Display:
    """Tasks as live bars; a finished task's bar is removed, so that the display stays a few lines."""

    def __init__(self, display: Progress):
        self._display = display

    @contextmanager
    def task(self, name: str, total: int | None = None, unit: str = "") -> Iterator[core.Task]:
        identity = self._display.add_task(name, total=total, rate="", figures=())
        try:
            yield _Bar(self._display, identity, unit)
        finally:
            self._display.remove_task(identity)


class _Bar:
    def __init__(self, display: Progress, identity: Any, unit: str):
        self._display, self._identity, self._unit = display, identity, unit
        self._done, self._start = 0, time.perf_counter()

    def advance(self, amount: int = 1, **figures: float | int | str) -> None:
        self._done += amount
        rate = self._done / max(time.perf_counter() - self._start, 1e-9)
        estimated = "estimated" in self._unit
        self._display.update(
            self._identity,
            completed=self._done,
            total=_at_least(self._display.tasks[self._display.task_ids.index(self._identity)].total, self._done),
            rate="" if estimated else f"{_short(rate)} {self._unit}/s",
            figures=tuple(f"{k} {_short(v)}" for k, v in figures.items()),
        )


def _at_least(total: float | int | None, done: int) -> float | int | None:
    """A total that what is done is no more than: totals are estimates where a text ends before it was thought to."""
    return None if total is None else max(total, done)


@runtime_checkable
class Stream(Protocol):
    """Something that text is written to."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...


class JsonLines:
    """Tasks as JSON lines: one when a task opens, at most one every ten seconds, one when it closes."""

    interval = 10.0

    def __init__(self, stream: Stream):
        self._stream = stream

    @contextmanager
    def task(self, name: str, total: int | None = None, unit: str = "") -> Iterator[core.Task]:
        line = _Line(self, name, total, unit)
        line.write("start")
        try:
            yield line
        finally:
            line.write("end")

    def write(self, record: dict[str, Any]) -> None:
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()


class _Line:
    def __init__(self, owner: JsonLines, name: str, total: int | None, unit: str):
        self._owner, self._name, self._total, self._unit = owner, name, total, unit
        self._done, self._figures = 0, {}
        self._start = self._last = time.perf_counter()

    def advance(self, amount: int = 1, **figures: float | int | str) -> None:
        self._done += amount
        self._figures = figures
        if time.perf_counter() - self._last > self._owner.interval:
            self.write("progress")

    def write(self, event: str) -> None:
        now = time.perf_counter()
        elapsed = now - self._start
        self._total = _at_least(self._total, self._done)
        record = {"event": event, "task": self._name, "done": self._done, "total": self._total, "unit": self._unit}
        record["seconds"] = round(elapsed, 1)
        if self._total and 0 < self._done < self._total:
            record["seconds_left"] = round(elapsed * (self._total - self._done) / self._done, 1)
        figures = {k: v if isinstance(v, str) else float(f"{v:.4g}") for k, v in self._figures.items()}
        self._owner.write(record | figures)
        self._last = now


def _short(value: float | int | str) -> str:
    """A figure for people: no powers of ten where a number can be read."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
