"""Gemma Scope 2's crosscoders and cross-layer transcoders, whose files of one site gemma_scope_2.py reads.

`params_layer_{i}.safetensors`, the i-th of the sites that are read: w_enc [D, F], w_dec [F, S, D] (what its latents
write to every site; zero before their own, being weakly causal), b_enc, b_dec, threshold [F], and where it has one
affine_skip_connection [D, D]. Latents of one file read its site alone, in crosscoders too. `config.json` says `type`
and both ends, `model.layers.{5,9,12,15}.output` or `{all}`. Nothing is subtracted from an input.
"""

import re
from typing import Any

from torch import Tensor

from saelab.core.errors import ArtefactError
from saelab.core.sites import house_name
from saelab.saes.crosscoder import Crosscoder, crosscoder, stacked
from saelab.saes.formats.source import Source, take

TYPES = ("crosscoder", "clt", "cross_layer_transcoder")
FIRST = "params_layer_0.safetensors"
_NAMES = ("w_enc", "w_dec", "b_enc", "b_dec", "threshold")
_SKIP = "affine_skip_connection"
_BRACES = re.compile(r"\{([^}]*)\}")


def read_sites(source: Source, hooks: tuple[str | None, str | None], about: dict[str, Any]) -> Crosscoder:
    """A dictionary of several sites from its files. hooks: in and out, as the config says them."""
    count = len(list(source.folder.glob("params_layer_*.safetensors")))
    if not source.has(FIRST):
        raise ArtefactError(
            f"The config of {source.name} says that it has several sites, and its files hold tensors of one.",
            hint=f"A crosscoder or cross-layer transcoder has files {FIRST} and so on.",
        )
    sites = [_sites(hook, count) for hook in hooks]
    parts: list[dict[str, Tensor]] = []
    for i in range(count):
        name = f"params_layer_{i}.safetensors"
        found = source.safetensors(name)
        wanted = (*_NAMES, _SKIP) if _SKIP in found else _NAMES
        parts.append(take(found, {n: n for n in wanted}, str(source.folder / name)))
        if parts[-1]["w_dec"].ndim != 3 or parts[-1].keys() != parts[0].keys():
            raise ArtefactError(f"{source.folder / name} does not fit {FIRST} beside it.")
    decoders = [
        {t: w for t, w in enumerate(part["w_dec"].unbind(1)) if t == i or bool(w.any())} for i, part in enumerate(parts)
    ]
    weights = {n: stacked([p[n] for p in parts], n) for n in parts[0] if n != "w_dec"}
    weights["W_enc"] = weights.pop("w_enc")
    if _SKIP in weights:
        weights["W_skip"] = weights.pop(_SKIP).transpose(-1, -2)
    return crosscoder(
        weights, decoders, kind="cross_layer", act_fn="jumprelu", sites=sites[0], sites_out=sites[1], **about,
    )  # fmt: skip


def _sites(hook: str | None, count: int) -> tuple[str, ...]:
    """`model.layers.{5,9}.output` as sites; without a hook, the files' own numbers."""
    if hook is None or not (braces := _BRACES.search(hook)):
        return tuple(f"layer.{i}" for i in range(count))
    layers = [str(i) for i in range(count)] if braces[1] == "all" else braces[1].split(",")
    if len(layers) != count:
        raise ArtefactError(f"The config names {len(layers)} sites, {hook}, and there are files of {count}.")
    return tuple(str(house_name(hook.replace(braces[0], layer.strip()))) for layer in layers)
