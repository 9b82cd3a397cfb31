"""Llama Scope (He et al. 2024, arXiv 2410.20526) and its successor library, by OpenMOSS: JumpReLU, ReLU and TopK.

Old: `hyperparams.json`, `checkpoints/final.safetensors` with encoder.*, decoder.*; one threshold for all latents, in
raw units, while the weights expect x' = s x, s = sqrt(D) / dataset_average_activation_norm.
New: `config.json`, `sae_weights.safetensors` with W_E, b_E, W_D, b_D, log_jumprelu_threshold [F] and the norm as a
tensor; here the threshold is in the units of x'. Folding the scale: biases / s, a threshold of x' / s. b_dec is not
subtracted from the input. Where the gate reads pre_j n_j (decoder norm), θ_j becomes θ_j / n_j.
"""

from typing import Any

import torch
from torch import Tensor

from saelab.core.errors import ArtefactError, UserError
from saelab.core.sites import house_name
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae
from saelab.saes.formats.conventions import config_for, oriented, scaled_in
from saelab.saes.formats.source import Format, Source
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
_NORM = "dataset_average_activation_norm."
_NORM_FREE = ("inference", "none", None)  # "inference": the scale is folded in already


def _recognises_old(source: Source) -> bool:
    return source.has(OLD, OLD_WEIGHTS)


def _recognises_new(source: Source) -> bool:
    return source.has(NEW, NEW_WEIGHTS) and not source.has("cfg.json")


def _read_old(source: Source) -> Sae | Transcoder:
    config = source.json(OLD)
    norm = config.get("dataset_average_activation_norm")
    norm, norm_out = (norm.get("in"), norm.get("out")) if isinstance(norm, dict) else (norm, norm)
    weights, norms = _named(source.safetensors(OLD_WEIGHTS), source)
    scale = _scale(config, norm or next(iter(norms.values()), None), weights, source)
    scale_out = _scale(config, norm_out or norm, weights, source) if norm else scale
    if "log_threshold" not in weights and "jump_relu_threshold" in config:
        # The one threshold is in raw units: put it in those of x', as everything else here.
        theta = float(config["jump_relu_threshold"]) * scale
        weights["threshold"] = torch.full((weights["b_enc"].shape[0],), theta)
    return _built(weights, config, scale, source, scale_out=scale_out)


def _read_new(source: Source) -> Sae | Transcoder:
    config = source.json(NEW)
    if config.get("sae_type", "sae") != "sae":
        raise UserError(f"{source.name} holds a {config['sae_type']}; saelab reads SAEs.")
    if config.get("use_glu_encoder"):
        raise UserError(f"{source.name} has a gated linear unit as encoder, which is not read.")
    weights, norms = _named(source.safetensors(NEW_WEIGHTS), source)
    hook = config.get("hook_point_in")
    norm = norms.get(str(hook), next(iter(norms.values()), None))
    scale_out = _scale(config, norms.get(str(config.get("hook_point_out")), norm), weights, source)
    return _built(weights, config, _scale(config, norm, weights, source), source, scale_out=scale_out)


def _named(found: dict[str, Tensor], source: Source) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights in our names and orientation, and the average norms by hook point."""
    norms = {key.removeprefix(_NORM): float(t) for key, t in found.items() if key.startswith(_NORM)}
    names = _OLD_NAMES | _NEW_NAMES
    unknown = sorted(key for key in found if key not in names and not key.startswith(_NORM))
    if unknown:
        raise ArtefactError(f"{source.name} has the unknown tensors {', '.join(unknown[:6])}.")
    weights = {names[key]: t for key, t in found.items() if key in names}
    missing = sorted({"W_enc", "b_enc", "W_dec"} - weights.keys())
    if missing:
        raise ArtefactError(f"{source.name} lacks the tensors {', '.join(missing)}.")
    linear = "encoder.weight" in found  # nn.Linear keeps [out, in]: the format declares the orientation
    weights["W_enc"] = weights["W_enc"].T.contiguous() if linear else weights["W_enc"]
    weights["W_dec"] = weights["W_dec"].T.contiguous() if linear else weights["W_dec"]
    d_in, d_sae = weights["W_enc"].shape
    weights["W_dec"] = oriented(weights["W_dec"], d_sae, d_in, "the decoder", declared=True)
    weights.setdefault("b_dec", torch.zeros(d_in))
    return weights, norms


def _scale(config: dict[str, Any], norm: Any, weights: dict[str, Tensor], source: Source) -> float:
    """s of x' = s x."""
    kind = config.get("norm_activation", "dataset-wise")
    if kind in _NORM_FREE:
        return 1.0
    if kind != "dataset-wise":
        raise UserError(
            f"{source.name} normalises activations {kind}, at run time, which no weights can express.",
            hint="Choose an SAE with norm_activation dataset-wise or inference.",
        )
    if source.declared.input_scale is not None:
        return source.declared.input_scale
    if not isinstance(norm, int | float) or norm <= 0:
        raise UserError(
            f"{source.name} was trained on scaled activations, and the average norm is not in its files.",
            hint="Give input_scale = sqrt(d) / average norm (--input-scale).",
        )
    return weights["W_enc"].shape[0] ** 0.5 / float(norm)


