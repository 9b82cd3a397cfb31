"""Gemma Scope 2 (Google DeepMind 2025): `params.safetensors` and, mostly, `config.json`, JumpReLU.

Keys w_enc [D, F], w_dec [F, D], b_enc, b_dec, threshold; b_dec is not subtracted from the input. Folders
`{resid_post,attn_out,mlp_out,transcoder}[_all]/layer_{L}_width_{W}_l0_{small,medium,big}[_affine]`. Transcoders,
skip connections map one site to another and are read as such; cross-layer files are refused.
"""

import re
from typing import Any

from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.sites import house_name
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.base import Sae
from saelab.saes.formats.conventions import config_for
from saelab.saes.formats.source import Format, Source, known_keys, take
from saelab.saes.transcoder import Transcoder, transcoder

CONFIG, WEIGHTS = "config.json", "params.safetensors"
_NAMES = {n: n.lower() for n in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
_KNOWN = frozenset(
    [
        "architecture",
        "model_name",
        "hf_hook_point_in",
        "hf_hook_point_out",
        "affine_connection",
        "width",
        "l0",
        "layer",
        "d_in",
        "d_out",
        "d_sae",
        "dtype",
        "num_layers",
        "type",
    ]
)
_FOLDER = re.compile(r"(?P<kind>resid_post|attn_out|mlp_out|transcoder)(?:_all)?/layer_(?P<layer>\d+)_width")


def _recognises(source: Source) -> bool:
    return source.has(WEIGHTS)


def _read(source: Source) -> Sae | Transcoder:
    config = source.json(CONFIG) if source.has(CONFIG) else {}
    known_keys(config, _KNOWN, str(source.folder / CONFIG))
    architecture = str(config.get("architecture", "jump_relu"))
    if architecture not in ("jump_relu", "jumprelu"):
        raise UserError(f"{source.name} holds an SAE of architecture {architecture!r}; Gemma Scope 2 has jump_relu.")
    found = source.safetensors(WEIGHTS)
    place = _FOLDER.search(f"{source.name}/{source.folder}".replace("\\", "/"))
    hook_in, hook_out = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if (
        (hook_in != hook_out and hook_out is not None)
        or (place and place["kind"] == "transcoder")
        or config.get("affine_connection")
        or "affine_skip_connection" in found
    ):
        return _transcoder(source, found, config, place["layer"] if place else None)
    weights = take(found, _NAMES, str(source.folder / WEIGHTS))
    site = house_name(hook_in)
    if place and place["kind"] in ("resid_post", "mlp_out"):
        site = f"{place['kind']}.{place['layer']}"
    lm = config.get("model_name")
    return JumpReluSae(
        config_for(
            weights,
            "jumprelu",
            subtract_b_dec=False,
            site=source.declared.site or site,
            lm=source.declared.lm or (str(lm).removesuffix("-v3") if lm else None),
            metadata={"format": "gemma_scope_2"} | {"config": config},
        ),
        weights,
    )


def _transcoder(source: Source, found: dict[str, Tensor], config: dict[str, Any], layer: str | None) -> Transcoder:
    """From the MLP's input to its output; the skip connection lies as [D_in, D_out]."""
    if found.get("w_dec") is not None and found["w_dec"].ndim != 2:
        raise UserError(f"{source.name} is a file of a cross-layer transcoder, which writes to many sites at once.")
    names = _NAMES | ({"W_skip": "affine_skip_connection"} if "affine_skip_connection" in found else {})
    weights = take(found, names, str(source.folder / WEIGHTS))
    if "W_skip" in weights:
        weights["W_skip"] = weights["W_skip"].T
    block = f"model.layers.{layer}" if layer else None
    lm = config.get("model_name")
    return transcoder(
        weights,
        gate="jumprelu",
        site=config.get("hf_hook_point_in") or (f"{block}.pre_feedforward_layernorm.output" if block else None),
        site_out=config.get("hf_hook_point_out") or (f"{block}.post_feedforward_layernorm.output" if block else None),
        lm=source.declared.lm or (str(lm).removesuffix("-v3") if lm else None),
        metadata={"format": "gemma_scope_2", "config": config},
    )


FORMAT = Format("gemma_scope_2", f"{WEIGHTS} with w_enc", _recognises, _read)
