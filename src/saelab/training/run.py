"""Trains all SAEs of one site, or of several read in step, writes them, and survives being killed.

    <saes>/<name>/            the SAEs (native folder)
    <folder>/metrics.parquet  one row per SAE and every few steps
    <folder>/checkpoints/     while it runs

The same call after a SIGKILL goes on from the last checkpoint and ends with the same bytes as an uninterrupted run:
batch i is a function of (seed, i), of stored activations and of a stream alike, and a checkpoint holds all the rest.
SIGTERM and Ctrl-C write a checkpoint first.
The only file of this stage with I/O beside checkpoint.py.
"""

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import Any

import polars as pl
import torch

from saelab.core.config import digest_of
from saelab.core.errors import UserError
from saelab.core.hardware import device_of
from saelab.core.progress import SILENT, Progress
from saelab.saes.base import Sae, TrainConfig
from saelab.saes.formats import save_native
from saelab.saes.given import sum_of
from saelab.saes.ranks import ALONE, Ranks
from saelab.store.files import sweep
from saelab.store.folders import METRICS
from saelab.store.tables import write_table
from saelab.training.checkpoint import Checkpoint, latest
from saelab.training.config import TrainingConfig
from saelab.training.inputs import ActivationSource, Inputs, Recalls, Scaling, open_inputs
from saelab.training.sinks import Sink, tracker
from saelab.training.step import Figures, Trainee
from saelab.training.sweep import advance, check, enrol, read_width, resolve

COLUMNS = {
    "sae": pl.String,
    "step": pl.Int64,
    "tokens": pl.Int64,
    "loss": pl.Float64,
    "fvu": pl.Float64,
    "l0": pl.Float64,
    "target_l0": pl.Float64,
    "dead_share": pl.Float64,
    "lr": pl.Float64,
    "coefficient": pl.Float64,
    "tokens_per_second": pl.Float64,
}


@dataclass(frozen=True)
class Share:
    """What is trained on the activations of one site in a run. seed: of its SAEs' first weights.

    site_out: what transcoders rebuild; the activations are then those of both sites (activations/pairs.py). starts: by
    name, finished SAEs whose weights training begins with (training/start.py).
    """

    configs: Mapping[str, TrainConfig]
    activations: ActivationSource
    seed: int
    site: str | None = None
    site_out: str | None = None
    starts: Mapping[str, Sae] = field(default_factory=dict[str, Sae])


SEEN = "seen"  # where a checkpoint keeps what a stream has counted


def run(
    config: TrainingConfig,
    configs: Mapping[str, TrainConfig],
    activations: ActivationSource,
    *,
    saes: Path,
    folder: Path,
    seed: int = 0,
    lm: str | None = None,
    site: str | None = None,
    site_out: str | None = None,
    text: str | None = None,
    starts: Mapping[str, Sae] | None = None,
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
) -> list[Path]:
    """Train the SAEs named by `configs` and write them to `<saes>/<name>`; returns the files written.

    lm, site, text: what the activations are of, which the SAEs' files then say. site_out, starts: see `Share`. The rest
    as for `run_shares`.
    """
    share = Share(configs, activations, seed, site, site_out, starts or {})
    named = {"lm": lm, "text": text}
    return run_shares(config, [share], saes=saes, folder=folder, seed=seed, **named, progress=progress, ranks=ranks)


def run_shares(
    config: TrainingConfig,
    shares: Sequence[Share],
    *,
    saes: Path,
    folder: Path,
    seed: int = 0,
    lm: str | None = None,
    text: str | None = None,
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
) -> list[Path]:
    """Train SAEs of several sites, whose batches are read in step; of one stream, on one pass of the language model.

    seed: of the order of the batches. lm, text: what the SAEs' files say. With several `ranks` (training.distributed)
    every one makes the same call with the same folders, which all can read; the first writes.

    Raises `UserError` for NaN or infinite activations or widths that do not fit, `ResourceError` for a full disk (what
    was written before stays and the same call goes on from it), `ArtefactError` for damaged activations.
    """
    for share in shares:
        check(list(share.configs.values()), config.steps)
    keys = [run_key(config, s.configs, s.activations, s.seed, s.starts) for s in shares]
    key = keys[0] if len(keys) == 1 else digest_of({"seed": seed, "shares": keys})
    session = _Session(config, list(shares), folder, seed, key, ranks)
    fed = session.open()
    session.sink = tracker(name=f"{folder.name} {key[:8]}") if ranks.index == 0 else None
    with _stopping() as stop:
        if session.done < config.steps:
            advance(fed, progress=progress, observe=lambda f, n: session.observe(f, n, stop))
    if session.sink is not None:
        session.sink.close()
    written = session.finish(saes, text, lm) if ranks.index == 0 else []
    ranks.total(torch.zeros(1))  # all leave together: a rank may read what the first has written
    return written


