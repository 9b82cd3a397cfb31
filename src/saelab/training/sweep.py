"""Trains many SAEs over one stream of activations.

Every batch is read and scaled once. The SAEs are independent of one another, so they run side by side, each on one
thread when there are at least as many as threads: the results then do not depend on how many cores there are. A few
batches are drawn ahead, so that no SAE waits for the others at every step. This file must never know files.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import get_args

import torch
from torch import Tensor

from saelab.activations.live import LiveActivations
from saelab.core.errors import UserError, nearest
from saelab.core.hardware import limited, multiplies_bfloat16, side_by_side, threads
from saelab.core.progress import SILENT, Progress
from saelab.saes.base import Sae, TrainConfig
from saelab.saes.ranks import ALONE, Ranks
from saelab.saes.transcoder import Transcoder
from saelab.training.config import Precision
from saelab.training.freeze import principal
from saelab.training.inputs import ActivationSource, Batch, Inputs, open_inputs
from saelab.training.start import started
from saelab.training.step import Figures, Trainee

AHEAD = 8  # batches drawn ahead


def train(
    configs: Sequence[TrainConfig],
    batches: Iterable[Tensor] | ActivationSource,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 2048,
    precision: Precision = "auto",
    device: str = "cpu",
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
    starts: Sequence[Sae | None] = (),
) -> list[Sae]:
    """Train SAEs on batches of activations [tokens, d_in]; returns them in the order of the configs, in raw units.

    `batches`: any iterable of tensors (gone through again when shorter than `steps`, unless it is a generator), stored
    activations, or those of a running language model (`saelab.open_stream`), `batch` tokens at a time. `precision` is
    that of the encoder product and of dense products; "auto" takes bfloat16 where the processor multiplies it natively.
    Everything else is float32. `ranks`: the processes that share each batch (training.distributed); every one is given
    the same configs and batches. `device`: where the weights and each batch are while they are trained; the SAEs come
    back on the CPU. `starts`: for every config a finished SAE that its training goes on from (training.start), or None.
    """
    settings = {"steps": steps, "seed": seed, "batch": batch, "precision": precision, "device": device}
    (found,) = _trained([(configs, batches, None)], **settings, progress=progress, ranks=ranks, starts=starts)
    if not all(isinstance(one, Sae) for one in found):
        raise UserError("These configs have d_out, so they are transcoders.", hint="Use train_transcoders.")
    return [one for one in found if isinstance(one, Sae)]


def train_sites(
    configs: Mapping[str, Sequence[TrainConfig]],
    live: LiveActivations,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 2048,
    precision: Precision = "auto",
    device: str = "cpu",
    progress: Progress = SILENT,
) -> dict[str, list[Sae]]:
    """Train SAEs of several sites on one pass of a running language model (`saelab.open_stream`).

    configs: by site. The SAEs come back by site, in the order of their configs, each as `train` would give it.
    """
    if any(cfg.d_out is not None for own in configs.values() for cfg in own):
        raise UserError("These configs have d_out, so they are transcoders.", hint="Use train_transcoders.")
    settings = {"steps": steps, "seed": seed, "batch": batch, "precision": precision, "device": device}
    found = _trained([(own, live.at(site), site) for site, own in configs.items()], **settings, progress=progress)
    return {site: [sae for sae in made if isinstance(sae, Sae)] for site, made in zip(configs, found, strict=True)}


def train_transcoders(
    configs: Sequence[TrainConfig],
    batches: Iterable[Batch] | ActivationSource,
    *,
    steps: int,
    seed: int = 0,
    batch: int = 2048,
    precision: Precision = "auto",
    device: str = "cpu",
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
) -> list[Transcoder]:
    """Train transcoders, whose configs say `d_out`, as `train` trains SAEs.

    `batches`: pairs of tensors [tokens, d_in] and [tokens, d_out], or stored ones (activations/pairs.py). Both ends are
    centred and scaled; FVU is that of the second. Codes come out in its units, decoder rows with norm 1.
    """
    settings = {"steps": steps, "seed": seed, "batch": batch, "precision": precision, "device": device}
    (found,) = _trained([(configs, batches, None)], **settings, progress=progress, ranks=ranks)
    if not all(isinstance(one, Transcoder) for one in found):
        raise UserError("A transcoder's config says the width of what it rebuilds: d_out.", hint="Use train for SAEs.")
    return [one for one in found if isinstance(one, Transcoder)]


def _trained(
    parts: Sequence[tuple[Sequence[TrainConfig], Iterable[Batch] | ActivationSource, str | None]],
    *,
    steps: int,
    seed: int,
    batch: int,
    precision: Precision,
    device: str,
    progress: Progress,
    ranks: Ranks = ALONE,
    starts: Sequence[Sae | None] = (),
) -> list[list[Sae | Transcoder]]:
    """What is trained of each part: configs, their batches, and the site where it is known."""
    if not parts:
        raise UserError("Nothing to train: no site.")
    asked = {"steps": steps, "seed": seed, "batch": batch, "device": device}
    own = {"steps": steps, "seed": seed, "precision": precision, "ranks": ranks, "starts": starts}
    fed: list[tuple[list[Trainee], Inputs]] = []
    for configs, batches, _ in parts:
        check(configs, steps)
        inputs = open_inputs(batches, **asked, d_in=read_width(configs))
        fed.append((enrol(configs, inputs, **own), inputs))
    advance(fed, progress=progress)
    return [
        [t.finish(inputs.scaling, seed=seed, site=site) for t in group]
        for (_, _, site), (group, inputs) in zip(parts, fed, strict=True)
    ]


def read_width(configs: Sequence[TrainConfig]) -> int | None:
    """Of transcoders, how many columns of a batch are what is read; None of SAEs, which read all."""
    return None if configs[0].d_out is None else configs[0].d_in


def check(configs: Sequence[TrainConfig], steps: int) -> None:
    """Refuse an empty run and configs that read different widths."""
    if not isinstance(configs, Sequence):
        raise UserError("Configs are given as a list, also where it is one.", hint="train([config], ...)")
    if not isinstance(steps, int):
        raise UserError(f"steps is a whole number, not {steps!r}.")
    if not configs or steps < 1:
        raise UserError(f"Nothing to train: {len(configs)} SAEs, {steps} steps.")
    widths = sorted({c.d_in for c in configs})
    if len(widths) > 1:
        raise UserError(f"SAEs of one stream must read one width, but the configs say d_in = {widths}.")
    if len({c.d_out for c in configs}) > 1:
        raise UserError("SAEs of one stream must rebuild one site, but their configs say several d_out.")


def enrol(
    configs: Sequence[TrainConfig],
    inputs: Inputs,
    *,
    steps: int,
    seed: int,
    precision: Precision = "auto",
    ranks: Ranks = ALONE,
    starts: Sequence[Sae | None] = (),
) -> list[Trainee]:
    """Trainees for the configs, fresh or with the weights of the SAEs that they go on from."""
    if len(inputs.first) % ranks.size:
        raise UserError(f"A batch of {len(inputs.first)} tokens cannot be split evenly over {ranks.size} processes.")
    cfg, width = configs[0], inputs.first.shape[1]
    if width != cfg.d_in + (cfg.d_out or 0):
        said = f"d_in = {cfg.d_in}" + (f" and d_out = {cfg.d_out}" if cfg.d_out else "")
        raise UserError(f"The activations have width {width}, but the configs say {said}.")
    sample = inputs.scaling(inputs.first)
    dtype = resolve(precision, str(sample.device))
    if len(starts or configs) != len(configs):
        raise UserError(f"There are {len(configs)} configs and {len(starts)} SAEs to begin with: one each, or None.")
    own = [
        None if sae is None else started(sae, c, inputs.scaling)
        for c, sae in zip(configs, starts or [None] * len(configs), strict=True)
    ]
    axes = principal(inputs.scaling(inputs.sample())) if any(c.freeze == "principal" for c in configs) else None
    some = {"steps": steps, "seed": seed, "dtype": dtype, "ranks": ranks, "axes": axes}
    return [Trainee(c, sample, start=start, **some) for c, start in zip(configs, own, strict=True)]


def advance(
    fed: Sequence[tuple[Sequence[Trainee], Inputs]],
    *,
    progress: Progress = SILENT,
    observe: Callable[[list[list[Figures]], int], None] | None = None,
) -> None:
    """Run all trainees to the end of their streams, which are read in step.

    After every few batches `observe` gets the figures per trainee and step, and the number of tokens per batch.
    """
    trainees = [trainee for group, _ in fed for trainee in group]
    steps, done, ranks = trainees[0].steps, trainees[0].done, trainees[0].ranks
    # Ranks talk in one order, so with several of them the SAEs take turns.
    jobs, all_threads = len(trainees) if ranks.size == 1 else 1, threads()
    with side_by_side(jobs) as pool, progress.task("training", steps * len(trainees), "SAE steps") as task:
        task.found(done * len(trainees))
        while True:
            began = time.monotonic()
            with limited(all_threads):  # a stream runs a language model
                groups = [[inputs.scaling(_part(x, ranks)) for x in islice(inputs.batches, AHEAD)] for _, inputs in fed]
            if not all(groups):
                break
            work = [(t, batches) for (group, _), batches in zip(fed, groups, strict=True) for t in group]
            figures = list(pool.map(lambda job: [job[0].step(x) for x in job[1]], work))
            done += len(groups[0])
            tokens = groups[0][0].shape[0] * ranks.size
            speed = tokens * len(groups[0]) * len(trainees) / max(1e-9, time.monotonic() - began)
            task.advance(len(groups[0]) * len(trainees), **{"tokens/s": round(speed)}, **_shown(figures, trainees))
            if observe is not None:
                observe(figures, tokens)
    if done < steps:
        raise UserError(
            f"The activations ended after {done} batches, but {steps} steps were asked for.",
            hint="Give a list or a DataLoader (they are gone through again), or ask for fewer steps.",
        )


def _part(x: Tensor, ranks: Ranks) -> Tensor:
    """The rows of a batch that fall to this rank."""
    rows = len(x) // ranks.size
    return x[ranks.index * rows : (ranks.index + 1) * rows]


def _shown(figures: list[list[Figures]], trainees: Sequence[Trainee]) -> dict[str, float]:
    last = [f[-1] for f in figures]
    off = [abs(f.l0 / t.cfg.level - 1) for f, t in zip(last, trainees, strict=True)]
    mean_fvu = sum(f.fvu for f in last) / len(last)
    return {"fvu": mean_fvu, "l0 off by": max(off), "dead": max(f.dead for f in last)}


def resolve(precision: Precision, device: str = "cpu") -> torch.dtype:
    """The dtype of the large products."""
    if precision not in get_args(Precision):
        raise UserError(f"There is no precision {precision!r}.", hint=nearest(precision, get_args(Precision)))
    if precision == "auto":
        precision = "bfloat16" if multiplies_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
