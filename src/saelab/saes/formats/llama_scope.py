"""Llama Scope (He et al. 2024, arXiv 2410.20526) and its successor library, by OpenMOSS: JumpReLU, ReLU and TopK.

Old: `hyperparams.json`, `checkpoints/final.safetensors` with encoder.*, decoder.*; one threshold for all latents, in
raw units, while the weights expect x' = s x, s = sqrt(D) / dataset_average_activation_norm.
New: `config.json`, `sae_weights.safetensors` with W_E, b_E, W_D, b_D, log_jumprelu_threshold [F] and the norm as a
tensor; here the threshold is in the units of x'. Folding the scale: biases / s, a threshold of x' / s. b_dec is not
subtracted from the input. Where thresholds are of pre_j n_j (decoder norm), θ_j becomes θ_j / n_j; a TopK by pre_j n_j
has n_j folded into its weights, so that its codes are the library's times n_j and its directions of unit norm.
"""

from math import inf
from typing import Any

import torch
from torch import Tensor

from saelab.core.errors import ArtefactError, UserError
from saelab.core.sites import house_name
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae
from saelab.saes.formats.conventions import (
    check_widths,
    config_for,
    decoder_norms_folded,
    exponential,
    matrix,
    scaled_in,
    transposed,
)
from saelab.saes.formats.foreign import Count, Foreign, Positive
from saelab.saes.formats.llamascopium_sites import NORM, TYPES, norms_in, read_sites
from saelab.saes.formats.source import Format, Found, Source
from saelab.saes.transcoder import Transcoder, transcoder

OLD, OLD_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
NEW, NEW_WEIGHTS = "config.json", "sae_weights.safetensors"
_OLD_NAMES = {
    "encoder.weight": "W_enc",
    "encoder.bias": "b_enc",
    "decoder.weight": "W_dec",
    "decoder.bias": "b_dec",
    "log_jumprelu_threshold": "log_threshold",
    "activation_function.log_jumprelu_threshold": "log_threshold",
}
_NEW_NAMES = {"W_E": "W_enc", "b_E": "b_enc", "W_D": "W_dec", "b_D": "b_dec"}
_NORM_FREE = ("inference", "none", None)  # "inference": the scale is folded in already


class _Config(Foreign):
    """hyperparams.json or config.json, as far as an encoder depends on them; the rest is how it was trained."""

    sae_type: str = "sae"
    d_model: int | None = None
    d_sae: int | None = None
    hook_point_in: str | None = None
    hook_point_out: str | None = None
    model_name: str | None = None
    act_fn: str = "jumprelu"
    top_k: Count | None = None
    jump_relu_threshold: Positive | None = None
    norm_activation: str | None = "dataset-wise"
    dataset_average_activation_norm: dict[str, Positive] | Positive | None = None
    sparsity_include_decoder_norm: bool = False
    apply_decoder_bias_to_pre_encoder: bool = False
    use_glu_encoder: bool = False


def _recognises_old(source: Source) -> bool:
    return source.has(OLD, OLD_WEIGHTS)


def _recognises_new(source: Source) -> bool:
    return source.has(NEW, NEW_WEIGHTS) and not source.has("cfg.json")


def _read_old(source: Source) -> Sae | Transcoder:
    config = _config(source.json(OLD), source)
    norm = config.dataset_average_activation_norm
    norm, norm_out = (norm.get("in"), norm.get("out")) if isinstance(norm, dict) else (norm, norm)
    weights, norms = _named(source.safetensors(OLD_WEIGHTS), config, source)
    scale = _scale(config, norm or _norm_of(config.hook_point_in, norms, source), weights, source)
    scale_out = scale
    if _transcodes(config):
        scale_out = _scale(config, norm_out or _norm_of(config.hook_point_out, norms, source), weights, source)
    if "log_threshold" not in weights and config.jump_relu_threshold is not None:
        # The one threshold is in raw units: put it in those of x', as everything else here.
        weights["threshold"] = torch.full((weights["b_enc"].shape[0],), config.jump_relu_threshold * scale)
    return _built(weights, config, scale, source, scale_out=scale_out)


def _read_new(source: Source) -> Found:
    said = source.json(NEW)
    if said.get("sae_type") in TYPES:
        return read_sites(source, said, source.safetensors(NEW_WEIGHTS))
    if (kind := said.get("sae_type", "sae")) != "sae":
        raise UserError(f"{source.name} holds a {kind}; saelab reads SAEs and transcoders of this layout.")
    # what its library takes the decoder's norm for where the config is silent
    config = _config({"sparsity_include_decoder_norm": True} | said, source)
    weights, norms = _named(source.safetensors(NEW_WEIGHTS), config, source)
    scale = _scale(config, _norm_of(config.hook_point_in, norms, source), weights, source)
    scale_out = scale
    if _transcodes(config):
        scale_out = _scale(config, _norm_of(config.hook_point_out, norms, source), weights, source)
    return _built(weights, config, scale, source, scale_out=scale_out)


def _config(said: dict[str, Any], source: Source) -> _Config:
    config = _Config.parse(said, origin=f"The config of {source.name}")
    if config.use_glu_encoder:
        raise UserError(f"{source.name} has a gated linear unit as encoder, which is not read.")
    if config.hook_point_out is not None and config.hook_point_in is None:
        raise ArtefactError(
            f"{source.name} says hook_point_out and no hook_point_in: it could be an SAE or a transcoder.",
            hint="Write hook_point_in into its config; an SAE's is the same.",
        )
    return config


def _transcodes(config: _Config) -> bool:
    return config.hook_point_out not in (None, config.hook_point_in)