def _to_other_units(weights: dict[str, Tensor], scale: float, scale_out: float) -> dict[str, Tensor]:
    """A transcoder's weights for raw x and raw y: codes come out / scale, and what they write / scale_out."""
    raw = scaled_in(weights, scale)
    return raw | {"W_dec": weights["W_dec"] * (scale / scale_out), "b_dec": weights["b_dec"] / scale_out}


def _built(
    weights: dict[str, Tensor], config: dict[str, Any], scale: float, source: Source, *, scale_out: float
) -> Sae | Transcoder:
    hook = config.get("hook_point_in")
    out = config.get("hook_point_out", hook)
    by_norm = bool(config.get("sparsity_include_decoder_norm"))
    norms = weights["W_dec"].norm(dim=1)
    if "log_threshold" in weights:
        weights["threshold"] = weights.pop("log_threshold").exp()
    gate = str(config.get("act_fn", "jumprelu")).lower()
    if by_norm and "threshold" in weights:
        weights["threshold"] = weights["threshold"] / norms
    if by_norm and gate == "topk" and bool(((norms - 1).abs() > 1e-4).any()):
        raise UserError(
            f"{source.name} compares latents by decoder norm, and its decoder rows are not of unit norm.",
            hint="Transform it to unit decoder norm with the library that wrote it.",
        )
    kinds: dict[str, tuple[str, type[Sae]]]
    kinds = {"jumprelu": ("jumprelu", JumpReluSae), "relu": ("relu", ReluSae), "topk": ("topk", TopKSae)}
    if gate not in kinds:
        raise UserError(f"{source.name} has the activation {gate!r}; {', '.join(kinds)} are read.")
    architecture, module = kinds[gate]
    if architecture == "jumprelu" and "threshold" not in weights:
        raise ArtefactError(f"{source.name} is a JumpReLU SAE without a threshold.", hint="Its file is not whole.")
    k = source.declared.k or config.get("top_k") if architecture == "topk" else None
    if architecture == "topk" and not isinstance(k, int):
        raise ArtefactError(f"{source.name} lacks top_k.", hint="Declare it: k=...")
    metadata = {"format": "llama_scope", "input_scale": scale}
    if out != hook:
        weights = _to_other_units(weights, scale, scale_out)
        sites = {
            "site": house_name(hook),
            "site_out": house_name(out),
            "lm": source.declared.lm or config.get("model_name"),
        }
        return transcoder(weights, gate=architecture, k=k, metadata=metadata, **sites)
    raw = scaled_in(weights, scale)
    cfg = config_for(
        raw,
        architecture,
        k=k,
        subtract_b_dec=bool(config.get("apply_decoder_bias_to_pre_encoder", False)),
        site=source.declared.site or house_name(hook),
        lm=source.declared.lm or config.get("model_name"),
        metadata=metadata,
    )
    return module(cfg, raw)


FORMAT = Format("llama_scope", f"{OLD} with {OLD_WEIGHTS}", _recognises_old, _read_old)
FORMAT_NEW = Format("llama_scope_2", f"{NEW} with {NEW_WEIGHTS}", _recognises_new, _read_new)
