"""EleutherAI sparsify: `cfg.json` and `sae.safetensors`, TopK.

    z = top_k(relu((x - b_dec) W_enc + b_enc)),   x̂ = z W_dec + b_dec

encoder.weight [F, D], encoder.bias [F], W_dec [F, D] (sic: not transposed), b_dec [D]; older files have decoder.weight
[D, F] and a flag `signed`: signed codes become twice as many non-negative ones. A hook point `layers.L` is the output
of block L, that is `resid_post.L`, while `hidden_states[L]` is the stream before it. GroupMax is refused.

A transcoder reads the hook point's input, may have W_skip [D, D], and subtracts nothing from what it reads. Before
`transcode` stood in cfg.json (early 2025) it subtracted b_dec as an SAE does, and the library still reads such files
so: one with W_skip is known by that, a plain one by the run's config.json above it, or it has to be declared.
"""

import re
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from saelab.core.errors import ArtefactError, UserError
from saelab.core.sites import find_site, house_name
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae
from saelab.saes.formats.conventions import (
    check_widths,
    config_for,
    signs_split,
    transposed,
    with_bias_convention,
)
from saelab.saes.formats.foreign import Count, Foreign
from saelab.saes.formats.places import folder_names
from saelab.saes.formats.source import Format, Source, take
from saelab.saes.transcoder import Transcoder, transcoder
from saelab.store.files import read_json, write_json
from saelab.store.tensors import write_tensors

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_SEED = re.compile(r"seed\d+")


class _Config(Foreign):
    """cfg.json: what the encoder depends on. The library drops keys that it does not know, and so does this."""

    activation: Literal["topk"] = "topk"
    k: Count | None = None
    d_in: int | None = None
    num_latents: int = 0
    skip_connection: bool = False
    transcode: bool | None = None
    signed: bool = False
    expansion_factor: Any = None  # this and the next two matter in training only
    normalize_decoder: Any = None
    multi_topk: Any = None


class _Run(Foreign):
    """The config.json of the run that wrote the folder, one level up."""

    hookpoints: list[str]
    transcode: bool = False


def _recognises(source: Source) -> bool:
    return source.has(CONFIG, WEIGHTS)


def _read(source: Source) -> Sae | Transcoder:
    where = str(source.folder / CONFIG)
    data = source.json(CONFIG)
    if (act_fn := data.get("activation", "topk")) != "topk":
        raise UserError(f"{source.name} has the activation {act_fn!r}; topk is read.")
    config = _Config.parse(data, origin=where)
    k = source.declared.settled("k", config.k)
    if k is None:
        raise ArtefactError(f"{where} lacks k.", hint="Declare it: k=... (--k).")
    weights = _weights(source)
    check_widths(source.name, weights, d_in=config.d_in, d_sae=config.num_latents or None)
    hook = _hook_point(source)
    metadata: dict[str, Any] = {"format": "sparsify", "config": data}
    if config.unknown():
        metadata["notice"] = f"keys of cfg.json that sparsify's own loader drops: {', '.join(config.unknown())}"
    about = {"lm": source.declared.lm, "metadata": metadata}
    if _transcodes(source, config, weights):
        if config.transcode is None:
            weights["b_enc"] = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
        about |= {"site": source.declared.site or _input_of(hook), "site_out": house_name(hook)}
        return transcoder(weights, act_fn="topk", k=k, **about)
    if config.signed:
        weights = signs_split(weights)
    site = source.declared.site or house_name(hook)
    return TopKSae(config_for(weights, "topk", k=k, site=site, **about), weights)


def _transcodes(source: Source, config: _Config, weights: dict[str, Tensor]) -> bool:
    """Does it rebuild the hook point's output from its input?"""
    skips = "W_skip" in weights
    if skips != config.skip_connection:
        raise ArtefactError(f"{source.name} says skip_connection {config.skip_connection}; its weights say {skips}.")
    if config.transcode is not None:
        if skips and not config.transcode:
            raise UserError(
                f"{source.name} passes its input on through a skip connection, so its codes explain it in part."
            )
        return config.transcode
    if skips:
        return True
    seeded = _SEED.fullmatch(source.folder.resolve().name) is not None
    run = (source.folder.resolve().parents[1 if seeded else 0]) / "config.json"
    data = read_json(run) if run.is_file() else None
    if isinstance(data, dict) and {"sae", "hookpoints"} <= data.keys():
        return _Run.parse(data, origin=str(run)).transcode
    return bool(source.declared.transcode)


def _hook_point(source: Source) -> str | None:
    """The module whose output is rebuilt: the folder's own name, `.../layers.10`, or of the folder above `seed1`."""
    for parent, own in folder_names(source):
        name = parent if _SEED.fullmatch(own) else own
        if find_site(name):
            return name
    return None


def _input_of(hook: str | None) -> str | None:
    """Where a transcoder of that module reads: before the block for a block, else the module's input."""
    site = find_site(hook) if hook else None
    return f"resid_pre.{site.layer}" if site and site.kind == "resid_post" else f"{hook}.input" if hook else None


def _weights(source: Source) -> dict[str, Tensor]:
    found = source.safetensors(WEIGHTS)
    where = str(source.folder / WEIGHTS)
    decoder = "W_dec" if "W_dec" in found else "decoder.weight"
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": decoder, "b_dec": "b_dec"}
    names |= {"W_skip": "W_skip"} if "W_skip" in found else {}
    weights = take(found, names, where)
    # The format fixes both orientations: encoder.weight and W_dec have a row per latent, decoder.weight a column.
    return transposed(weights, where, "W_enc", *(["W_dec"] if decoder == "decoder.weight" else []))


def _write(sae: Sae | Transcoder, folder: Path) -> None:
    """A TopK SAE, or a TopK transcoder between two sites of one width."""
    transcodes = isinstance(sae, Transcoder)
    if isinstance(sae, Transcoder):
        if sae.cfg.act_fn != "topk" or sae.cfg.d_in != sae.cfg.d_out:
            raise UserError(
                f"sparsify holds TopK transcoders of one width; this one is {sae.cfg.act_fn}, from {sae.cfg.d_in} to "
                f"{sae.cfg.d_out}.",
                hint="No format that saelab writes holds it."
                if sae.cfg.act_fn == "topk"
                else "Write it with --to saelens.",
            )
        weights = sae.weights()
    elif isinstance(sae, TopKSae):
        weights = with_bias_convention(sae, subtract=True).weights()
    else:
        raise UserError(
            f"sparsify holds TopK SAEs; this one encodes as {sae.saelens_name}.",
            hint="Write it with --to saelens, which holds every architecture.",
        )
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
    tensors = {names.get(ours, ours): tensor for ours, tensor in transposed(weights, "The SAE", "W_enc").items()}
    write_tensors(folder / WEIGHTS, tensors)
    config: dict[str, Any] = {
        "activation": "topk",
        "expansion_factor": 32,  # not used beside num_latents
        "normalize_decoder": True,
        "num_latents": sae.cfg.d_sae,
        "k": sae.cfg.k,
        "multi_topk": False,
        "skip_connection": "W_skip" in weights,
        "transcode": transcodes,
        "d_in": sae.cfg.d_in,
    }
    write_json(folder / CONFIG, config)


FORMAT = Format("sparsify", f"{CONFIG} with {WEIGHTS}", _recognises, _read, _write)
