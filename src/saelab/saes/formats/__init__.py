"""Opens and writes SAEs: `load_sae` finds the format of a folder, `save_sae` writes one, `convert_sae` does both.

This file must never know what is inside a format: formats/ holds one file each. A pickle is opened by `convert_sae`
alone.
"""

import operator
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saelab.core.errors import UserError, nearest, refuse_name
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae
from saelab.saes.catalogue import ARCHITECTURES
from saelab.saes.crosscoder import Crosscoder
from saelab.saes.formats import (
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    llama_scope,
    pickled_files,
    saelens,
    sparsify,
    tensor_map,
)
from saelab.saes.formats.hub import located, resolved
from saelab.saes.formats.listing import below, several, unknown_file
from saelab.saes.formats.source import PICKLES, Declared, Format, Found, Source, floats, listed
from saelab.saes.formats.unpickle import unpickle
from saelab.saes.given import held
from saelab.saes.normalised import NormalisedSae, normalised
from saelab.saes.transcoder import Transcoder
from saelab.store.files import apart, filling, is_there
from saelab.store.sums import check_recorded

_ALL = (
    saelens.FORMAT,
    dictionary_learning.FORMAT,
    sparsify.FORMAT,
    gemma_scope.FORMAT,
    gemma_scope_2.FORMAT,
    llama_scope.FORMAT,
    llama_scope.FORMAT_NEW,
    circuit_tracer.FORMAT,
    pickled_files.QWEN,
    pickled_files.OPENAI,
    tensor_map.FORMAT,
)
FORMATS: dict[str, Format] = {kind.name: kind for kind in _ALL}


def load(reference: str | Path, *, format: str | None = None, checked: bool = True, **declared: Any) -> Found:
    """Open whatever lies there, an SAE, a transcoder or a dictionary of several sites; see `load_sae`."""
    return _opened(reference, format, declared, checked=checked)


def _opened(reference: str | Path, format: str | None, declared: dict[str, Any], *, checked: bool = True) -> Found:
    if (own := held(str(reference))) is not None:
        return own
    known = FORMATS.get(resolved(str(reference)).format or "")
    named = str(reference).endswith(PICKLES) and not is_there(reference, "/")  # a release's folders end in .pt
    if named or (known is not None and known.pickle is not None):
        raise _pickled(str(reference), known)  # before anything is fetched
    source = source_of(reference, checked=checked, **declared)
    check_recorded(source.folder)
    kind = format_of(source, format)
    if kind.pickle is not None:
        raise _pickled(source.name, kind)
    return _read(kind, source)


def load_sae(reference: str | Path, *, format: str | None = None, checked: bool = True, **declared: Any) -> Sae:
    """Open an SAE from a folder, a file or a reference, whatever format it is in.

    reference: a folder, `path:...`, `hf:org/name@revision/folder`, or a short name of the registry. format: the format,
    where two could fit. declared: what the files do not say (k, threshold, input_scale, normalise, site, lm; tensors:
    which of plain tensors is which, formats/tensor_map.py). checked: refuse NaN and infinite weights. Pickles are not
    opened here. Raises `UserError` (unknown format, unreadable convention), `ArtefactError` (damaged files),
    `FetchError`.
    """
    return _sae(load(reference, format=format, checked=checked, **declared), str(reference))


def load_latents(
    reference: str | Path, latents: Any, *, format: str | None = None, **declared: Any
) -> dict[str, Tensor]:
    """The weights of a few latents of an SAE, without reading those of the others from the disk.

    latents: their indices, any iterable of whole numbers; the others as for `load_sae`. Returns W_enc [D, N], W_dec
    [N, D], b_enc [N], what else its architecture has per latent [N], and b_dec [D]. In the native format this touches
    some pages of the file; formats that turn or scale a matrix read it whole. Raises the errors of `load_sae`, and
    `UserError` for what is no index or not there.
    """
    chosen = _indices(latents)
    weights = _sae(_opened(reference, format, declared, checked=False), str(reference)).weights()
    count = len(weights["b_enc"])
    if odd := [i for i in chosen if not 0 <= i < count]:
        raise UserError(f"Latent {odd[0]} does not exist.", hint=f"The SAE has latents 0 to {count - 1}.")
    index = torch.as_tensor(chosen, dtype=torch.int64)
    rows = {n: t[:, index] if n == "W_enc" else t if n == "b_dec" else t[index] for n, t in weights.items()}
    return floats(rows, str(reference))


def _indices(latents: Any) -> list[int]:
    """Whole numbers of any iterable; what is none (a truth value, a number with a point, a text) is a `UserError`."""
    hint = "Give whole numbers: [3, 17]"
    if not isinstance(latents, Iterable) or (isinstance(latents, Tensor) and latents.ndim != 1):
        raise UserError(f"The latents {latents!r} are no list of indices.", hint=hint)
    found = []
    for value in latents.tolist() if isinstance(latents, Tensor) else latents:
        if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
            raise UserError(f"The latent {value!r} is no index.", hint=hint)
        try:
            found.append(operator.index(value))
        except TypeError:
            raise UserError(f"The latent {value!r} is no index.", hint=hint) from None
    return found


