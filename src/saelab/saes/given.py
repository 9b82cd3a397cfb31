"""SAEs that a program holds in memory, of any class: what is asked of them, and the names by which a study finds them.

A peer's object is asked to encode and decode by itself, so that nothing of its conventions is guessed. It has no file
here: a study keeps its name and a sum of all that it holds, and only a program that gives it can go on with the study.
This file must never know a peer's library.
"""

import copy
import hashlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.sites import find_site
from saelab.saes.base import Sae, SaeConfig

HELD = "held:"  # before the name of an SAE that a program holds
_HELD: dict[str, Sae] = {}
CHECKED = 16  # rows of the decoder that are held against what `decode` writes
MOST_HELD = 10_000  # objects below an SAE that are looked at
_INTERNAL = tuple(vars(torch.nn.Module()))  # what every module holds


@runtime_checkable
class SaeLike(Protocol):
    """What any SAE must have to be judged: its decoder [F, D] with a row per feature, and the two halves.

    encode maps activations [N, D] to codes [N, F] in raw activation units, decode maps codes to activations. Tensors
    come and go on the device and in the dtype of W_dec. `cfg`, W_enc [D, F], b_enc [F] and b_dec [D] are read where
    they are there.
    """

    W_dec: Any

    def encode(self, x: Any) -> Any: ...

    def decode(self, codes: Any) -> Any: ...


class GivenSae(Sae):
    """A peer's object under the house's names. Its codes and reconstructions are its own."""

    saelens_name = "given"

    def __init__(self, thing: SaeLike, cfg: SaeConfig, sha256: str):
        torch.nn.Module.__init__(self)
        self.cfg, self.sha256 = cfg, sha256
        self._thing = (thing,)  # in a tuple, so that it is no part of this module
        shapes = {"W_enc": (cfg.d_in, cfg.d_sae), "b_enc": (cfg.d_sae,), "b_dec": (cfg.d_in,)}
        self.register_buffer("W_dec", _plain(thing.W_dec))
        for name, shape in shapes.items():
            tensor = getattr(thing, name, None)
            if isinstance(tensor, Tensor) and tuple(tensor.shape) == shape:
                self.register_buffer(name, _plain(tensor))
        if not hasattr(self, "b_dec"):
            self.register_buffer("b_dec", self.decode(torch.zeros(1, cfg.d_sae))[0])

    @property
    def has_encoder(self) -> bool:
        """Whether its encoder is one matrix and its biases, which matching and SAEBench's core read."""
        return {"W_enc", "b_enc"} <= dict(self.named_buffers()).keys()

    def activate(self, pre: Float[Tensor, "... F"]) -> Float[Tensor, "... F"]:
        raise UserError("An SAE that a program holds encodes as a whole.")

    def encode(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... F"]:
        if x.shape[-1] != self.cfg.d_in:
            raise UserError(f"The SAE reads vectors of width {self.cfg.d_in}, but got width {x.shape[-1]}.")
        return self._asked("encode", x, self.cfg.d_sae)

    def decode(self, codes: Float[Tensor, "... F"]) -> Float[Tensor, "... D"]:
        return self._asked("decode", codes, self.cfg.d_in)

    def _asked(self, half: str, rows: Tensor, width: int) -> Tensor:
        (thing,) = self._thing
        like = thing.W_dec
        mine = rows.reshape(-1, rows.shape[-1]).to(like.device, like.dtype, copy=True)  # it may work in place
        with torch.no_grad(), _still(thing):
            found = getattr(thing, half)(mine)
        if isinstance(found, Tensor) and found.layout != torch.strided:
            found = found.to_dense()
        if not isinstance(found, Tensor) or tuple(found.shape) != (rows[..., 0].numel(), width):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                f"{type(thing).__name__}.{half} gave {shape} for {rows[..., 0].numel()} rows.",
                hint=f"It must give {width} columns: encode maps [N, D] to [N, F], decode [N, F] to [N, D].",
            )
        return found.to(rows.device, torch.float32).reshape(*rows.shape[:-1], width)


def given_sae(thing: Any, *, site: str | None = None, lm: str | None = None) -> Sae:
    """Any object that is an SAE (`SaeLike`) as one of the house's; a house SAE is returned with what is said of it.

    site, lm: what the object's `cfg` does not say. Raises `UserError` for what is none, naming what it lacks.
    """
    if isinstance(thing, Sae):
        own = copy.copy(thing)
        own.cfg = own.cfg.model_copy(update={"site": own.cfg.site or site, "lm": own.cfg.lm or lm})
        return own
    lacking = [n for n in ("W_dec", "encode", "decode") if not hasattr(thing, n)]
    if lacking or not _is_matrix(thing.W_dec):
        what = (
            f"has no {' and no '.join(lacking)}" if lacking else "has a W_dec that is no plain matrix [features, width]"
        )
        raise UserError(f"{type(thing).__name__} is no SAE: it {what}.", hint="saelab.SaeLike says what is needed.")
    d_sae, d_in = thing.W_dec.shape
    said = _said_of(thing)
    about = {"architecture": str(said.get("architecture") or type(thing).__name__), "k": said.get("k")}
    about |= {"d_in": d_in, "d_sae": d_sae, "site": said.get("site") or site, "lm": said.get("lm") or lm}
    own = GivenSae(thing, SaeConfig.parse(about), "")
    _check_decoder(own)
    own.sha256 = _sum(thing, own)
    return own


def hold(sae: Sae, name: str) -> str:
    """Keep an SAE for this process; returns the reference under which `load_sae` finds it."""
    _HELD[name] = sae
    return HELD + name


