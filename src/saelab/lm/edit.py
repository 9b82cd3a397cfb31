"""Edits: how an activation is changed at a site, per batch row and per position.

With x the activation `[T, D]` of a row, v its direction, a its strength (AxBench, arXiv 2501.17148, section 3):

    Add      x + a v                                  strength 0 returns x bit for bit
    Clamp    x + (a - z(x)) v                         z: the measure, by default the coordinate x.v / v.v
    Replace  the given values
    Ablate   x - ((x - m).v / v.v) v, or m without v  m: the mean, 0 where none is given
    Splice   f(x) for any function of `[B, T, D]`     for instance an SAE's reconstruction

Row i of a per-row vector or strength belongs to row i of the whole batch, however it is split or sorted on the way.
Positions: "prompt" (every prompt token), "generated" (every generated token, so the first one is still chosen by an
unedited prompt), "last" (the last prompt token only), "all" (prompt and generated). Edits know nothing of models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.sites import Site, parse_site

Positions = Literal["all", "prompt", "generated", "last"]
Vector = Float[Tensor, " D"] | Float[Tensor, "B D"]
PerRow = float | int | Float[Tensor, " B"]
Measure = Callable[[Tensor, Tensor], Tensor]


@runtime_checkable
class Edit(Protocol):
    """A change at one site."""

    @property
    def site(self) -> Site | str:
        """Where."""
        ...

    @property
    def positions(self) -> Positions:
        """At which positions."""
        ...

    def apply(self, x: Float[Tensor, "B T D"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B T D"]:
        """The changed activation; `rows[i]` is the number, in the whole batch, of the row at i."""
        ...


@dataclass(frozen=True)
class Add:
    """Add `strength * vector`. A row of strength 0 is returned bit for bit."""

    site: Site | str
    vector: Vector
    strength: PerRow = 1.0
    positions: Positions = "all"

    def apply(self, x: Float[Tensor, "B T D"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B T D"]:
        """x + strength * vector."""
        strength = _per_row(self.strength, rows, x)
        moved = x + (strength * _vectors(self.vector, rows, x)).to(x.dtype)
        return torch.where(strength == 0, x, moved)


@dataclass(frozen=True)
class Clamp:
    """Set what `measure` gives to `value` by moving along `vector`: x + (value - z(x)) vector.

    measure: called as measure(x [B, T, D], rows [B]) -> z [B, T], for instance an SAE latent per row; without one, z is
    the coordinate of x on `vector`. at_least: never lower what is already above `value` (AxBench's min-clamp).
    """

    site: Site | str
    vector: Vector
    value: PerRow
    measure: Measure | None = None
    at_least: bool = False
    positions: Positions = "all"

    def apply(self, x: Float[Tensor, "B T D"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B T D"]:
        """x + (value - z(x)) * vector."""
        vector = _vectors(self.vector, rows, x)
        read = self.measure(x, rows)[..., None] if self.measure is not None else _coordinate(x, vector)
        change = _per_row(self.value, rows, x) - read.float()
        if self.at_least:
            change = change.clamp_min(0)
        return x + (change * vector).to(x.dtype)


@dataclass(frozen=True)
class Replace:
    """Put `values` (one vector, one per row, or a function of x) in place of the activation."""

    site: Site | str
    values: Vector | Callable[[Tensor], Tensor]
    positions: Positions = "all"

    def apply(self, x: Float[Tensor, "B T D"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B T D"]:
        """The values, broadcast over positions."""
        if isinstance(self.values, Tensor):
            return _vectors(self.values, rows, x).to(x.dtype).expand_as(x)
        return _same_shape(self.values(x), x)


@dataclass(frozen=True)
class Ablate:
    """Set the coordinate on `vector` to that of `mean` (or 0); without a vector put `mean` (or 0) for all of x."""

    site: Site | str
    vector: Vector | None = None
    mean: Float[Tensor, " D"] | None = None
    positions: Positions = "all"

    def apply(self, x: Float[Tensor, "B T D"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B T D"]:
        """x - ((x - mean).v / v.v) v, or mean."""
        mean = torch.zeros(x.shape[-1], device=x.device) if self.mean is None else self.mean.to(x.device)
        if self.vector is None:
            return mean.to(x.dtype).expand_as(x)
        vector = _vectors(self.vector, rows, x)
        return x - (_coordinate(x - mean.to(x.dtype), vector) * vector).to(x.dtype)


@dataclass(frozen=True)
class Splice:
    """Put `fn(x)` in place of x `[B, T, D]`; the function must treat rows alike."""

    site: Site | str
    fn: Callable[[Tensor], Tensor]
    positions: Positions = "all"

    def apply(self, x: Float[Tensor, "B T D"], rows: Int[Tensor, " B"]) -> Float[Tensor, "B T D"]:
        """fn(x)."""
        del rows
        return _same_shape(self.fn(x), x)


def check_edit(edit: Edit, *, rows: int, width: int) -> Site:
    """The edit's site, after checking its tensors against the batch; a `UserError` says which size is wrong."""
    site = parse_site(edit.site)
    for name in ("vector", "values", "mean", "strength", "value"):
        tensor = getattr(edit, name, None)
        if not isinstance(tensor, Tensor):
            continue
        what = f"{type(edit).__name__} at {site}: {name} has shape {list(tensor.shape)}"
        is_vector = name in ("vector", "values", "mean")
        if is_vector and tensor.shape[-1] != width:
            raise UserError(f"{what}, but the site is {width} wide.", hint="Is it a direction of this site?")
        if tensor.ndim == (2 if is_vector else 1) and tensor.shape[0] != rows:
            raise UserError(f"{what}, but the batch has {rows} rows.", hint="Give one for all rows, or one per row.")
    return site


def _vectors(vector: Tensor, rows: Tensor, x: Tensor) -> Tensor:
    """[D] or [B, D] as float32 [1 or b, 1, D]."""
    vector = vector.to(x.device, torch.float32)
    return vector[rows][:, None, :] if vector.ndim == 2 else vector[None, None, :]


def _per_row(value: PerRow, rows: Tensor, x: Tensor) -> Tensor:
    """A number or [B] as float32 [1 or b, 1, 1]."""
    value = torch.as_tensor(value, dtype=torch.float32, device=x.device)
    return value[rows][:, None, None] if value.ndim == 1 else value.view(1, 1, 1)


def _coordinate(x: Tensor, vector: Tensor) -> Tensor:
    """x.v / v.v, float32 [B, T, 1]."""
    return (x.float() * vector).sum(-1, keepdim=True) / vector.square().sum(-1, keepdim=True)


def _same_shape(new: Tensor, x: Tensor) -> Tensor:
    if new.shape != x.shape:
        raise UserError(f"A function at a site must keep the shape: {list(x.shape)} became {list(new.shape)}.")
    return new.to(x.dtype)
