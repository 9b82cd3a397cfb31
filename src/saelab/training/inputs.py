"""What SAEs are fed: batches centred at the data's mean and scaled to unit mean squared deviation, checked to be
finite.

    x' = (x - m) / s,   m = E x,   s² = E ||x - m||²

so that the reconstruction loss is the fraction of variance unexplained and no setting depends on the LM's activation
scale (dictionary_learning scales to E ||x||² = 1, SAELens to mean norm √d: there a large mean eats the scale). m and s
come from the source where it knows them, otherwise from its first batches. They are folded into the weights at the end
(saes/base.py). A transcoder's batches hold both sites side by side, [x, y], each scaled by its own m and s.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.hardware import device_of

Batch = Tensor | tuple[Tensor, Tensor]  # what is read, and of transcoders what is rebuilt
SAMPLE_BATCHES = 8  # batches that m and s are estimated from when the source does not know them


@dataclass(frozen=True)
class Scaling:
    """The mean and the root mean squared deviation of the inputs. out: those of what is rebuilt, where that is another
    site, whose columns then follow those of the inputs.
    """

    mean: Float[Tensor, " D"]
    scale: float
    out: "Scaling | None" = None

    def __call__(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """x' = (x - m) / s in float32, on the device of the mean."""
        if self.out is not None:
            d = len(self.mean)
            return torch.cat([Scaling(self.mean, self.scale)(x[:, :d]), self.out(x[:, d:])], 1)
        return (x.to(self.mean.device, torch.float32) - self.mean) / self.scale

    def to(self, device: torch.device) -> "Scaling":
        """The same scaling, of inputs that then lie on a device."""
        return Scaling(self.mean.to(device), self.scale, self.out and self.out.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """As tensors, for a checkpoint."""
        found = {"mean": self.mean, "scale": torch.tensor(self.scale, dtype=torch.float64)}
        return found | ({f"out.{name}": t for name, t in self.out.tensors().items()} if self.out else {})

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Scaling":
        """What `tensors` gave."""
        out = {name.removeprefix("out."): t for name, t in tensors.items() if name.startswith("out.")}
        return cls(tensors["mean"], float(tensors["scale"]), cls.of(out) if out else None)


@runtime_checkable
class ActivationSource(Protocol):
    """Activations with a seeded order of their own (activations.shards), resumable at any step."""

    @property
    def moments(self) -> Any:
        """.mean [D] and .mean_square (E ||x||²)."""
        ...

    def batches(self, batch_size: int, /, *, steps: int, seed: int, start: int) -> Iterator[Float[Tensor, "B D"]]:
        """Batches number start, start + 1, ..., steps - 1."""
        ...


@runtime_checkable
class Recalls(Protocol):
    """A source that finds a late batch sooner by what it has seen. No batch depends on it."""

    @property
    def order(self) -> Mapping[str, int | str]:
        """What decides, beside seed and batch size, which rows come when."""
        ...

    @property
    def seen(self) -> dict[str, Tensor]:
        """What it has seen, for a checkpoint."""
        ...

    def recall(self, seen: Mapping[str, Tensor]) -> None:
        """Take over what an earlier run has seen."""
        ...


def scaling_of(batches: Iterable[Tensor], d_in: int | None = None) -> Scaling:
    """Mean and root mean squared deviation of the rows of some batches. d_in: where the columns of what is read end."""
    rows = torch.cat([b.to(torch.float32) for b in batches])
    if d_in is not None:
        if rows.shape[1] <= d_in:
            raise UserError(
                f"The batches are {rows.shape[1]} wide, and a transcoder that reads {d_in} has nothing to rebuild.",
                hint="Give pairs of both sites.",
            )
        read, out = scaling_of([rows[:, :d_in]]), scaling_of([rows[:, d_in:]])
        return Scaling(read.mean, read.scale, out)
    mean = rows.mean(0)
    return _scaling(mean, float((rows - mean).square().sum(1).mean()))


def _scaling_by(moments: Any, d_in: int | None) -> Scaling:
    """From the moments that a source knows: of one site, or of both (`parts`)."""
    if d_in is not None:
        if not hasattr(moments, "parts"):
            raise UserError(
                "These activations are of one site, and a transcoder reads one and rebuilds another.",
                hint="Give those of both: PairedShards(read, written), or live.at(read, written) of a stream.",
            )
        read, out = (_scaling_by(part, None) for part in moments.parts)
        return Scaling(read.mean, read.scale, out)
    return _scaling(moments.mean, moments.mean_square - float(moments.mean.double().square().sum()))


def _scaling(mean: Float[Tensor, " D"], variance: float) -> Scaling:
    if not variance > 0:
        raise UserError("The activations do not vary: their mean squared deviation is zero.")
    return Scaling(mean.to(torch.float32), variance**0.5)


@dataclass
class Inputs:
    """A finite stream of batches from step `start`, with the scaling that goes with it. sample: draws some batches of
    its beginning, whatever the step.
    """

    scaling: Scaling
    first: Float[Tensor, "B D"]
    batches: Iterator[Tensor]
    sample: Callable[[], Float[Tensor, "M D"]]


def open_inputs(
    source: Iterable[Batch] | ActivationSource,
    *,
    steps: int,
    seed: int,
    batch: int = 2048,
    start: int = 0,
    scaling: Scaling | None = None,
    device: str = "cpu",
    d_in: int | None = None,
) -> Inputs:
    """Open a source at step `start`. A list or DataLoader shorter than `steps` is gone through again and again.

    d_in: of transcoders, the width of what is read; batches hold both sites, as pairs or side by side. Scaled batches
    lie on `device`; a `UserError` where this machine has no such device.
    """
    place = device_of(device)
    if isinstance(source, ActivationSource):
        if scaling is None:
            scaling = _scaling_by(source.moments, d_in)
        stream = _checked(source.batches(batch, seed=seed, steps=steps, start=start), start)
        beginning = source.batches(batch, seed=seed, steps=min(steps, SAMPLE_BATCHES), start=0)  # read when asked for
    else:
        stream = islice(_checked(_repeated(source), 0), steps)
        beginning = list(islice(stream, SAMPLE_BATCHES))
        if scaling is None and beginning:
            scaling = scaling_of(beginning, d_in)
        stream = islice(chain(beginning, stream), start, None)
    first = next(stream, None)
    if scaling is None or first is None:
        raise UserError("There are no activations to train on: the source of batches is empty.")
    return Inputs(scaling.to(place), first, chain([first], stream), lambda: torch.cat(list(beginning)))


def _repeated(source: Iterable[Batch]) -> Iterator[Tensor]:
    while True:
        empty = True
        for item in source:
            empty = False
            yield torch.cat(list(item), 1) if isinstance(item, tuple) else item
        if empty or isinstance(source, Iterator):
            return


def _checked(stream: Iterator[Tensor], start: int) -> Iterator[Tensor]:
    width = None
    for step, x in enumerate(stream, start):
        if not isinstance(x, Tensor) or x.ndim != 2:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise UserError(f"Batch {step} should be a tensor of shape [tokens, d_in], but it is {shape}.")
        width = x.shape[1] if width is None else width
        if not len(x) or x.shape[1] != width:
            raise UserError(f"Batch {step} is of shape {tuple(x.shape)}; every batch has rows, and of one width.")
        if not bool(torch.isfinite(x.sum())):
            bad = (~torch.isfinite(x).all(1)).nonzero().squeeze(1)
            if bad.numel():
                raise UserError(
                    f"Batch {step} holds NaN or infinite activations in {bad.numel()} rows (first: row {int(bad[0])}).",
                    hint="Nothing was learnt from it; check the language model's precision or the stored shards.",
                )
        yield x