def load_transcoder(reference: str | Path, *, format: str | None = None, **declared: Any) -> Transcoder:
    """Open a transcoder, as `load_sae` opens an SAE."""
    found = load(reference, format=format, **declared)
    if isinstance(found, Transcoder):
        return found
    what, door = ("an SAE", "load_sae") if isinstance(found, Sae) else (f"a {found.cfg.kind}", "load_crosscoder")
    raise UserError(f"{reference} is {what}, not a transcoder.", hint=f"Open it with {door}.")


def load_crosscoder(reference: str | Path, *, format: str | None = None, **declared: Any) -> Crosscoder:
    """Open a crosscoder or a cross-layer transcoder, as `load_sae` opens an SAE."""
    found = load(reference, format=format, **declared)
    if isinstance(found, Crosscoder):
        return found
    what, door = ("an SAE", "load_sae") if isinstance(found, Sae) else ("a transcoder", "load_transcoder")
    raise UserError(f"{reference} is {what} and has one site to read.", hint=f"Open it with {door}.")


def _sae(found: Found, name: str) -> Sae:
    if isinstance(found, Sae):
        return found
    several = isinstance(found, Crosscoder)
    what = f"a {found.cfg.kind}: it has several sites" if several else "a transcoder: it maps one site to another"
    raise UserError(
        f"{name} holds {what}, and an SAE was asked for.",
        hint=f"`saelab inspect {name} --lm NAME` measures it; in Python saelab.load_"
        f"{'crosscoder' if several else 'transcoder'} opens it.",
    )


def _pickled(name: str, kind: Format | None) -> UserError:
    what = f"a {kind.name} file, whose weights are a pickle" if kind else "a pickle"
    return UserError(
        f"{name} is {what}; loading one can run code.",
        hint=f"Convert it once, in a closed process: saelab convert {name} NEW-FOLDER --to saelens",
    )


def save_sae(sae: Sae | Transcoder, folder: str | Path, format: str = "saelens") -> None:
    """Write an SAE (a transcoder: as SAELens or sparsify) to a folder in a format; one that it cannot express is a
    `UserError`.
    """
    refuse_name(sae, "saelab.load_sae(reference)")
    kind, write = _writer(format)
    if not isinstance(sae, Sae) and kind not in (saelens.FORMAT, sparsify.FORMAT):
        raise UserError(f"{format} is written of SAEs; this is a transcoder.", hint="Write it as saelens or sparsify.")
    there = Source(Path(folder), str(folder))
    others = [k.name for k in FORMATS.values() if k is not kind and is_there(folder, "/") and k.recognises(there)]
    if others:
        raise UserError(
            f"{folder} already holds an SAE as {others[0]}; nothing was written.", hint="Name another folder."
        )
    write(sae, Path(folder))


def save_native(sae: Sae | Transcoder, folder: Path) -> None:
    """Write an SAE or a transcoder as a run keeps its own; every activation function has a form here."""
    saelens.write_own(sae, folder)


def convert_sae(
    reference: str | Path,
    folder: str | Path,
    *,
    to: str | None = None,
    format: str | None = None,
    replace: bool = False,
    **declared: Any,
) -> Sae | Transcoder:
    """Open an SAE or a transcoder of any format, pickles included, write it to a folder in another, and return it.

    A pickle is read in a process of its own (formats/unpickle.py). The folder must be new or empty; replace: its files
    are given up, once the new ones are whole. Nothing that is read is written over.
    """
    if to is not None:
        _writer(to)
    source = source_of(reference, pickles=True, **declared)
    spare(source, Path(folder))
    with filling(Path(folder), replace=replace) as made:
        sae = open_any(source, format)
        if isinstance(sae, Crosscoder):
            raise UserError(f"{reference} is a {sae.cfg.kind}, which saelab reads and does not write.")
        save_sae(sae, made, to or holding(sae))
    return sae


def spare(source: Source, target: Path) -> None:
    """Refuse to write to a folder where a file of the source, or of its map of tensors, is read (`UserError`)."""
    apart(target, source.folder / (source.file or ""), *tensor_map.files(source.declared.tensors))


def holding(found: Sae | Transcoder) -> str:
    """The format that an SAE is written in where none is asked for: the native one, sparsify for TopK transcoders."""
    return sparsify.FORMAT.name if isinstance(found, Transcoder) and found.cfg.act_fn == "topk" else saelens.FORMAT.name


def open_any(source: Source, format: str | None = None) -> Found:
    """Open a source of any format, a pickle in a process of its own."""
    kind = format_of(source, format)
    if kind.pickle is None:
        return _read(kind, source)
    return _read(kind, source, *unpickle(source.inside(kind.pickle(source))))


