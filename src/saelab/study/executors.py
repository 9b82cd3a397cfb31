"""Run cells, each once, in this process: finished ones are recognised, a failed one is recorded and stops the run.

Several processes of one machine may run one folder at the same time: each takes what no other has taken, and waits
where all that is left is being done elsewhere. The executor knows keys, order and the ledger; what a cell computes is a
function it is given.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from saelab.core.errors import SaelabError, UserError
from saelab.core.hardware import side_by_side, threads
from saelab.core.progress import SILENT, Progress, Task
from saelab.store.ledger import Ledger
from saelab.study.cells import Cell

Work = Callable[[Cell], list[Path]]
# Stages that keep all cores busy by themselves.
ALONE = frozenset({"text", "harvest", "train", "read", "stats"})
PATIENCE = 0.3  # seconds between two looks at what another process holds


@dataclass
class Queue:
    """The cells that are left, in order. `taken` cells were claimed here, `finished` ones are done by whomever."""

    cells: Sequence[Cell]
    ledger: Ledger
    bar: Task
    finished: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def take(self) -> Cell | None:
        """Claim the first cell whose inputs are done; None where nothing can be claimed now."""
        for cell in self.cells:
            if cell.key in self.finished or cell.key in self.taken:
                continue
            if any(before.key not in self.finished for before in cell.inputs):
                continue
            state = self.ledger.take(cell.key, cell.stage, cell.name)
            if state == "done":
                self.close(cell)
            elif state == "taken":
                self.taken.add(cell.key)
                return cell
            else:
                self._check_holder(cell)
        return None

    def close(self, cell: Cell) -> None:
        """Count a cell as done."""
        self.finished.add(cell.key)
        self.taken.discard(cell.key)
        self.bar.advance(round(cell.estimate), cells=f"{len(self.finished)}/{len(self.cells)}", last=str(cell))

    def retake(self, cell: Cell) -> None:
        """Claim again a cell of ours whose worker died: one more attempt on record."""
        self.ledger.take(cell.key, cell.stage, cell.name)

    @property
    def open(self) -> bool:
        """Whether anything is left."""
        return len(self.finished) < len(self.cells)

    def _check_holder(self, cell: Cell) -> None:
        holder = self.ledger.holder(cell.key)
        if holder is not None and holder.elsewhere:
            raise UserError(
                f"Another machine works on {self.ledger.root}: {holder.launcher} holds {cell}.",
                hint="Run one machine per folder (`--on ray` uses many), or stop the other first.",
            )


class Stoppable:
    """A progress display through which work is stopped: after `stop`, the next advance of any task raises."""

    def __init__(self, shown: Progress):
        self._shown, self._stopped = shown, threading.Event()

    def stop(self) -> None:
        """Ask all that reports here to end."""
        self._stopped.set()

    @contextmanager
    def task(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Task]:
        with self._shown.task(name, total, unit) as inner:
            yield _StoppableTask(inner, self._stopped)


@dataclass
class _StoppableTask:
    inner: Task
    stopped: threading.Event

    def advance(self, amount: int = 1, **figures: float | int | str) -> None:
        if self.stopped.is_set():
            raise KeyboardInterrupt
        self.inner.advance(amount, **figures)


def run_in_process(cells: Sequence[Cell], work: Work, ledger: Ledger, progress: Stoppable | None = None) -> list[Cell]:
    """Run the cells, inputs first, and return those that were actually run here.

    work(cell) returns the artefact files it wrote, inside the ledger's folder, and reports to `progress`. Stages of
    `ALONE` share torch's threads among their own parts; other cells run side by side, one thread each, so the bytes
    do not depend on the number of cores. Raises what `work` raises, after recording it and stopping the others.
    """
    progress = progress or Stoppable(SILENT)
    ran: list[Cell] = []
    with progress.task("study", total=total_of(cells), unit="s (estimated)") as bar:
        queue = Queue(cells, ledger, bar)
        while queue.open:
            cell = queue.take()
            while cell is not None and cell.stage not in ALONE:
                cell = _beside(cell, queue, work, progress, ran)
            if cell is not None:
                _run_one(cell, work, ledger)
                queue.close(cell)
                ran.append(cell)
            elif queue.open:
                time.sleep(PATIENCE)
    return ran


def _beside(first: Cell, queue: Queue, work: Work, progress: Stoppable, ran: list[Cell]) -> Cell | None:
    """Run cells side by side, from `first` on, until none is ready or one must run alone, which is returned."""
    workers = threads()
    with side_by_side(workers) as pool:
        running: dict[Future[None], Cell] = {pool.submit(_run_one, first, work, queue.ledger): first}
        after: Cell | None = None
        try:
            while running:
                while after is None and len(running) < workers and (cell := queue.take()) is not None:
                    if cell.stage in ALONE:
                        after = cell
                    else:
                        running[pool.submit(_run_one, cell, work, queue.ledger)] = cell
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()
                    cell = running.pop(future)
                    queue.close(cell)
                    ran.append(cell)
        except BaseException:
            progress.stop()
            if after is not None:
                with suppress(SaelabError):
                    queue.ledger.fail(after.key, "stopped before it began")
            raise
    return after


def total_of(cells: Sequence[Cell]) -> int:
    """The estimates of all cells, for a progress bar."""
    return sum(round(c.estimate) for c in cells) or 1


def reason_of(error: BaseException) -> str:
    """The sentence that the ledger keeps of a failure."""
    return error.message if isinstance(error, SaelabError) else f"{type(error).__name__}: {error}"


def _run_one(cell: Cell, work: Work, ledger: Ledger) -> None:
    start = time.perf_counter()
    try:
        artefacts = work(cell)
    except BaseException as error:  # also Ctrl-C: the row must say that the cell is not done
        with suppress(SaelabError):  # on a full disk it cannot; the first error is the one to be shown
            ledger.fail(cell.key, reason_of(error))
        raise
    ledger.finish(cell.key, time.perf_counter() - start, artefacts)
