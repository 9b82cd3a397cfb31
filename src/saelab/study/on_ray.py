"""Cells as Ray tasks: one launcher owns the ledger and the judge, workers on any machine of the cluster do the work.

The launcher claims a cell when its inputs are done, hands it to Ray with the processors, accelerators and memory it
declares, and records what comes back. A worker makes its own workspace from the study and the run folder, which all
machines see under one path, and keeps it for its next cells; what cells share (activations, SAEs, tables) is in that
folder. A worker or machine that dies is one attempt lost: the cell is claimed again and handed out anew. A paid judge
is an actor beside the launcher: all workers ask it, it alone opens the reply cache, and no question is paid for twice.
`ray` is imported only here, and only when used.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saelab.core.errors import MissingDependency, ResourceError, SaelabError, UserError
from saelab.core.hardware import DEVICE
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Judgement
from saelab.judges.client import Request
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger
from saelab.study.cells import Cell
from saelab.study.executors import PATIENCE, Queue, Stale, reason_of, total_of
from saelab.study.folder import clear
from saelab.study.spec import StudyConfig

ATTEMPTS = 4  # of one cell, the first included, before a run is given up


@dataclass(frozen=True)
class RayPlace:
    """Which Ray, and what one cell asks of it. address: None is a Ray of this machine."""

    address: str | None = None
    threads: int = 1


@dataclass(frozen=True)
class Returned:
    """What a worker sends back: the files it wrote (relative to the run folder), or the error to be shown."""

    seconds: float
    artefacts: tuple[str, ...] = ()
    error: SaelabError | None = None
    reason: str | None = None


_BENCHES: dict[tuple[str, str], Any] = {}  # workspaces of this process: opened once, used for all that comes here


def work_on(cell: Cell, study: str, root: str, threads: int, keepers: Mapping[str, Any]) -> Returned:
    """Do one cell in a worker. study: the study as JSON; keepers: the actors of paid judges, by what for."""
    import torch

    from saelab.study.stages import do
    from saelab.study.workspace import Workspace

    start = time.perf_counter()
    try:
        torch.set_num_threads(threads)
        if (root, study) not in _BENCHES:
            config = StudyConfig.model_validate_json(study)
            asked = {role: AskedJudge(keeper, config.judges[role].name) for role, keeper in keepers.items()}
            _BENCHES.clear()  # one study at a time: models are large
            _BENCHES[root, study] = Workspace(config, RunFolder(Path(root)), asked=asked)
        files = do(cell, _BENCHES[root, study])
        names = tuple(str(f.relative_to(root)) for f in files)
    except SaelabError as error:
        _BENCHES.clear()  # what it read may have changed since
        return Returned(time.perf_counter() - start, error=error)
    except Exception as error:  # a bug or the machine's fault: its name goes to the launcher, which stops
        return Returned(time.perf_counter() - start, reason=reason_of(error))
    return Returned(time.perf_counter() - start, names)


class JudgeKeeper:
    """One of a study's judges in one process (a Ray actor): it asks, it keeps the replies, batch after batch."""

    def __init__(self, study: str, root: str, role: str):
        self._judge = StudyConfig.model_validate_json(study).judges[role].open(RunFolder(Path(root)).replies)

    def name(self) -> str:
        """The judge's name."""
        return self._judge.name

    def judge(self, requests: list[Request]) -> list[Judgement] | SaelabError:
        """Judgements in order; an error meant for a person comes back as itself."""
        try:
            return self._judge.judge(requests)
        except SaelabError as error:
            return error


class AskedJudge:
    """The judge as a worker sees it."""

    def __init__(self, keeper: Any, name: str):
        self._keeper, self._name = keeper, name

    @property
    def name(self) -> str:
        return _get(self._keeper.name.remote())

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        """Ask the keeper; raises what the judge would raise here."""
        with progress.task(f"asking {self._name}", len(requests), "requests"):
            found = _get(self._keeper.judge.remote(list(requests)))
        if isinstance(found, SaelabError):
            raise found
        return found


def run_on_ray(
    cells: Sequence[Cell],
    study: StudyConfig,
    folder: RunFolder,
    ledger: Ledger,
    place: RayPlace,
    progress: Progress = SILENT,
) -> list[Cell]:
    """Run the cells as Ray tasks, each once, and return those that this call had done.

    Raises what a cell raised, after the cells in flight were finished and recorded; `ResourceError` where a cell lost
    its worker `ATTEMPTS` times.
    """
    with _connected(place) as ray, progress.task("study", total=total_of(cells), unit="s (estimated)") as bar:
        desk = _Desk(ray, study, folder, place, Queue(cells, ledger, bar, lambda cell: clear(cell, folder)))
        try:
            while desk.queue.open:
                desk.hand_out()
                desk.collect()
            return desk.ran
        except BaseException as error:
            desk.stop(wait=isinstance(error, SaelabError))
            raise