def _read(kind: Format, source: Source, *pickled: Any) -> Found:
    """What the files hold, and the normalisation that they do not mention where it was declared.

    A fact that was declared and that this SAE does not need is refused: it would be believed to have had an effect.
    """
    found, declared = kind.read(source, *pickled), source.declared.normalise
    unused = source.declared.unused(source.given)
    if "k" in source.given and "k" not in unused and not _has_k(found):
        unused.append("k")
    if unused:
        raise UserError(
            f"{source.name} was given {' and '.join(unused)}, which its files state or its encoder does not use.",
            hint="Leave it out.",
        )
    if numbers := {n: getattr(source.declared, n) for n in ("k", "threshold", "input_scale") if n in source.given}:
        found.cfg.metadata["declared"] = numbers  # nothing else in the weights tells them
    if declared is None or (isinstance(found, NormalisedSae) and found.kind == declared):
        return found
    if not isinstance(found, Sae) or isinstance(found, NormalisedSae):
        held = f"normalises by {found.kind}" if isinstance(found, NormalisedSae) else "holds no SAE"
        raise UserError(f"{source.name} {held}; {declared} was declared.")
    return normalised(found, declared)


def _has_k(found: Found) -> bool:
    """Does its encoder, or the training that chose its thresholds, have a number of active latents?"""
    if not isinstance(found, Sae):
        return found.cfg.act_fn == "topk"
    kind = ARCHITECTURES.get(found.cfg.architecture)
    return isinstance(found, TopKSae) or (kind is not None and "k" in kind.model_fields)


def source_of(reference: str | Path, *, pickles: bool = False, checked: bool = True, **declared: Any) -> Source:
    """The files of a reference; a reference to one file means its folder, with that file named."""
    known = resolved(str(reference))
    path = located(known.reference, pickles=pickles)
    registered = {"lm": known.lm, "input_scale": known.input_scale, "normalise": known.normalise}
    given = {key: value for key, value in declared.items() if value is not None}
    said = Declared.parse(registered | given, origin="What was declared")
    folder, file = (path.parent, path.name) if path.is_file() else (path, None)
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{folder} may not be read.", hint="Ask for the right to read it, or name another folder.")
    return Source(folder, known.reference, file, said, tuple(given), known.format, checked)


def format_of(source: Source, format: str | None = None) -> Format:
    """The format that recognises the files; none, or more than one, is a `UserError`."""
    if format in (None, tensor_map.FORMAT.name) and (mapped := tensor_map.chosen(source)):
        return mapped  # a format that was named beats a map that lies there
    if format or source.format:
        return _named(format or source.format or "")
    fitting = [kind for kind in FORMATS.values() if kind.recognises(source) and source.is_read(kind.recognises)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(kind.name for kind in fitting)
        raise UserError(
            f"{source.name} could be {names}.", hint="Say which: format=... (--from-format on the command line)."
        )
    if source.file and source.file.endswith((".safetensors", ".npz")):
        raise unknown_file(source, source.file)
    known = "; ".join(f"{kind.name} ({kind.holds})" for kind in FORMATS.values())
    hint = f"Known formats: {known}."
    if source.file and not source.file.endswith(PICKLES):
        raise UserError(f"{source.name} is no file of an SAE in a known format.", hint=hint)
    found, bad = below(source, _recognised) if source.file is None else ([], [])
    if found:
        raise several(source.name, found, bad)
    names = sorted(p.name for p in source.folder.iterdir())
    weights = [n for n in names if n.endswith((".safetensors", ".npz", *PICKLES))]
    if len(weights) == 1 and source.file is None and not weights[0].endswith(PICKLES):
        raise unknown_file(source, weights[0])
    inside = (listed(names) or "nothing") + (f"; not looked into: {listed(bad)}" if bad else "")
    if any(n.endswith(PICKLES) for n in names):
        hint += " A pickle without its config is not opened."
    elif source.name.startswith("hf:"):
        hint += f" Pickles are not fetched; if it is one: saelab convert {source.name} NEW-FOLDER"
    raise UserError(f"{source.name} is in no known SAE format; it holds {inside}.", hint=hint)


def _recognised(source: Source) -> bool:
    return any(kind.recognises(source) and source.is_read(kind.recognises) for kind in FORMATS.values())


def _writer(name: str) -> tuple[Format, Callable[[Any, Path], None]]:
    """The format of a name and how it is written; another name is a `UserError` that lists those that are."""
    written = {name: kind for name, kind in FORMATS.items() if kind.write is not None}
    kind = FORMATS.get(name)
    if kind is None:
        raise UserError(f"There is no SAE format {name!r} to write.", hint=nearest(name, written))
    if kind.write is None:
        raise UserError(f"saelab reads {name} and does not write it.", hint=f"It writes {', '.join(written)}.")
    return kind, kind.write


def _named(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"There is no SAE format {name!r}.", hint=nearest(name, FORMATS))
    return FORMATS[name]
