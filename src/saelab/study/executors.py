"""Run cells, each once, in this process: finished ones are recognised, a failed one is recorded and stops the run.

Several processes of one machine may run one folder at the same time: each takes what no other has taken, and waits
where all that is left is being done elsewhere. The executor knows keys, order and the ledger; what a cell computes is a
function it is given.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from saelab.core.errors import ArtefactError, SaelabError, UserError
from saelab.core.hardware import side_by_side, threads
from saelab.core.progress import SILENT, Progress, Task
from saelab.store.ledger import Ledger
from saelab.study.cells import Cell

Work = Callable[[Cell], list[Path]]
# Stages that keep all cores busy by themselves.
ALONE = frozenset({"text", "harvest", "train", "read", "stats"})
SELF_CHECKED = frozenset({"harvest"})
PATIENCE = 0.3  # seconds between two looks at what another process holds
MOST = 3  # times that a cell is begun again because what it reads has changed


class Stale(Exception):
    """What a cell read of others is not what they left: it and they are to be done again."""

    def __init__(self, cell: Cell, files: Sequence[str]):
        super().__init__(f"{', '.join(files)} changed while {cell} used {'it' if len(files) == 1 else 'them'}")
        self.cell, self.files = cell, tuple(files)


@dataclass
class Queue:
    """The cells that are left, in order. `taken` cells were claimed here, `finished` ones are done by whomever.

    clear: takes away what a former attempt at a cell that cannot be gone on with left. made: of finished cells, the
    sums of their files.
    """

    cells: Sequence[Cell]
    ledger: Ledger
    bar: Task
    clear: Callable[[Cell], None] = lambda cell: None
    finished: set[str] = field(default_factory=set[str])
    taken: set[str] = field(default_factory=set[str])
    made: dict[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    again: Counter[str] = field(default_factory=Counter[str])

    def take(self) -> Cell | None:
        """Claim the first cell whose inputs are done and intact; None where nothing can be claimed now."""
        for cell in self.cells:
            if cell.key in self.finished or cell.key in self.taken:
                continue
            if any(before.key not in self.finished for before in cell.inputs):
                continue
            read = consumed(cell, self.made)
            state = self.ledger.take(cell.key, cell.stage, cell.name, own=cell.own, consumed=read)
            if state == "done":
                self.close(cell)
            elif state == "held":
                self._check_holder(cell)
            elif damaged := self.damaged(cell):
                self.stale(Stale(cell, damaged))
                return self.take()
            else:
                self.taken.add(cell.key)
                if cell.key in self.ledger.begun_anew:
                    self.clear(cell)
                    self.ledger.cleared(cell.key)
                return cell
        return None

    def damaged(self, cell: Cell, *, all_of_them: bool = False) -> list[str]:
        """Files that a cell reads of others and that are not what those left."""
        return self.ledger.damaged(consumed(cell, self.made, self_checked=all_of_them))

    def stale(self, found: Stale) -> None:
        """Open again the cells whose files changed, all that follows them, and the one that used them.

        Raises `ArtefactError` where that happens to one cell over and over.
        """
        cell = found.cell
        with suppress(SaelabError):
            self.ledger.fail(cell.key, str(found))
        self.taken.discard(cell.key)
        self.again[cell.key] += 1
        if self.again[cell.key] > MOST:
            raise ArtefactError(
                f"{found}, for the {MOST + 1}th time.", hint="Check the disk, and who else writes here."
            )
        lost = {c.key for c in cell.before if set(found.files) & set(self.made.get(c.key, ()))}
        for other in self.cells:  # inputs come first, so all that follows is found in one pass
            if other.key in lost or any(c.key in lost for c in other.inputs):
                lost.add(other.key)
                self.made.pop(other.key, None)
                self.finished.discard(other.key)

    def close(self, cell: Cell) -> None:
        """Count a cell as done."""
        row = self.ledger.row(cell.key)
        self.made[cell.key] = row.artefacts if row is not None else {}
        self.finished.add(cell.key)
        seconds, ours = round(cell.estimate), cell.key in self.taken
        self.taken.discard(cell.key)
        if not ours:
            self.bar.found(seconds)
        self.bar.advance(seconds if ours else 0, cells=f"{len(self.finished)}/{len(self.cells)}", last=str(cell))

    def retake(self, cell: Cell) -> None:
        """Claim again a cell of ours whose worker died: one more attempt on record."""
        self.ledger.take(cell.key, cell.stage, cell.name, own=cell.own, consumed=consumed(cell, self.made))

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

    def found(self, amount: int) -> None:
        self.inner.found(amount)


def run_in_process(
    cells: Sequence[Cell],
    work: Work,
    ledger: Ledger,
    progress: Stoppable | None = None,
    *,
    clear: Callable[[Cell], None] = lambda cell: None,
    forget: Callable[[], None] = lambda: None,
) -> list[Cell]:
    """Run the cells, inputs first, and return those that were actually run here.

    work(cell) returns the artefact files it wrote, inside the ledger's folder, and reports to `progress`. Stages of
    `ALONE` share torch's threads among their own parts; other cells run side by side, one thread each, so the bytes
    do not depend on the number of cores. clear(cell): see `Queue`; forget(): drop what was read of files that have
    changed. Raises what `work` raises, after recording it and stopping the others.
    """
    progress = progress or Stoppable(SILENT)
    ran: list[Cell] = []
    with progress.task("study", total=total_of(cells), unit="s (estimated)") as bar:
        queue = Queue(cells, ledger, bar, clear)
        here = _Here(queue, work, progress, forget, ran)
        while queue.open:
            cell = queue.take()
            while cell is not None and cell.stage not in ALONE:
                cell = here.beside(cell)
            if cell is not None:
                here.alone(cell)
            elif queue.open:
                time.sleep(PATIENCE)
    return ran


@dataclass
class _Here:
    """This process at work on a queue."""

    queue: Queue
    work: Work
    progress: Stoppable
    forget: Callable[[], None]
    ran: list[Cell]

    def alone(self, cell: Cell) -> None:
        """Run one cell with all threads."""
        try:
            _run_one(cell, self.work, self.queue)
        except Stale as found:
            self.forget()
            self.queue.stale(found)
        else:
            self._close(cell)

    def beside(self, first: Cell) -> Cell | None:
        """Run cells side by side, from `first` on, until none is ready or one must run alone, which is returned."""
        workers, queue = threads(), self.queue
        with side_by_side(workers) as pool:
            running: dict[Future[None], Cell] = {pool.submit(_run_one, first, self.work, queue): first}
            after: Cell | None = None
            try:
                while running:
                    while after is None and len(running) < workers and (cell := queue.take()) is not None:
                        if cell.stage in ALONE:
                            after = cell
                        else:
                            running[pool.submit(_run_one, cell, self.work, queue)] = cell
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        cell = running.pop(future)
                        try:
                            future.result()
                        except Stale as found:
                            self.forget()
                            queue.stale(found)
                        else:
                            self._close(cell)
            except BaseException:
                self.progress.stop()
                if after is not None:
                    with suppress(SaelabError):
                        queue.ledger.fail(after.key, "stopped before it began")
                raise
        return after

    def _close(self, cell: Cell) -> None:
        self.queue.close(cell)
        self.ran.append(cell)


def consumed(cell: Cell, made: Mapping[str, Mapping[str, str]], *, self_checked: bool = True) -> dict[str, str]:
    """The sums of the files that a cell reads of the cells before it. self_checked: with those that are large and whose
    readers look at every byte themselves (activations).

    A cell that is named after SAEs reads of the SAEs before it those alone.
    """
    found: dict[str, str] = {}
    own = {*cell.name.split("--"), *cell.settings.get("path", ())}
    for before in cell.before:
        files = made.get(before.key, {})
        if before.stage in SELF_CHECKED and not self_checked:
            continue
        saes = before.settings.get("saes", {})
        if named := own & set(saes):
            files = {n: s for n, s in files.items() if named & set(Path(n).parts) or not set(saes) & set(Path(n).parts)}
        found |= files
    return found


def total_of(cells: Sequence[Cell]) -> int:
    """The estimates of all cells, for a progress bar."""
    return sum(round(c.estimate) for c in cells) or 1


def reason_of(error: BaseException) -> str:
    """The sentence that the ledger keeps of a failure."""
    return error.message if isinstance(error, SaelabError) else f"{type(error).__name__}: {error}"


def _run_one(cell: Cell, work: Work, queue: Queue) -> None:
    start, ledger = time.perf_counter(), queue.ledger
    try:
        artefacts = work(cell)
    except BaseException as error:  # also Ctrl-C: the row must say that the cell is not done
        with suppress(SaelabError):  # on a full disk it cannot; the first error is the one to be shown
            ledger.fail(cell.key, reason_of(error))
        if isinstance(error, Exception) and (files := queue.damaged(cell, all_of_them=True)):
            raise Stale(cell, files) from error
        raise
    if files := queue.damaged(cell):
        raise Stale(cell, files)
    ledger.finish(cell.key, time.perf_counter() - start, artefacts)