@dataclass
class _Desk:
    """The launcher's side: what is in flight and what came back."""

    ray: Any
    study: StudyConfig
    folder: RunFolder
    place: RayPlace
    queue: Queue
    flying: dict[Any, Cell] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    ran: list[Cell] = field(default_factory=list)

    def __post_init__(self) -> None:
        ask = self.study.resources
        options = {"num_cpus": self.place.threads, "num_gpus": ask.gpus, "memory": int(ask.memory_gb * 2**30)}
        _check_room(self.ray, options)
        if DEVICE in os.environ:
            options["runtime_env"] = {"env_vars": {DEVICE: os.environ[DEVICE]}}
        self.task = self.ray.remote(work_on).options(max_retries=0, **options)
        self.text, self.root = self.study.model_dump_json(), str(self.folder.root)
        self.keepers = {role: self._keeper(role) for role, judge in self.study.judges.items() if judge.kind.paid}

    def hand_out(self) -> None:
        """Submit every cell whose inputs are done."""
        while (cell := self.queue.take()) is not None:
            self._submit(cell)

    def collect(self) -> None:
        """Wait a little for what comes back, and record it."""
        if not self.flying:
            time.sleep(PATIENCE if self.queue.open else 0.0)
            return
        back, _ = self.ray.wait(list(self.flying), num_returns=1, timeout=PATIENCE)
        for ref in back:
            cell = self.flying.pop(ref)
            try:
                returned = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:  # the worker could not even begin: saelab is not there
                self.queue.ledger.fail(cell.key, reason_of(error))
                raise UserError(
                    f"A worker could not start {cell}: {str(error).strip().splitlines()[-1]}",
                    hint="Install the same saelab on all machines of the cluster.",
                ) from None
            except self.ray.exceptions.RayError as error:
                self._lost(cell, error)
            else:
                self._record(cell, returned)

    def stop(self, *, wait: bool) -> None:
        """Before leaving with an error: let what flies land and record it, or end it."""
        for ref, cell in list(self.flying.items()):
            reason = "stopped"
            if wait:
                with suppress(Exception):
                    returned = self.ray.get(ref)
                    if returned.error is None and returned.reason is None:
                        self._record(cell, returned)
                        continue
                    reason = returned.reason or (reason_of(returned.error) if returned.error else "stopped")
            else:
                self.ray.cancel(ref, force=True)
            self.queue.ledger.fail(cell.key, reason)
        self.flying.clear()

    def _submit(self, cell: Cell) -> None:
        ref = self.task.remote(cell, self.text, self.root, self.place.threads, self.keepers)
        self.flying[ref] = cell

    def _record(self, cell: Cell, returned: Returned) -> None:
        ledger = self.queue.ledger
        failed = returned.error is not None or returned.reason is not None
        if changed := self.queue.damaged(cell, all_of_them=failed):
            self.queue.stale(Stale(cell, changed))
            return
        if failed:
            ledger.fail(cell.key, returned.reason or (reason_of(returned.error) if returned.error else ""))
            raise returned.error or ResourceError(f"{cell} failed on a worker: {returned.reason}")
        files = [self.folder.root / name for name in returned.artefacts]
        unseen = [f for f in files if not f.exists()]
        if unseen:
            ledger.fail(cell.key, "its files cannot be seen from the launcher")
            raise UserError(
                f"A worker wrote {unseen[0]}, which this machine does not see.",
                hint="Put the run folder on a disk that all machines of the cluster share, under one path.",
            )
        ledger.finish(cell.key, returned.seconds, files)
        self.queue.close(cell)
        self.ran.append(cell)

    def _lost(self, cell: Cell, error: Exception) -> None:
        self.losses[cell.key] = self.losses.get(cell.key, 0) + 1
        sentence = f"{cell} lost its worker: {type(error).__name__}"
        self.queue.ledger.fail(cell.key, sentence)
        if self.losses[cell.key] >= ATTEMPTS:
            raise ResourceError(
                f"{sentence}, for the {ATTEMPTS}th time.", hint="Give a cell more memory (resources.memory_gb)."
            )
        self.queue.retake(cell)
        self._submit(cell)

    def _keeper(self, role: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = self.ray.get_runtime_context().get_node_id()  # beside the launcher: it opens the reply cache
        actor = self.ray.remote(JudgeKeeper).options(
            num_cpus=0,
            max_restarts=ATTEMPTS,
            max_task_retries=ATTEMPTS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
        )
        return actor.remote(self.text, self.root, role)


def _get(ref: Any) -> Any:
    import ray

    return ray.get(ref)


def _check_room(ray: Any, options: dict[str, Any]) -> None:
    """Refuse what no machine can ever run: Ray would wait for one to come."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    rooms = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(room.get(names[k], 0) >= v for k, v in options.items()) for room in rooms):
        shown = f"{options['num_cpus']} CPUs, {options['num_gpus']:g} GPUs and {options['memory'] / 2**30:g} GiB"
        most = {k: max((room.get(name, 0) for room in rooms), default=0) for k, name in names.items()}
        raise ResourceError(
            f"A cell asks for {shown}; no machine of the Ray cluster has all of them (most: {most['num_cpus']:g} CPUs, "
            f"{most['num_gpus']:g} GPUs, {most['memory'] / 2**30:.1f} GiB).",
            hint="Lower --threads, or `resources` in the study file.",
        )


@contextmanager
def _connected(place: RayPlace) -> Iterator[Any]:
    """Ray, connected; a connection that was there before is used and left open."""
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingDependency("Running on Ray needs ray.", hint="pip install 'saelab[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(
            address=place.address or "local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    except Exception as error:  # a node that does not start in time is a bare one
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if place.address is None:
            raise ResourceError(
                f"Ray did not start on this machine: {why}",
                hint="Where other work fills the machine, start again later, or run without --on ray.",
            ) from None
        raise UserError(
            f"There is no Ray cluster at {place.address}: {why}",
            hint="Start one with `ray start --head`, or use --on ray for a Ray of this machine.",
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()
