"""Run cells, each once, in this process: finished ones are recognised, a failed one is recorded and stops the run.

Several processes of one machine may run one folder at the same time: each takes what no other has taken, and waits
where all that is left is being done elsewhere. The executor knows keys, order and the ledger; what a cell computes is a
function it is given.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from saelab.core.errors import SaelabError, UserError
from saelab.core.progress import SILENT, Progress, Task
from saelab.store.ledger import Ledger
from saelab.study.cells import Cell

Work = Callable[[Cell], list[Path]]
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
        node, here = self.ledger.holder(cell.key)
        if not here:
            raise UserError(
                f"A process of the machine {node} holds {cell} in {self.ledger.root}.",
                hint="Run one launcher per folder (`--on ray` uses many machines), or stop it first.",
            )


def run_in_process(cells: Sequence[Cell], work: Work, ledger: Ledger, progress: Progress = SILENT) -> list[Cell]:
    """Run the cells, inputs first, and return those that were actually run here.

    work(cell) returns the artefact files it wrote, inside the ledger's folder. Raises what `work` raises, after
    recording it.
    """
    ran = []
    with progress.task("study", total=total_of(cells), unit="s (estimated)") as bar:
        queue = Queue(cells, ledger, bar)
        while queue.open:
            cell = queue.take()
            if cell is not None:
                _run_one(cell, work, ledger)
                queue.close(cell)
                ran.append(cell)
            elif queue.open:
                time.sleep(PATIENCE)
    return ran


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
        ledger.fail(cell.key, reason_of(error))
        raise
    ledger.finish(cell.key, time.perf_counter() - start, artefacts)
