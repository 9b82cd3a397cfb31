"""Gemma Scope 2 (Google DeepMind 2025): `params.safetensors` and, mostly, `config.json`, JumpReLU.

Keys w_enc [D, F], w_dec [F, D], b_enc, b_dec, threshold; b_dec is not subtracted from the input. Folders, after the
repository's name, `{resid_post,attn_out,mlp_out,transcoder}[_all]/layer_{L}_width_{W}_l0_{small,medium,big}[_affine]`.
Transcoders, with or without an affine skip connection, map one site to another and are read as such;
gemma_scope_2_sites.py reads what has several sites (a config's `type`, or a file a layer).
"""

import re
from typing import Any, Literal

from torch import Tensor

from saelab.core.errors import ArtefactError, UserError
from saelab.core.sites import house_name
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.formats.conventions import check_widths, config_for
from saelab.saes.formats.foreign import Foreign
from saelab.saes.formats.gemma_scope_2_sites import FIRST, TYPES, read_sites
from saelab.saes.formats.places import placed
from saelab.saes.formats.source import Format, Found, Source, known_keys, take
from saelab.saes.transcoder import Transcoder, transcoder

CONFIG, WEIGHTS = "config.json", "params.safetensors"
_NAMES = {n: n.lower() for n in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}
_REPOSITORY = re.compile(r"gemma-scope-2-\d+[mb]-(?:pt|it)")
_LAYOUT = re.compile(
    r"(?P<kind>resid_post|attn_out|mlp_out|transcoder)(?:_all)?/layer_(?P<layer>\d+)_width_\w+?_l0_\w+"
)


class _Config(Foreign):
    """config.json, as far as it is used; the last five say what the folder's name says."""

    type: str | None = None
    architecture: Literal["jump_relu", "jumprelu"] = "jump_relu"
    model_name: str | None = None
    hf_hook_point_in: str | None = None
    hf_hook_point_out: str | None = None
    affine_connection: bool | None = None
    d_in: int | None = None
    d_out: int | None = None
    d_sae: int | None = None
    width: Any = None
    l0: Any = None
    layer: Any = None
    dtype: Any = None
    num_layers: Any = None


def _recognises(source: Source) -> bool:
    return source.has(WEIGHTS) or source.has(FIRST)


def _read(source: Source) -> Found:
    config = _config(source)
    lm = source.declared.lm or _lm(config.model_name)
    metadata = {"format": "gemma_scope_2", "config": config.model_dump(exclude_unset=True)}
    about: dict[str, Any] = {"lm": lm, "metadata": metadata}
    if config.type in TYPES or source.has(FIRST):
        return read_sites(source, (config.hf_hook_point_in, config.hf_hook_point_out), about)
    found = source.safetensors(WEIGHTS)
    if "w_dec" in found and found["w_dec"].ndim != 2:
        raise UserError(
            f"{source.name} is a file of a cross-layer transcoder or crosscoder, which writes to several sites.",
            hint="Open the folder with the files of all its layers.",
        )
    place = placed(source, _REPOSITORY)
    named = _LAYOUT.fullmatch(place.inside) if place else None
    kind = named["kind"] if named else None
    hook_in, hook_out = config.hf_hook_point_in, config.hf_hook_point_out
    skips = bool(config.affine_connection) or "affine_skip_connection" in found
    if config.type is None:
        transcodes = kind == "transcoder" or skips or hook_out not in (None, hook_in)
    else:
        transcodes = config.type == "transcoder"
    if transcodes:
        return _transcoder(source, found, config, about, named["layer"] if named else None)
    weights = take(found, _NAMES, str(source.folder / WEIGHTS))
    about["site"] = source.declared.site or _site(named, hook_in)
    check_widths(source.name, weights, d_in=config.d_in, d_sae=config.d_sae, d_out=config.d_out)
    return JumpReluSae(config_for(weights, "jumprelu", subtract_b_dec=False, **about), weights)


def _lm(name: str | None) -> str | None:
    """Its repository: also of `gemma-v3-1b-pt` and `google/gemma-3-1b-pt-v3`; that of the 270M model has no `-pt`."""
    repository = (name or "").removesuffix("-v3").replace("-v3", "-3").rpartition("/")[2].replace("270m-pt", "270m")
    return f"hf:google/{repository}" if repository else None


def _site(named: re.Match[str] | None, hook: str | None) -> str | None:
    """What the folder says, or the config; of attention, the heads' outputs are read before W_O."""
    if named and named["kind"] in ("resid_post", "mlp_out"):
        return f"{named['kind']}.{named['layer']}"
    attention = f"model.layers.{named['layer']}.self_attn.o_proj.input" if named else None
    return house_name(hook) or attention


def _config(source: Source) -> _Config:
    """The config, typed."""
    data = source.json(CONFIG) if source.has(CONFIG) else {}
    where = str(source.folder / CONFIG)
    kind = data.get("type")
    if kind not in (None, "sae", "transcoder", *TYPES):
        raise UserError(f"{where} has the type {kind!r}; saelab knows sae, transcoder, {', '.join(TYPES)}.")
    config = _Config.parse(data, origin=where)
    known_keys(data, frozenset(_Config.model_fields), where)
    return config


def _transcoder(
    source: Source, found: dict[str, Tensor], config: _Config, about: dict[str, Any], layer: str | None
) -> Transcoder:
    """From the MLP's input to its output; the skip connection lies as [D_in, D_out]."""
    names = _NAMES | ({"W_skip": "affine_skip_connection"} if "affine_skip_connection" in found else {})
    weights = take(found, names, str(source.folder / WEIGHTS))
    if config.affine_connection and "W_skip" not in weights:
        raise ArtefactError(f"{source.name} says that it has an affine connection, and holds none.")
    if "W_skip" in weights:
        weights["W_skip"] = weights["W_skip"].T
    block = f"model.layers.{layer}" if layer else None
    about["site"] = source.declared.site or config.hf_hook_point_in
    about["site"] = about["site"] or (f"{block}.pre_feedforward_layernorm.output" if block else None)
    hook = config.hf_hook_point_out or (f"{block}.post_feedforward_layernorm.output" if block else None)
    about["site_out"] = house_name(hook)
    check_widths(source.name, weights, transcodes=True, d_in=config.d_in, d_sae=config.d_sae, d_out=config.d_out)
    return transcoder(weights, act_fn="jumprelu", **about)


FORMAT = Format("gemma_scope_2", f"{WEIGHTS} with w_enc", _recognises, _read)
