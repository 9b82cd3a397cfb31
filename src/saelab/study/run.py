"""Run a study: its cells here or on Ray, then its statistics and its record. Safe to call again after any crash."""

import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path

from saelab.core.errors import UserError
from saelab.core.hardware import limited
from saelab.core.progress import SILENT, Progress
from saelab.store.files import write_json, write_text
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger
from saelab.study.cells import in_order
from saelab.study.checks import check
from saelab.study.executors import Stoppable, run_in_process
from saelab.study.names import names_of
from saelab.study.on_ray import RayPlace, run_on_ray
from saelab.study.plan import cells_of
from saelab.study.spec import StudyConfig
from saelab.study.stages import do
from saelab.study.summary import write_summary
from saelab.study.workspace import Workspace

HERE = "here"


def run(
    study: StudyConfig,
    out: str | Path,
    *,
    stages: Collection[str] | None = None,
    on: str = HERE,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> RunFolder:
    """Run what is not done yet of a study into the folder `out`, and write `results.json` and `summary.json`.

    stages: only these (with all that they need); None: all, and then the summary. on: `here`, `ray` (a Ray of this
    machine, or the one that is already connected) or `ray:ADDRESS` (a running cluster, which sees the same folder under
    the same path). threads: here of the whole process (None: torch's own number), on Ray of one cell (None: one).
    Cells, and the parts of those that run alone, compute with one thread each, so results are the same bytes for any
    number of threads on processors of one kind; except that SAEs which are fewer than the threads share them all.

    Raises `UserError` where the folder holds a run of another study, or where `on` is none of these.
    """
    start = time.perf_counter()
    place = _place(on, threads)
    folder = RunFolder(Path(out).absolute())
    _check_folder(study, folder)
    cells = cells_of(study)
    if stages is not None:
        cells = in_order(c for c in cells if c.stage in stages)
    known = {row.key for row in Ledger(folder.ledger).rows() if row.state == "done"} if folder.ledger.exists() else ()
    check(study, {c.stage for c in cells if c.key not in known})
    _begin(study, folder)
    with closing(Ledger(folder.ledger)) as ledger:
        if place is not None:
            used = place.threads
            ran = run_on_ray(cells, study, folder, ledger, place, progress)
        else:
            shown = Stoppable(progress)
            with limited(threads) as used, closing(Workspace(study, folder, shown)) as work:
                ran = run_in_process(cells, lambda cell: do(cell, work), ledger, shown)
        if stages is None and (ran or not folder.results.exists() or not folder.summary.exists()):
            write_summary(study, folder, ledger, {"this_call": time.perf_counter() - start}, used)
    return folder


def _place(on: str, threads: int | None) -> RayPlace | None:
    """Where cells run: None is this process."""
    if threads is not None and threads < 1:
        raise UserError(f"A cell needs at least one thread, not {threads}.")
    if on == HERE:
        return None
    kind, _, address = on.partition(":")
    if kind != "ray":
        raise UserError(f"A study runs on `here`, `ray` or `ray:ADDRESS`, not on {on!r}.")
    return RayPlace(address=address or None, threads=threads or 1)


def _check_folder(study: StudyConfig, folder: RunFolder) -> None:
    """Refuse a folder in which another study lives."""
    folder.check_writable()
    if folder.study.exists():
        held = StudyConfig.from_yaml(folder.study)
        if held.name != study.name:
            raise UserError(
                f"{folder.root} holds a run of the study {held.name!r}, not of {study.name!r}.",
                hint="Give another folder with --out.",
            )


def _begin(study: StudyConfig, folder: RunFolder) -> None:
    """Write the study file and what its names mean into the folder."""
    folder.begin()
    write_text(folder.study, study.to_yaml())
    write_json(folder.names, names_of(study))
