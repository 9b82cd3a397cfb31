"""circuit-tracer: a folder of `layer_{i}.safetensors`, one transcoder each, or of a cross-layer transcoder's files.

Set: W_enc [F, D], W_dec [F, D] (repositories of 2025: [D, F], told by its shape), b_enc, b_dec, and where it has them
`activation_function.threshold` [F], `k` and W_skip [D, D]. One layer is opened, `FOLDER/layer_3.safetensors`.
Cross-layer: `W_enc_{i}.safetensors` with W_enc_{i} [F, D], b_enc_{i}, b_dec_{i}, threshold_{i} where it has them, and
`W_dec_{i}.safetensors` with W_dec_{i} [F, L - i, D], what set i writes to layers i and after.
`config.yaml` says model and hooks; no input is scaled, and nothing is subtracted from it.
"""

import re
from collections.abc import Sequence
from shlex import quote
from typing import Any

from pydantic import Field

from saelab.core.config import read_yaml
from saelab.core.errors import ArtefactError, UserError
from saelab.core.sites import house_name
from saelab.saes.crosscoder import Crosscoder, crosscoder, stacked
from saelab.saes.formats.conventions import oriented
from saelab.saes.formats.foreign import Count, Foreign
from saelab.saes.formats.source import Format, Source, check_plain, listed, take
from saelab.saes.transcoder import Transcoder, transcoder

CONFIG = "config.yaml"
_LAYER = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD = "activation_function.threshold"


class _Config(Foreign):
    """config.yaml, as far as it is used."""

    model_name: str | None = None
    feature_input_hook: str | None = None
    feature_output_hook: str | None = None
    k: Count | None = None
    transcoders: list[str] = Field(default=[], description="Files of the layers, where they lie elsewhere.")


def _recognises(source: Source) -> bool:
    if source.file:
        return _LAYER.fullmatch(source.file) is not None
    return bool(_layers(source)) or source.has("W_enc_0.safetensors", "W_dec_0.safetensors") or _elsewhere(source)


def _elsewhere(source: Source) -> bool:
    """Is there only a config, whose layers lie in other repositories?"""
    path = source.folder / CONFIG
    return path.is_file() and "model_kind" in path.read_text(encoding="utf-8", errors="replace")


def _layers(source: Source) -> list[str]:
    names = [p.name for p in source.folder.iterdir() if _LAYER.fullmatch(p.name)]
    return sorted(names, key=lambda name: int(name[6:].split(".")[0]))


def _read(source: Source) -> Transcoder | Crosscoder:
    config = _config(source)
    if source.file:
        return _layer(source, source.file, config)
    if source.has("W_enc_0.safetensors"):
        return _cross_layer(source, config)
    layers = _layers(source)
    if not layers:
        places = [f"hf:{uri.removeprefix('hf://').partition('?')[0]}" for uri in config.transcoders] or ["nowhere"]
        raise UserError(
            f"{source.name} names files that lie elsewhere: {listed(places, 3)}.",
            hint=f"Open one: saelab inspect {places[0]}",
        )
    first = quote(f"{source.name.rstrip('/')}/{layers[0]}")
    raise UserError(
        f"{source.name} holds {len(layers)} transcoders, one a layer: {listed(layers)}.",
        hint=f"Open one: saelab inspect {first}",
    )


def _config(source: Source) -> _Config:
    path = source.folder / CONFIG
    data = read_yaml(path) if path.is_file() else {}
    check_plain(data, str(path))  # it is kept as metadata
    return _Config.parse(data, origin=str(path))


def _hooks(config: _Config, layers: Sequence[int]) -> list[tuple[str | None, ...]]:
    """Sites in and out of every layer; None where the config does not say."""
    names = config.feature_input_hook, config.feature_output_hook
    return [tuple(house_name(f"blocks.{i}.{name}") if name else None for i in layers) for name in names]


def _about(source: Source, config: _Config) -> dict[str, Any]:
    named = config.model_name
    lm = source.declared.lm or (f"hf:{named}" if named and "/" in named else named)
    said = config.model_dump(exclude_unset=True, exclude={"transcoders"})
    return {"lm": lm, "metadata": {"format": "circuit_tracer", "config": said}}


def _layer(source: Source, name: str, config: _Config) -> Transcoder:
    found = source.safetensors(name)
    where = str(source.folder / name)
    names = {n: n for n in ("W_enc", "W_dec", "b_enc", "b_dec")}
    names |= {"threshold": _THRESHOLD} if _THRESHOLD in found else {}
    names |= {"W_skip": "W_skip"} if "W_skip" in found else {}
    weights = take(found, names, where, optional=("k",))
    latents, d_out = weights["b_enc"].numel(), weights["b_dec"].numel()
    d_in = weights["W_enc"].numel() // max(latents, 1)
    weights["W_enc"] = oriented(weights["W_enc"], latents, d_in, f"W_enc of {where}", declared=True).T
    weights["W_dec"] = oriented(weights["W_dec"], latents, d_out, f"W_dec of {where}")
    k = source.declared.settled("k", int(found["k"]) if "k" in found else config.k)
    act_fn = "topk" if k else "jumprelu" if "threshold" in weights else "relu"
    match = _LAYER.fullmatch(name)
    (site,), (site_out,) = _hooks(config, [int(match[1])] if match else [0])
    site = source.declared.site or site
    return transcoder(weights, act_fn=act_fn, k=k, site=site, site_out=site_out, **_about(source, config))


def _cross_layer(source: Source, config: _Config) -> Crosscoder:
    count = len(list(source.folder.glob("W_enc_*.safetensors")))
    jumps = "threshold_0" in source.safetensors("W_enc_0.safetensors")
    parts, decoders = [], []
    for i in range(count):
        names = ["W_enc", "b_enc", "b_dec"] + (["threshold"] if jumps else [])
        file = f"W_enc_{i}.safetensors"
        parts.append(take(source.safetensors(file), {n: f"{n}_{i}" for n in names}, str(source.folder / file)))
        file = f"W_dec_{i}.safetensors"
        decoder = take(source.safetensors(file), {"W_dec": f"W_dec_{i}"}, str(source.folder / file), axes=3)["W_dec"]
        if decoder.shape[1] != count - i:
            raise ArtefactError(
                f"{source.folder / file} has shape {tuple(decoder.shape)}; it writes {count - i} layers."
            )
        decoders.append({i + t: decoder[:, t] for t in range(count - i)})
    weights = {n: stacked([p[n] for p in parts], n) for n in parts[0]}
    weights["W_enc"] = weights["W_enc"].transpose(-1, -2)
    sites = [tuple(s or f"layer.{i}" for i, s in enumerate(of)) for of in _hooks(config, range(count))]
    return crosscoder(
        weights, decoders, kind="cross_layer", act_fn="jumprelu" if jumps else "relu", sites=sites[0],
        sites_out=sites[1], **_about(source, config),
    )  # fmt: skip


FORMAT = Format("circuit_tracer", "layer_{i}.safetensors, or W_enc_{i} and W_dec_{i}", _recognises, _read)
