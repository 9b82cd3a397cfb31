"""SAEs that a program holds in memory, of any class: what is asked of them, and the names by which a study finds them.

A peer's object is asked to encode and decode by itself, so that nothing of its conventions is guessed. It has no file
here: a study keeps its name and the sum of its tensors, and only the program that holds it can go on with that study.
This file must never know a peer's library.
"""

import copy
import hashlib
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.sites import find_site
from saelab.saes.base import Sae, SaeConfig

HELD = "held:"  # before the name of an SAE that a program holds
_HELD: dict[str, Sae] = {}


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
        with torch.no_grad():
            found = getattr(thing, half)(rows.reshape(-1, rows.shape[-1]).to(like.device, like.dtype))
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
        own.cfg = own.cfg.model_copy(update={"site": site or own.cfg.site, "lm": lm or own.cfg.lm})
        return own
    lacking = [n for n in ("W_dec", "encode", "decode") if not hasattr(thing, n)]
    if lacking or not isinstance(thing.W_dec, Tensor) or thing.W_dec.ndim != 2:
        what = f"has no {' and no '.join(lacking)}" if lacking else "has a W_dec that is no matrix [features, width]"
        raise UserError(f"{type(thing).__name__} is no SAE: it {what}.", hint="saelab.SaeLike says what is needed.")
    d_sae, d_in = thing.W_dec.shape
    said = _said_of(thing)
    about = {"architecture": said.get("architecture") or type(thing).__name__, "k": said.get("k")}
    cfg = SaeConfig.parse(
        about | {"d_in": d_in, "d_sae": d_sae, "site": site or said.get("site"), "lm": lm or said.get("lm")}
    )
    return GivenSae(thing, cfg, _sum(thing))


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


def _sum(thing: Any) -> str:
    """sha256 of an object's class, plain settings and tensors: it says whether a program gave the same SAE again."""
    state = thing.state_dict() if isinstance(thing, torch.nn.Module) else dict(vars(thing))
    state = {"W_dec": thing.W_dec} | state
    total = hashlib.sha256(f"{type(thing).__module__}.{type(thing).__qualname__}".encode())
    for name, value in sorted(state.items()):
        if isinstance(value, Tensor):
            total.update(f"{name} {tuple(value.shape)}".encode())
            total.update(_plain(value).numpy().data)
    for name, value in sorted(vars(thing).items()):
        if isinstance(value, int | float | str) and name != "training":
            total.update(f"{name} {value!r}".encode())
    return total.hexdigest()
