"""Plain tensors under names of their own, opened by an explicit map: `--tensors`, or `saelab.yaml` beside the file.

    architecture: jumprelu            # relu, gated, topk, jumprelu, batchtopk; told by the tensors where left out
    subtract_b_dec: false             # is b_dec taken from the input before encoding?
    site: resid_post.12               # and site_out, for a transcoder
    lm: hf:google/gemma-2-2b
    tensors: {W_enc: enc.weight.T, W_dec: dec.weight.T, b_enc: enc.bias, b_dec: dec.bias, threshold: 0.3}

W_enc is [D, F] and W_dec [F, D]; `.T` transposes, and a number stands for a vector of it. The same in one line:
`--tensors subtract_b_dec=false,W_enc=enc.weight.T,...`. Nothing is guessed: `saelab inspect --lm` proves the result.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.core.config import Config, read_yaml
from saelab.core.errors import UserError, nearest
from saelab.core.sites import house_name
from saelab.saes.base import Sae
from saelab.saes.catalogue import MODULES
from saelab.saes.formats.conventions import config_for
from saelab.saes.formats.source import PICKLES, Format, Source, check_plain, finite, listed
from saelab.saes.transcoder import Transcoder, transcoder

BESIDE = "saelab.yaml"
_ENCODES = {"relu": "standard", "gated": "gated", "topk": "topk", "jumprelu": "jumprelu", "batchtopk": "jumprelu"}
_TELLING = {"threshold": "jumprelu", "r_mag": "gated"}
_COUNTED = ("topk", "batchtopk")  # those that k belongs to
_SHAPED = ("W_enc", "W_dec", "W_skip")


class TensorMap(Config):
    """Which tensor is which, and what no tensor says."""

    tensors: dict[str, str | float]
    architecture: str | None = None
    subtract_b_dec: bool | None = None
    site: str | None = None
    site_out: str | None = None
    lm: str | None = None
    k: int | None = None


def _recognises(source: Source) -> bool:
    return source.declared.tensors is not None or source.has(BESIDE)


def files(said: str | dict[str, Any] | None) -> list[Path]:
    """The file that a declared map lies in, if it lies in one."""
    return [Path(said)] if isinstance(said, str) and said.endswith((".yaml", ".yml")) else []


def _map(source: Source) -> TensorMap:
    said = source.declared.tensors
    if said is None or files(said):
        path = source.folder / BESIDE if said is None else files(said)[0]
        return _parsed(read_yaml(path), str(path))
    if isinstance(said, dict):
        data = dict(said)
    else:
        pairs = [part.partition("=") for part in said.split(",") if part.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise UserError(f"--tensors {said!r} is no list of NAME=TENSOR.", hint="W_enc=enc.weight.T,W_dec=...")
        names = [name.strip() for name, _, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"--tensors says {', '.join(twice)} more than once.", hint="Say each name once.")
        data = {name: value.strip() for name, (_, _, value) in zip(names, pairs, strict=True)}
    if "tensors" not in data:
        own = {name: value for name, value in data.items() if name in TensorMap.model_fields}
        data = {**own, "tensors": {n: v for n, v in data.items() if n not in own}}
    return _parsed(data, "--tensors")


def _parsed(data: Any, origin: str) -> TensorMap:
    check_plain(data, origin)  # it is kept as metadata
    return TensorMap.parse(data, origin=origin)


def _read(source: Source, found: dict[str, Tensor] | None = None, values: Any = None) -> Sae | Transcoder:
    del values
    said = _map(source)
    name, found = _file(source) if found is None else (source.file or source.name, found)
    k = source.declared.settled("k", said.k)
    kind = said.architecture or next((a for n, a in _TELLING.items() if n in said.tensors), "topk" if k else "relu")
    if kind not in _ENCODES:
        raise UserError(f"There is no architecture {kind!r} to map tensors to.", hint=nearest(kind, _ENCODES))
    if k is not None and kind not in _COUNTED:
        raise UserError(
            f"A {kind} has no k, and the map of {name} gives one.", hint=f"Those with a k: {listed(_COUNTED)}."
        )
    about: dict[str, Any] = {"site": source.declared.site or house_name(said.site), "lm": source.declared.lm or said.lm}
    about |= {"k": k, "metadata": {"format": "tensors", "tensors": ", ".join(f"{a} {b}" for a, b in _texts(said))}}
    module = MODULES[_ENCODES[kind]]
    wanted = {*module.weight_names(), *(["W_skip"] if said.site_out and "W_skip" in said.tensors else [])}
    if missing := sorted(wanted - said.tensors.keys()):
        raise UserError(
            f"The map of {name} lacks {', '.join(missing)}, and the file holds {_held(found)}.",
            hint="Name a tensor for each, or a number for a vector: b_enc=0",
        )
    if extra := sorted(said.tensors.keys() - wanted):
        raise UserError(f"A {kind} has no {', '.join(extra)}.", hint=f"It has {', '.join(sorted(wanted))}.")
    weights = _weights(said, wanted, found, name)
    if said.site_out:
        if said.subtract_b_dec:
            raise UserError(
                f"The map of {name} subtracts b_dec from the input, and b_dec of a transcoder belongs to its output.",
                hint="Leave subtract_b_dec out, or fold it into b_enc: b_enc - b_dec W_enc.",
            )
        return transcoder(
            weights, act_fn=_ENCODES[kind].replace("standard", "relu"), site_out=house_name(said.site_out), **about
        )
    if said.subtract_b_dec is None and bool((weights["b_dec"] != 0).any()):
        raise UserError(
            f"The map of {name} does not say whether b_dec is subtracted from the input.",
            hint="Add subtract_b_dec=true or =false; saelab inspect --lm tells which one fits.",
        )
    about["subtract_b_dec"] = bool(said.subtract_b_dec)
    return module(config_for(weights, kind, **about), weights)


def _weights(said: TensorMap, wanted: set[str], found: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The mapped tensors; numbers become vectors of the width that their name has."""
    weights = {n: _tensor(said.tensors[n], found, name) for n in wanted if _number(said.tensors[n]) is None}
    for n in _SHAPED:
        if n in wanted and (n not in weights or weights[n].ndim != 2):
            raise UserError(f"{n} of {name} must be a matrix, and the file holds {_held(found)}.")
    latents, d_out = weights["W_dec"].shape
    for n in wanted - weights.keys():
        number, width = _number(said.tensors[n]) or 0.0, d_out if n == "b_dec" else latents
        weights[n] = torch.full((width,), number, dtype=torch.float64).float()
        if not finite(weights[n]):
            raise UserError(f"{n} of the map of {name} is {said.tensors[n]}, which is no finite number of 32 bits.")
    shapes = {"W_enc": (weights["W_enc"].shape[0], latents), "b_dec": (d_out,)}
    for n in sorted(wanted - {"W_dec", "W_skip"}):
        shape = shapes.get(n, (latents,))
        if tuple(weights[n].shape) != shape:
            raise UserError(
                f"{n} is {tuple(weights[n].shape)} as mapped, and W_dec {(latents, d_out)} asks for {shape}.",
                hint="W_enc is [D, F] and W_dec [F, D]; write .T after a name to transpose it.",
            )
    return weights