def _norm_of(hook: str | None, norms: dict[str, float], source: Source) -> float | None:
    """The average norm of a hook point, None where the files hold none; that of another hook is not taken for it."""
    if norms and hook not in norms and (hook is not None or len(norms) > 1):
        raise ArtefactError(f"{source.name} holds the average norm of {', '.join(norms)}, and not of its hook {hook}.")
    return norms.get(hook) if hook is not None else next(iter(norms.values()), None)


def _named(found: dict[str, Tensor], config: _Config, source: Source) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights in our names and orientation, and the average norms by hook point."""
    norms = norms_in(found, source)
    names = _OLD_NAMES | _NEW_NAMES
    unknown = sorted(key for key in found if key not in names and not key.startswith(NORM))
    if unknown:
        raise ArtefactError(f"{source.name} has the unknown tensors {', '.join(unknown[:6])}.")
    weights = {names[key]: t for key, t in found.items() if key in names}
    missing = sorted({"W_enc", "b_enc", "W_dec"} - weights.keys())
    if missing:
        raise ArtefactError(f"{source.name} lacks the tensors {', '.join(missing)}.")
    if "encoder.weight" in found:  # nn.Linear keeps [out, in]
        weights = transposed(weights, source.name, "W_enc", "W_dec")
    weights.setdefault("b_dec", torch.zeros(matrix(weights, "W_dec", source.name).shape[1]))
    check_widths(source.name, weights, transcodes=_transcodes(config), d_in=config.d_model, d_sae=config.d_sae)
    return weights, norms


def _scale(config: _Config, norm: float | None, weights: dict[str, Tensor], source: Source) -> float:
    """s of x' = s x."""
    kind = config.norm_activation
    if kind in _NORM_FREE:
        return 1.0
    if kind != "dataset-wise":
        raise UserError(
            f"{source.name} normalises activations {kind}, at run time, which no weights can express.",
            hint="Choose an SAE with norm_activation dataset-wise or inference.",
        )
    stated = weights["W_enc"].shape[0] ** 0.5 / norm if norm is not None and 0 < norm < inf else None
    scale = source.declared.settled("input_scale", stated)
    if scale is None:
        raise UserError(
            f"{source.name} was trained on scaled activations, and the average norm is not in its files.",
            hint="Give input_scale = sqrt(d) / average norm (--input-scale).",
        )
    return scale


def _to_other_units(weights: dict[str, Tensor], scale: float, scale_out: float) -> dict[str, Tensor]:
    """A transcoder's weights for raw x and raw y: codes come out / scale, and what they write / scale_out."""
    raw = scaled_in(weights, scale)
    return raw | {"W_dec": weights["W_dec"] * (scale / scale_out), "b_dec": weights["b_dec"] / scale_out}


_ACT_FNS: dict[str, type[Sae]] = {"jumprelu": JumpReluSae, "relu": ReluSae, "topk": TopKSae}


def _built(
    weights: dict[str, Tensor], config: _Config, scale: float, source: Source, *, scale_out: float
) -> Sae | Transcoder:
    act_fn = config.act_fn.lower()
    if act_fn not in _ACT_FNS:
        why = " Its codes depend on the other tokens of a batch." if act_fn.startswith("batch") else ""
        raise UserError(f"{source.name} has the activation {act_fn!r}; {', '.join(_ACT_FNS)} are read.{why}")
    k = source.declared.settled("k", config.top_k) if act_fn == "topk" else None
    if act_fn == "topk" and k is None:
        raise ArtefactError(f"{source.name} lacks top_k.", hint="Declare it: k=... (--k).")
    metadata: dict[str, Any] = {"format": "llama_scope", "input_scale": scale}
    weights = _with_thresholds(weights, act_fn, source)
    if config.sparsity_include_decoder_norm and act_fn == "jumprelu":
        norms = weights["W_dec"].norm(dim=1)
        never = torch.finfo(norms.dtype).max  # a latent of norm zero passes no threshold
        weights["threshold"] = torch.where(norms > 0, weights["threshold"] / norms, never)
    elif config.sparsity_include_decoder_norm and act_fn == "topk":
        weights = decoder_norms_folded(weights)
        metadata["notice"] = "codes are those of its library times the norms of its decoder"
    hook, out = config.hook_point_in, config.hook_point_out or config.hook_point_in
    about = {"k": k, "site": source.declared.site or house_name(hook), "metadata": metadata}
    about["lm"] = source.declared.lm or config.model_name
    if out != hook:
        weights = _to_other_units(weights, scale, scale_out)
        return transcoder(weights, act_fn=act_fn, site_out=house_name(out), **about)
    raw = scaled_in(weights, scale)
    cfg = config_for(raw, act_fn, subtract_b_dec=config.apply_decoder_bias_to_pre_encoder, **about)
    return _ACT_FNS[act_fn](cfg, raw)


def _with_thresholds(weights: dict[str, Tensor], act_fn: str, source: Source) -> dict[str, Tensor]:
    """The weights with the thresholds that the activation function needs, and no others."""
    log = weights.pop("log_threshold", None)
    if act_fn != "jumprelu":
        return {name: tensor for name, tensor in weights.items() if name != "threshold"}
    if log is not None:
        return weights | {"threshold": exponential(log, source.name)}
    if "threshold" not in weights:
        raise ArtefactError(f"{source.name} is a JumpReLU SAE without a threshold.", hint="Its file is not whole.")
    return weights


FORMAT = Format("llama_scope", f"{OLD} with {OLD_WEIGHTS}", _recognises_old, _read_old)
FORMAT_NEW = Format("llama_scope_2", f"{NEW} with {NEW_WEIGHTS}", _recognises_new, _read_new)
