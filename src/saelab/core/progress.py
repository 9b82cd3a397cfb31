"""How long work reports progress, without knowing who watches.

A stage function takes a `Progress` and opens a `Task` for what it does; the command line draws them, a log writes JSON
lines, and the default `SILENT` drops them. Figures (loss, L0, tokens/s) are shown as given. The protocols can be
checked at run time because the tests check annotations.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, runtime_checkable


@runtime_checkable
class Task(Protocol):
    """One running piece of work with a known or unknown total."""

    def advance(self, amount: int = 1, **figures: float | int | str) -> None:
        """Say that `amount` more units are done, with the figures to show beside the bar."""
        ...

    def found(self, amount: int) -> None:
        """Say that another call has done `amount` units: they are done, but tell nothing of this call's rate."""
        ...


@runtime_checkable
class Progress(Protocol):
    """Something that shows tasks."""

    def task(self, name: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Open a task; leaving the context closes it."""
        ...


class _SilentTask:
    def advance(self, amount: int = 1, **figures: float | int | str) -> None:
        del amount, figures

    def found(self, amount: int) -> None:
        del amount


class _Silent:
    def task(self, name: str, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        del name, total, unit
        return nullcontext(_SilentTask())


SILENT: Progress = _Silent()
