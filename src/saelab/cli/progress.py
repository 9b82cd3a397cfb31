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
        left = "" if task.fields["left"] is None else f"{_clock(task.fields['left'])} left"
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


class _Pace:
    """How far a task is, and what its time so far says of the rest: what another call did took none of it."""

    def __init__(self, total: int | None):
        self.total, self.done, self._own = total, 0, 0
        self._start = time.perf_counter()

    def advance(self, amount: int, *, earlier: bool = False) -> None:
        """Count work. No total stays below what is done: totals are estimates."""
        self.done += amount
        if not earlier:
            self._own += amount
        self.total = None if self.total is None else max(self.total, self.done)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def rate(self) -> float:
        """Units a second, of this call's."""
        return self._own / max(self.seconds, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds to the end; None where nothing tells."""
        if self.total is None or self.done >= self.total or not self._own:
            return None
        return (self.total - self.done) / self.rate


class Display:
    """Tasks as live bars; a finished task's bar is removed, so that the display stays a few lines."""

    def __init__(self, display: Progress):
        self._display = display

    @contextmanager
    def task(self, name: str, total: int | None = None, unit: str = "") -> Iterator[core.Task]:
        identity = self._display.add_task(name, total=total, rate="", figures=(), left=None)
        try:
            yield _Bar(self._display, identity, total, unit)
        finally:
            self._display.remove_task(identity)


class _Bar:
    def __init__(self, display: Progress, identity: Any, total: int | None, unit: str):
        self._display, self._identity, self._unit = display, identity, unit
        self._pace = _Pace(total)

    def advance(self, amount: int = 1, **figures: float | int | str) -> None:
        self._pace.advance(amount)
        self._update(figures=tuple(f"{k} {_short(v)}" for k, v in figures.items()))

    def found(self, amount: int) -> None:
        self._pace.advance(amount, earlier=True)
        self._update()

    def _update(self, **fields: Any) -> None:
        pace, estimated = self._pace, "estimated" in self._unit
        fields |= {"rate": "" if estimated else f"{_short(pace.rate)} {self._unit}/s", "left": pace.left}
        self._display.update(self._identity, completed=pace.done, total=pace.total, **fields)


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
        self._owner, self._name, self._unit = owner, name, unit
        self._pace, self._figures = _Pace(total), {}
        self._last = time.perf_counter()

    def advance(self, amount: int = 1, **figures: float | int | str) -> None:
        self._pace.advance(amount)
        self._figures = figures
        if time.perf_counter() - self._last > self._owner.interval:
            self.write("progress")

    def found(self, amount: int) -> None:
        self._pace.advance(amount, earlier=True)

    def write(self, event: str) -> None:
        pace = self._pace
        record = {"event": event, "task": self._name, "done": pace.done, "total": pace.total, "unit": self._unit}
        record["seconds"] = round(pace.seconds, 1)
        if pace.left is not None:
            record["seconds_left"] = round(pace.left, 1)
        figures = {k: v if isinstance(v, str) else float(f"{v:.4g}") for k, v in self._figures.items()}
        self._owner.write(record | figures)
        self._last = time.perf_counter()


def _short(value: float | int | str) -> str:
    """A figure for people: no powers of ten where a number can be read."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