def held(reference: str) -> Sae | None:
    """The SAE of a `held:` reference, as a module of its own with the same tensors; None for any other reference.

    Raises `UserError` where no program of this process holds it.
    """
    if not reference.startswith(HELD):
        return None
    name = reference.removeprefix(HELD)
    if name not in _HELD:
        raise UserError(
            f"The SAE {name} was given by a program, and is held by none that runs here.",
            hint="Run that program again, or save the SAE and give its folder.",
        )
    return copy.copy(_HELD[name])


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32).contiguous()


def _said_of(thing: Any) -> dict[str, Any]:
    """What a peer's `cfg` says: SAELens keeps half of it in `metadata`, SAEBench has it flat."""
    cfg = getattr(thing, "cfg", None)
    meta = getattr(cfg, "metadata", None)

    def first(*names: str) -> Any:
        for place in (meta, cfg):
            for name in names:
                value = place.get(name) if isinstance(place, dict) else getattr(place, name, None)
                if value is not None:
                    return value() if callable(value) else value
        return None

    hook, lm, k = first("hook_name", "site"), first("model_name", "lm"), first("k")
    place = find_site(str(hook)) if hook is not None else None
    return {
        "architecture": first("architecture"),
        "site": str(place) if place else None,
        "lm": f"hf:{lm}" if isinstance(lm, str) and lm.count("/") == 1 and ":" not in lm else lm,
        "k": k if isinstance(k, int) and not isinstance(k, bool) and k > 0 else None,
    }


def _is_matrix(tensor: Any) -> bool:
    if not isinstance(tensor, Tensor) or tensor.ndim != 2 or tensor.device.type == "meta":
        return False
    return tensor.layout == torch.strided and tensor.is_floating_point() and min(tensor.shape) > 0


@contextmanager
def _still(thing: Any) -> Generator[None, None, None]:
    """A module as it is used, not as it is trained: without dropout."""
    trained = isinstance(thing, torch.nn.Module) and thing.training
    if trained:
        thing.eval()
    try:
        yield
    finally:
        if trained:
            thing.train()


def _check_decoder(own: GivenSae) -> None:
    """Steering adds rows of W_dec: they must be the directions that `decode` writes."""
    rows = torch.linspace(0, own.cfg.d_sae - 1, min(own.cfg.d_sae, CHECKED)).round().long()
    one = torch.zeros(len(rows), own.cfg.d_sae)
    one[torch.arange(len(rows)), rows] = 1.0
    written = own.decode(one) - own.decode(torch.zeros_like(one))
    likeness = torch.nn.functional.cosine_similarity(written, own.W_dec[rows], dim=1)
    silent = own.W_dec[rows].norm(dim=1) == 0
    odd = ~silent & ~(likeness > 1 - 1e-2)
    if bool(odd.any()):
        raise UserError(
            f"decode of {own.cfg.architecture} does not write the rows of W_dec (feature {int(rows[odd][0])}).",
            hint="W_dec [F, D] must hold what each feature adds to the reconstruction.",
        )


def _sum(thing: Any, own: GivenSae) -> str:
    """sha256 of an object: of all tensors and plain settings that it holds, and of what it does with some probes.

    It says whether a program gave the same SAE again. Probes see what lies where nothing looks; of their codes the
    numbers of active features are taken, which rounding leaves alone.
    """
    total = hashlib.sha256(f"{type(thing).__module__}.{type(thing).__qualname__}".encode())
    for name, value in _held_by({"": thing, ".W_dec": thing.W_dec}):
        total.update(f"{name} ".encode())
        total.update(_plain(value).numpy().data if isinstance(value, Tensor) else repr(value).encode())
    rows = own.W_dec[: 4 * CHECKED]
    probes = torch.cat([own.b_dec + scale * rows for scale in (1.0, 10.0, 100.0)])
    total.update((own.encode(probes) != 0).sum(1).int().numpy().data)
    return total.hexdigest()


def _held_by(start: dict[str, Any]) -> list[tuple[str, Any]]:
    """Every tensor, number and text below some objects, by the way that leads there, in a fixed order."""
    found, seen, left = dict[str, Any](), set[int](), list(start.items())
    while left:
        name, value = left.pop()
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, bool | int | float | str | np.generic | None):
            found[name] = value if not isinstance(value, np.generic) else value.item()
        elif isinstance(value, np.ndarray):
            found[name] = torch.from_numpy(np.ascontiguousarray(value)) if value.dtype.kind in "fiub" else repr(value)
        elif id(value) not in seen and len(seen) < MOST_HELD:
            seen.add(id(value))
            left += [(f"{name}.{key}", item) for key, item in _items(value)]
    return sorted(found.items(), key=lambda pair: pair[0])


def _items(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, torch.nn.Module):
        own = {k: v for k, v in vars(value).items() if k not in ("training", *_INTERNAL)}
        return [
            *value.named_parameters(recurse=False),
            *value.named_buffers(recurse=False),
            *value.named_children(),
            *own.items(),
        ]
    return [(k, v) for k, v in getattr(value, "__dict__", {}).items() if not callable(v)]


def sum_of(sae: Sae) -> str:
    """sha256 of an SAE's weights and of how they are read: what it encodes with, its k, its settings."""
    if isinstance(sae, GivenSae):
        return sae.sha256
    cfg = sae.cfg
    how = [type(sae).__name__, cfg.architecture, cfg.k, cfg.subtract_b_dec, sorted(cfg.settings.items())]
    total = hashlib.sha256(repr(how).encode())
    for name, tensor in sorted(sae.weights().items()):
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().data)
    return total.hexdigest()