def run_key(
    config: TrainingConfig,
    configs: Mapping[str, TrainConfig],
    activations: ActivationSource,
    seed: int,
    starts: Mapping[str, Sae] | None = None,
) -> str:
    """Names what determines the result: settings, data (its moments, and of a stream its order), seed, the precision of
    this machine, and the weights that training begins with.
    """
    moments = activations.moments
    data = {
        "saes": {name: c.model_dump(mode="json") for name, c in configs.items()},
        "steps": config.steps,
        "batch": config.batch,
        "device": device_of(config.device).type,
        "precision": str(resolve(config.precision, config.device)),
        "seed": seed,
        "moments": [float(moments.mean_square), float(moments.mean.double().sum())],
    }
    data |= {"order": dict(activations.order)} if isinstance(activations, Recalls) else {}
    return digest_of(data | ({"starts": {name: sum_of(sae) for name, sae in starts.items()}} if starts else {}))


@dataclass
class _Session:
    """What a run accumulates: the steps done, the metrics rows, when the last checkpoint was written."""

    config: TrainingConfig
    shares: list[Share]
    folder: Path
    seed: int
    key: str
    ranks: Ranks = ALONE
    sink: Sink | None = None
    done: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    fed: list[tuple[list[Trainee], Inputs]] = field(default_factory=list)
    written: float = field(default_factory=time.monotonic)
    seen: float = field(default_factory=time.monotonic)

    @property
    def configs(self) -> dict[str, TrainConfig]:
        """Of all shares, in order."""
        return {name: c for share in self.shares for name, c in share.configs.items()}

    @property
    def trainees(self) -> list[Trainee]:
        """In the order of the configs."""
        return [trainee for group, _ in self.fed for trainee in group]

    def open(self) -> list[tuple[list[Trainee], Inputs]]:
        """Trainees and inputs of every share at the last checkpoint, or at the start."""
        self.ranks.total(torch.zeros(1))  # what the first rank wrote is there before another reads
        found = latest(self.folder / "checkpoints", self.key)
        at = self.ranks.gather(torch.tensor([found.step if found else 0])).unique()
        if len(at) > 1:
            raise UserError(
                f"The processes see different checkpoints in {self.folder} (steps {at.tolist()}).",
                hint="Give a folder that all of them share.",
            )
        if found is not None:
            self.done, self.rows = found.step, found.metrics.to_dicts()
        self.fed = [self._open(i, share, found) for i, share in enumerate(self.shares)]
        if found is not None:
            for name, trainee in zip(self.configs, self.trainees, strict=True):
                trainee.load(found.tensors[name], found.numbers[name])
        return self.fed

    def _open(self, i: int, share: Share, found: Checkpoint | None) -> tuple[list[Trainee], Inputs]:
        config, configs = self.config, list(share.configs.values())
        if found is not None and isinstance(share.activations, Recalls) and SEEN in found.tensors:
            share.activations.recall(found.tensors[SEEN])
        inputs = open_inputs(
            share.activations,
            steps=config.steps,
            seed=self.seed,
            batch=config.batch,
            # A finished run that was killed before its SAEs were written still needs a batch for shapes.
            start=min(self.done, config.steps - 1),
            scaling=None if found is None else Scaling.of(found.tensors[_scaling(i)]),
            device=config.device,
            d_in=read_width(configs),
        )
        trainees = enrol(
            configs,
            inputs,
            steps=config.steps,
            seed=share.seed,
            precision=config.precision,
            ranks=self.ranks,
            starts=[share.starts.get(name) for name in share.configs],
        )
        return trainees, inputs

    def observe(self, figures: list[list[Figures]], tokens: int, stop: "_Stop") -> None:
        """Take in the figures of a group of steps; write a checkpoint when it is time or when asked to stop."""
        now = time.monotonic()
        speed = tokens * len(figures[0]) * len(figures) / max(1e-9, now - self.seen)
        self.seen = now
        for i in range(len(figures[0])):
            step = self.done + i + 1
            if step % self.config.metrics_every and step != self.config.steps:
                continue
            for name, of in zip(self.configs, figures, strict=True):
                row = self._row(name, step, of[i], speed)
                self.rows.append(row)
                if self.sink is not None:
                    self.sink.log({f"{name}/{k}": v for k, v in row.items() if isinstance(v, float)}, step)
        self.done += len(figures[0])
        # A signal may reach one rank only: all must leave after the same step.
        stop.asked = int(self.ranks.gather(torch.tensor([stop.asked])).max())
        if stop.asked or (now - self.written >= self.config.checkpoint_seconds and self.done < self.config.steps):
            self.write()
            self.written = self.seen = time.monotonic()
        stop.obey()

    def _row(self, name: str, step: int, figures: Figures, speed: float) -> dict[str, Any]:
        values = asdict(figures)
        values["dead_share"] = values.pop("dead")
        about = {"sae": name, "step": step, "tokens": step * self.config.batch, "tokens_per_second": speed}
        return about | {"target_l0": float(self.configs[name].level)} | values

    def table(self) -> pl.DataFrame:
        """The metrics so far."""
        return pl.DataFrame(self.rows, schema=COLUMNS)

    def write(self) -> None:
        """Write a checkpoint (the first rank; the others have the same state)."""
        if self.ranks.index:
            return
        tensors, numbers = {_scaling(i): inputs.scaling.tensors() for i, (_, inputs) in enumerate(self.fed)}, {}
        if isinstance(source := self.shares[0].activations, Recalls):
            tensors[SEEN] = source.seen
        for name, trainee in zip(self.configs, self.trainees, strict=True):
            tensors[name], numbers[name] = trainee.state()
        place, kept = self.folder / "checkpoints", self.config.checkpoints
        Checkpoint(self.key, self.done, tensors, numbers, self.table()).write(place, kept=kept)

    def finish(self, saes: Path, text: str | None, lm: str | None) -> list[Path]:
        """Write the SAEs and the metrics, and drop the checkpoints; returns the files."""
        config = self.config
        last = {row["sae"]: row for row in self.rows[-len(self.configs) :]}
        written: list[Path] = []
        for share, (trainees, inputs) in zip(self.shares, self.fed, strict=True):
            said = {"lm": lm, "site": share.site, "site_out": share.site_out}
            for name, trainee in zip(share.configs, trainees, strict=True):
                about = {"seed": share.seed, "tokens_trained": config.steps * config.batch, "versions": _versions()}
                about |= {"dataset_path": text} if text else {}  # SAELens' name for it
                if (start := share.starts.get(name)) is not None:
                    about |= {"started_from": {"sha256": sum_of(start)} | _trained_before(start)}
                about |= {"l0": last[name]["l0"], "precision": str(trainee.dtype)[6:]}
                save_native(trainee.finish(inputs.scaling, **said, **about), saes / name)
                sweep(saes / name)  # of a run that was killed as it wrote here
                written += sorted((saes / name).iterdir())
        metrics = self.folder / METRICS
        write_table(metrics, self.table())
        rmtree(self.folder / "checkpoints", ignore_errors=True)
        sweep(self.folder)
        return [*written, metrics]


def _scaling(share: int) -> str:
    """Where a checkpoint keeps the scaling of a share."""
    return f"scaling.{share}" if share else "scaling"


@dataclass
class _Stop:
    """A wish to stop, set by a signal and obeyed after a checkpoint."""

    asked: int = 0

    def obey(self) -> None:
        """Leave as the signal would have."""
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked:
            raise SystemExit(128 + self.asked)


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """While open, SIGTERM and Ctrl-C ask for a stop; a second Ctrl-C stops at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        del frame
        if stop.asked == signal.SIGINT == number:
            raise KeyboardInterrupt
        stop.asked = number

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _trained_before(start: Sae) -> dict[str, Any]:
    said = start.cfg.metadata.get("tokens_trained")
    return {"tokens_trained": said} if isinstance(said, int) else {}


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("saelab", "torch")}
