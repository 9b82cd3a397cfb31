"""Run a study: its cells in this process, then its statistics and its record. Safe to call again after any crash."""

import time
from collections.abc import Collection
from pathlib import Path

from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.store.files import write_text
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger
from saelab.study.cells import in_order
from saelab.study.executors import run_in_process
from saelab.study.plan import cells_of
from saelab.study.spec import StudyConfig
from saelab.study.stages import do
from saelab.study.summary import write_summary
from saelab.study.workspace import Workspace


def run(
    study: StudyConfig, out: str | Path, *, stages: Collection[str] | None = None, progress: Progress = SILENT
) -> RunFolder:
    """Run what is not done yet of a study into the folder `out`, and write `summary.json`.

    stages: only these (with all that they need); None: all, and then the summary.

    Raises `UserError` where the folder holds a run of another study.
    """
    start = time.perf_counter()
    folder = RunFolder(Path(out))
    _own(study, folder)
    ledger = Ledger(folder.ledger)
    work = Workspace(study, folder, progress)
    cells = cells_of(study)
    if stages is not None:
        cells = in_order(c for c in cells if c.stage in stages)
    ran = run_in_process(cells, lambda cell: do(cell, work), ledger, progress)
    if stages is None and (ran or not folder.summary.exists()):
        write_summary(study, folder, ledger, time.perf_counter() - start)
    return folder


def _own(study: StudyConfig, folder: RunFolder) -> None:
    """Write the study file into the folder, unless another study of another name lives there."""
    if folder.study.exists():
        held = StudyConfig.from_yaml(folder.study)
        if held.name != study.name:
            raise UserError(
                f"{folder.root} holds a run of the study {held.name!r}, not of {study.name!r}.",
                hint="Give another folder with --out.",
            )
    write_text(folder.study, study.to_yaml())
