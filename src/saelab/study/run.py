"""Run a study: its cells here or on Ray, then its statistics and its record. Safe to call again after any crash."""

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from pathlib import Path

from saelab.core.errors import UserError
from saelab.core.hardware import limited
from saelab.core.progress import SILENT, Progress
from saelab.saes.ranks import ALONE, Ranks
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger
from saelab.study.cells import Cell, in_order, stamped
from saelab.study.checks import check
from saelab.study.executors import PATIENCE, Stoppable, run_in_process
from saelab.study.folder import begin, changes, check_changes, check_folder, clear, mark, supersede, told
from saelab.study.inputs import input_sums
from saelab.study.on_ray import RayPlace, run_on_ray
from saelab.study.opening import opened
from saelab.study.plan import cells_of
from saelab.study.spec import StudyConfig
from saelab.study.stages import do
from saelab.study.summary import write_summary
from saelab.study.unread import told_unread
from saelab.study.workspace import Workspace

HERE = "here"


def run(
    study: StudyConfig,
    out: str | Path,
    *,
    stages: Collection[str] | None = None,
    on: str = HERE,
    threads: int | None = None,
    replace: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
) -> RunFolder:
    """Run what is not done yet of a study into the folder `out`, and write `results.json` and `summary.json`.

    stages: only these (with all that they need); None: all, and then the summary. on: `here`, `ray` (a Ray of this
    machine, or the one that is already connected) or `ray:ADDRESS` (a running cluster, which sees the same folder under
    the same path). threads: here of the whole process (None: torch's own number), on Ray of one cell (None: one).
    replace: give up finished cells whose settings have changed; tell: is given sentences of what is accepted, deleted
    and found damaged. ranks: processes that train the SAEs together, of which this is the first; the others call
    `follow`. Cells, and the parts of those that run alone, compute with one thread each, so results are the
    same bytes for any number of threads on processors of one kind; except that SAEs which are fewer than the threads
    share them all.

    Raises `UserError` where the study cannot run here (checks.py), where the folder holds a run of another study or of
    other settings, or where `on` is none of these.
    """
    start, began = time.perf_counter(), time.time()
    study = opened(study)
    place = _place(on, threads)
    folder = RunFolder(Path(out).absolute())
    check_folder(study, folder)
    sums = input_sums(study)
    cells = whole = stamped(cells_of(study), sums)
    if stages is not None:
        cells = in_order(c for c in cells if c.stage in stages)
    rows = Ledger(folder.ledger).rows() if folder.ledger.exists() else []
    found, known = changes(cells, rows), {row.key for row in rows if row.state == "done"}
    if not replace:
        check_changes(found, folder.root)
    check(study, {c.stage for c in cells if c.key not in known})
    if any(c.key not in known for c in cells):
        for sentence in told_unread(study):
            tell(sentence)
    told(found, folder, replace=replace, tell=tell)
    mark(folder)
    with closing(Ledger(folder.ledger)) as ledger:
        begin(study, folder, ledger)
        supersede(found, whole, folder, ledger)
        if place is not None:
            used = place.threads
            ran = run_on_ray(cells, study, folder, ledger, place, progress)
        else:
            shown = Stoppable(progress)
            with limited(threads) as used, closing(Workspace(study, folder, shown, ranks=ranks)) as work:
                ran = run_in_process(
                    cells,
                    lambda cell: _led(cell, work),
                    ledger,
                    shown,
                    clear=lambda cell: clear(cell, folder),
                    forget=work.forget,
                )
        ranks.told("")
        if stages is None:
            _record(study, folder, ledger, whole, {"this_call": time.perf_counter() - start}, ran=bool(ran), used=used)
        for damage in ledger.damages():
            if damage.noticed >= began:
                tell(f"Damaged, and made again: {damage.file} (of {damage.stage} {damage.name}).")
    return folder


def follow(study: StudyConfig, out: str | Path, ranks: Ranks) -> None:
    """Train, with the first of several ranks, what that one trains, until its `run` into the same folder has ended.

    Writes nothing. The folder must be on a disk that all ranks see; the same study must be given to all.
    """
    study = opened(study)
    cells = {cell.key: cell for cell in stamped(cells_of(study), input_sums(study))}
    with closing(Workspace(study, RunFolder(Path(out).absolute()), ranks=ranks)) as work:
        while key := ranks.told(""):
            do(cells[key], work)


def _led(cell: Cell, work: Workspace) -> list[Path]:
    """Do a cell, with the other ranks where it trains SAEs."""
    if cell.stage == "train":
        work.ranks.told(cell.key)
    return do(cell, work)


def _record(
    study: StudyConfig,
    folder: RunFolder,
    ledger: Ledger,
    cells: Sequence[Cell],
    seconds: dict[str, float],
    *,
    ran: bool,
    used: int,
) -> None:
    """Write the summary where anything was done or it is not what was written, as one more cell of the ledger."""
    record = Cell("record", study.name, {}, tuple(cells))
    rows = {(r.stage, r.name): r.key for r in ledger.rows()}
    if (former := rows.get((record.stage, record.name))) not in (None, record.key):
        ledger.drop([former])
    if ran:
        ledger.reopen(record.key)
    while (state := ledger.take(record.key, record.stage, record.name)) == "held":
        time.sleep(PATIENCE)
    if state == "taken":
        begun = time.perf_counter()
        write_summary(study, folder, ledger, seconds, used)
        ledger.finish(record.key, time.perf_counter() - begun, [folder.results.path, folder.summary.path])


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