def _tensor(expression: str | float, found: dict[str, Tensor], name: str) -> Tensor:
    text = str(expression)
    if text in found:
        return found[text]
    base = text.removesuffix(".T")
    if base in found and base != text and found[base].ndim == 2:
        return found[base].T.contiguous()
    raise UserError(f"{name} holds no {base!r} to be mapped; it holds {_held(found)}.", hint=nearest(base, found))


def _number(value: str | float) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def _held(found: dict[str, Tensor]) -> str:
    return listed([f"{n} {list(t.shape)}" for n, t in sorted(found.items())]) or "nothing"


def _texts(said: TensorMap) -> list[tuple[str, str | float]]:
    return sorted(said.tensors.items())


def _file(source: Source) -> tuple[str, dict[str, Tensor]]:
    """The file's name and tensors: the one that was named, or the only one of its folder."""
    names = [source.file] if source.file else _candidates(source)
    if len(names) != 1:
        raise UserError(
            f"{source.name} holds {listed(names) or 'no safetensors or npz file'}; one file is mapped.",
            hint="Name the file itself.",
        )
    return names[0], source.npz(names[0]) if names[0].endswith(".npz") else source.safetensors(names[0])


def _candidates(source: Source) -> list[str]:
    return sorted(p.name for p in source.folder.iterdir() if p.suffix in (".safetensors", ".npz"))


FORMAT = Format("tensors", f"any tensors, with --tensors or {BESIDE}", _recognises, _read)
PICKLED = Format(
    "tensors_pickled", "a pickle of tensors, with --tensors", lambda _: False, _read, pickle=lambda s: s.file or ""
)


def chosen(source: Source) -> Format | None:
    """The format of a source that was mapped; None where it was not."""
    if not _recognises(source):
        return None
    return PICKLED if (source.file or "").endswith(PICKLES) else FORMAT
