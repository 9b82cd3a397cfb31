"""Proofs kept: what `parity.py` found of a model, by its files, the versions that read it and the loop's own code.

A later load of the same model then proves nothing again. A cache that cannot be read or written only costs the proof.
"""

import json
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from saelab.core.config import digest_of
from saelab.core.errors import SaelabError, UserError
from saelab.lm.blocks import Decoder, Limits
from saelab.lm.lora import base_of
from saelab.lm.parity import HINT, line_of, prove
from saelab.lm.sources import Located
from saelab.store.cache import cache_folder
from saelab.store.files import replacing

CODE = ("blocks.py", "families.py", "parity.py", "shrink.py", "walk.py")


def proved(model: Any, located: Located | None = None) -> Decoder:
    """A decoder that agrees with its model: a family's own way where that does, else the walk.

    located: the model's files, where it has any; then what is found is kept. A `UserError` names the block at which
    neither way agrees.
    """
    kept = None if located is None else cache_folder() / "proofs" / f"{_key(model, located)}.json"
    if (known := _read(kept)) is not None:
        decoder = Decoder(model, listed=bool(known["listed"]))
        decoder.limits = Limits(**known["limits"])
        return decoder
    decoder = _prove(model)
    if kept is not None:
        found = {"listed": decoder.listed, "limits": asdict(decoder.limits)}
        with suppress(SaelabError, OSError), replacing(kept) as temporary:
            temporary.write_text(json.dumps(found), encoding="utf-8")
    return decoder


def _prove(model: Any) -> Decoder:
    decoder = _decoder(model, listed=True)
    try:
        decoder.limits = prove(decoder)
    except UserError:
        if not decoder.listed:
            raise
        decoder = _decoder(model, listed=False)
        decoder.limits = prove(decoder)
    return decoder


def _decoder(model: Any, *, listed: bool) -> Decoder:
    try:
        return Decoder(model, listed=listed)
    except SaelabError:
        raise
    except Exception as error:  # its forward does not run without its blocks, in whatever way
        kind = f"{model.config.model_type} model"
        raise UserError(f"The forward of this {kind} cannot be walked: {line_of(error)}.", hint=HINT) from error


def copied(decoder: Decoder, model: Any) -> Decoder:
    """A decoder of a copy of a proved model."""
    found = Decoder(model, listed=decoder.listed)
    found.limits = replace(decoder.limits)
    return found


def _key(model: Any, located: Located) -> str:
    import torch
    import transformers

    places = [located]
    while places[-1].adapter:
        places.append(base_of(places[-1]))
    paths = [place.path for place in places]
    files = [f for path in paths for f in (sorted(path.iterdir()) if path.is_dir() else [path])]
    stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    code = [Path(__file__).with_name(name).read_text(encoding="utf-8") for name in CODE]
    versions = [transformers.__version__, torch.__version__, str(model.dtype), model.device.type]
    ways = [type(model).__name__, str(model.config._attn_implementation)]
    return digest_of([located.reference, stats, model.config.to_json_string(), versions, ways, code])


def _read(path: Path | None) -> dict[str, Any] | None:
    """What was kept; None where there is nothing that can be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        if path is not None and path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            Limits(**found["limits"])
            return found if isinstance(found["listed"], bool) else None
    return None
