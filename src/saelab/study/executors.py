"""Run cells, each once, in this process: finished ones are recognised, a failed one is recorded and stops the run.

The executor knows keys, order and the ledger; what a cell computes is a function it is given.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from saelab.core.errors import SaelabError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.store.ledger import Ledger
from saelab.study.cells import Cell

Work = Callable[[Cell], list[Path]]


def run_in_process(cells: Sequence[Cell], work: Work, ledger: Ledger, progress: Progress = SILENT) -> list[Cell]:
    """Run the cells in order and return those that were actually run.

    work(cell) returns the artefact files it wrote, inside the ledger's folder. Raises what `work` raises, after
    recording it; a `UserError` where another living process holds a cell.
    """
    ran = []
    total = round(sum(c.estimate for c in cells)) or 1
    with progress.task("study", total=total, unit="s (estimated)") as bar:
        for number, cell in enumerate(cells, start=1):
            if not ledger.done(cell.key):
                _run_one(cell, work, ledger)
                ran.append(cell)
            bar.advance(round(cell.estimate), cells=f"{number}/{len(cells)}", last=str(cell))
    return ran


def _run_one(cell: Cell, work: Work, ledger: Ledger) -> None:
    if not ledger.claim(cell.key, cell.stage, cell.name):
        raise UserError(
            f"Another process is running {cell} in {ledger.root}.",
            hint="Wait for it, or stop it and run the same command again.",
        )
    start = time.perf_counter()
    try:
        artefacts = work(cell)
    except BaseException as error:  # also Ctrl-C: the row must say that the cell is not done
        reason = error.message if isinstance(error, SaelabError) else f"{type(error).__name__}: {error}"
        ledger.fail(cell.key, reason)
        raise
    ledger.finish(cell.key, time.perf_counter() - start, artefacts)
