"""The native folder: SAELens v6 (`cfg.json`, `sae_weights.safetensors`), with metadata keys that SAELens ignores.

Tensors: W_enc [D, F], W_dec [F, D], b_dec [D], b_enc [F] (gated: b_gate, b_mag, r_mag instead; jumprelu: and threshold
[F], strict `>`; matching pursuit: W_dec and b_dec only). A BatchTopK or Matryoshka SAE is written as jumprelu. Anything
written here opens in SAELens with the same codes (up to the token's spread where tokens are normalised). Folders of
SAELens 5 and earlier have a flat config with older names; saelens_v5.py renames them and this file does the rest.
Folders of an unfinished training are read as what they would finish as, and AbsTopK's signed codes as twice as many
non-negative ones. Codes that depend on earlier tokens (temporal) are refused.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saelab.core.errors import ArtefactError, UserError, nearest
from saelab.core.sites import hook_name, house_name
from saelab.saes.architectures.matching_pursuit import SETTINGS, MatchingPursuitSae
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.catalogue import MODULES
from saelab.saes.formats.conventions import (
    decoder_norms_folded,
    scaled_in,
    signs_split,
    whitened_in,
)
from saelab.saes.formats.saelens_transcoder import write_transcoder
from saelab.saes.formats.saelens_v5 import is_old, renamed
from saelab.saes.formats.source import Format, Source, known_keys, take
from saelab.saes.normalised import CARRIED, NormalisedSae, normalised
from saelab.saes.transcoder import Transcoder, transcoder
from saelab.store.files import write_json
from saelab.store.tensors import write_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
LAYOUT_VERSION = "6.0.0"  # the SAELens version whose layout this is

HOUSE_NAMES = {"standard": "relu"}  # SAELens' name -> ours, where they differ
# Tensor names that differ in a gated SAE: ours -> SAELens'.
_GATED = {"b_enc": "b_gate"}
_KWARGS = "model_from_pretrained_kwargs"  # what TransformerLens was told when the activations were read
_LAYER_NORM = re.compile("gpt|pythia|gelu|solu|stories|opt-|bloom", re.IGNORECASE)
_TIED = ("W_dec", "b_dec")  # all that a matching pursuit SAE stores

KNOWN = frozenset(
    [
        "architecture",
        "d_in",
        "d_sae",
        "dtype",
        "device",
        "apply_b_dec_to_input",
        "normalize_activations",
        "reshape_activations",
        "metadata",
        "k",
        "rescale_acts_by_decoder_norm",
        "use_sparse_activations",
        "finetuning_scaling_factor",
        "d_out",
    ]
)
# Settings of training that an unfinished folder keeps; they do not change what is encoded.
TRAINING = frozenset(
    [
        "aux_loss_coefficient",
        "decoder_init_norm",
        "jumprelu_bandwidth",
        "jumprelu_init_threshold",
        "jumprelu_sparsity_loss_mode",
        "jumprelu_ste_to_input",
        "jumprelu_tanh_scale",
        "l0_coefficient",
        "l0_warm_up_steps",
        "l1_coefficient",
        "l1_warm_up_steps",
        "lp_norm",
        "matryoshka_widths",
        "pre_act_loss_coefficient",
        "target_l0",
        "topk_threshold_lr",
        "use_matryoshka_aux_loss",
    ]
)

REFUSED = {"temporal": "its codes depend on the tokens before, and everything here encodes token by token"}
# Folders of an unfinished training: the threshold of all latents is a number, and is a vector once it is finished.
ENCODES_AS = {"batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu", "abstopk": "topk"}
TRANSCODERS = {
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
SCALER = "activation_scaler.json"  # the training scale, beside the weights of an unfinished training
WHITENING = "activation_whitening.safetensors"  # and its whitening


def _recognises(source: Source) -> bool:
    return source.has(CONFIG, WEIGHTS)


def _write(sae: Sae | Transcoder, folder: Path) -> None:
    """The weights first, so that a folder with a config is whole."""
    if isinstance(sae, Transcoder):
        return write_transcoder(sae, folder, LAYOUT_VERSION)
    kind = sae.kind if isinstance(sae, NormalisedSae) else "none"
    sae = sae.inner() if isinstance(sae, NormalisedSae) else sae
    cfg, weights = sae.cfg, sae.weights()
    if isinstance(sae, MatchingPursuitSae):
        if not cfg.subtract_b_dec and bool((weights["b_dec"] != 0).any()):
            raise UserError(
                "SAELens holds matching pursuit SAEs that subtract b_dec from the input; this one does not."
            )
        weights = {n: weights[n] for n in _TIED}
    names = _GATED if sae.saelens_name == "gated" else {}
    write_tensors(folder / WEIGHTS, {names.get(n, n): t.contiguous() for n, t in weights.items()})
    data: dict[str, Any] = {
        "architecture": sae.saelens_name,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": cfg.subtract_b_dec,
        "normalize_activations": "none" if kind == "centred" else kind,
        "reshape_activations": "none",
    } | cfg.settings
    if sae.saelens_name == "topk":
        data |= {"k": cfg.k, "rescale_acts_by_decoder_norm": False}
    metadata = dict(cfg.metadata) | {
        "sae_lens_version": LAYOUT_VERSION,
        "training_architecture": cfg.architecture,
        "model_name": cfg.lm,
        "hook_name": hook_name(cfg.site),
    }
    if kind == "centred":
        metadata |= {_KWARGS: {"center_writing_weights": True}}
    saelab = {
        "unit": "raw",
        "site": cfg.site,
        "lm": cfg.lm,
        "k": cfg.k,
        "threshold_comparison": ">",
        "architecture": cfg.architecture,
        "normalise": kind,
    }
    write_json(folder / CONFIG, data | {"metadata": metadata | {"saelab": saelab}})


def _read(source: Source) -> Sae | Transcoder:
    data = source.json(CONFIG)
    where = f"{source.folder / CONFIG}"
    data = renamed(data, where) if is_old(data) else data
    if not {"architecture", "d_in", "d_sae"} <= data.keys():
        raise ArtefactError(f"{where} is not a SAELens config: it lacks architecture, d_in or d_sae.")
    name = str(data["architecture"])
    if name in REFUSED:
        raise UserError(f"{source.name} holds an SAE of architecture {name!r}: {REFUSED[name]}.")
    pursuit = name == MatchingPursuitSae.saelens_name
    known_keys(data, KNOWN | TRAINING | (frozenset(SETTINGS) if pursuit else frozenset()), where)
    if name in TRANSCODERS:
        return _transcoder(data, name, source)
    encodes_as = ENCODES_AS.get(name, name)
    if encodes_as not in MODULES:
        known = [*MODULES, *ENCODES_AS, *TRANSCODERS]
        raise UserError(f"{source.name} holds an SAE of architecture {name!r}.", hint=nearest(name, known))
    weights, rescaled = _weights(source, encodes_as, data)
    if rescaled:
        weights = decoder_norms_folded(weights)
    weights, settings = _raw(weights, data, source)
    if name == "abstopk":
        weights = signs_split(weights)
    cfg = _config(data, name, source, d_sae=weights["W_enc"].shape[1], settings=settings)
    kind = _run_time(data, source)
    sae = MODULES[encodes_as](cfg, weights)
    return normalised(sae, kind) if kind else sae


def _transcoder(data: dict[str, Any], name: str, source: Source) -> Transcoder:
    """W_dec [F, D_out], W_skip [D_out, D_in]; nothing is subtracted from the input."""
    if data.get("normalize_activations", "none") not in ("none", None):
        raise UserError(f"{source.name} normalises what it reads, which a transcoder's weights cannot express.")
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]
    names += ["threshold"] * name.startswith("jumprelu") + ["W_skip"] * ("skip" in name)
    weights = take(source.safetensors(WEIGHTS), {n: n for n in names}, f"{source.folder / WEIGHTS}")
    metadata = dict(data.get("metadata") or {})
    return transcoder(
        weights,
        gate=TRANSCODERS[name],
        site=source.declared.site or house_name(metadata.get("hook_name")),
        site_out=house_name(metadata.get("hook_name_out")),
        lm=source.declared.lm or metadata.get("model_name"),
        metadata=metadata,
    )


def _config(
    data: dict[str, Any], name: str, source: Source, *, d_sae: int, settings: dict[str, Any] | None = None
) -> SaeConfig:
    metadata = dict(data.get("metadata") or {})
    ours = metadata.pop("saelab", None)
    ours = ours if isinstance(ours, dict) else {}
    if name == "abstopk":
        metadata["signed_latents"] = data["d_sae"]  # latent F + j is the negative part of latent j
    k = data.get("k") or ours.get("k")
    if data.get("reshape_activations", "none") not in ("none", None):
        metadata["reshape_activations"] = data["reshape_activations"]
    declared = source.declared
    return SaeConfig.parse(
        {
            "architecture": str(ours.get("architecture") or HOUSE_NAMES.get(name, name)),
            "d_in": data["d_in"],
            "d_sae": d_sae if name == "abstopk" else data["d_sae"],
            "site": declared.site or ours.get("site") or house_name(metadata.get("hook_name")),
            "lm": declared.lm or ours.get("lm") or metadata.get("model_name"),
            "k": round(k) if k else None,  # a BatchTopK SAE may have been trained to 31.5 on average
            "subtract_b_dec": data.get("apply_b_dec_to_input", True) or name == MatchingPursuitSae.saelens_name,
            "settings": settings or {},
            "metadata": metadata,
        },
        origin=str(source.folder / CONFIG),
    )


def _weights(source: Source, name: str, data: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """Our weights by name, and whether latents are compared by decoder norm."""
    found = source.safetensors(WEIGHTS)
    if "log_threshold" in found and "threshold" not in found:  # training files before the switch to a direct threshold
        found["threshold"] = found.pop("log_threshold").exp()
    if "topk_threshold" in found:
        found["threshold"] = _one_threshold(float(found.pop("topk_threshold")), len(found["b_enc"]), source)
    factor = found.pop("scaling_factor", None)
    names = _GATED if name == "gated" else {}
    tied = name == MatchingPursuitSae.saelens_name
    wanted = {n: names.get(n, n) for n in (_TIED if tied else MODULES[name].weight_names())}
    weights = take(found, wanted, f"{source.folder / WEIGHTS}")
    if tied:
        weights |= {"W_enc": weights["W_dec"].T.contiguous(), "b_enc": torch.zeros(len(weights["W_dec"]))}
        if not data.get("apply_b_dec_to_input", True):
            weights["b_dec"] = torch.zeros_like(weights["b_dec"])  # SAELens adds it only where it was subtracted
    if factor is not None and bool((factor != 1).any()):
        # The codes times a fine-tuned factor are only read by the decoder: it goes there, and codes keep their gate.
        if not data.get("finetuning_scaling_factor"):
            raise UserError(
                f"{source.name} holds a scaling_factor other than one that its config does not mention.",
                hint="Set finetuning_scaling_factor in cfg.json to say whether it applies.",
            )
        weights["W_dec"] = weights["W_dec"] * factor[:, None]
    return weights, name in ("topk", "jumprelu") and bool(data.get("rescale_acts_by_decoder_norm"))


def _one_threshold(value: float, d_sae: int, source: Source) -> Tensor:
    """The threshold that a BatchTopK training follows, for every latent; zero says that it has not followed one yet."""
    value = source.declared.threshold if source.declared.threshold is not None else value
    if value <= 0:
        raise UserError(
            f"{source.name} was saved before its threshold was followed.", hint="Give one: threshold=... (--threshold)."
        )
    return torch.full((d_sae,), value)


def _scale(source: Source) -> float:
    """What activations were multiplied by in a training that has not folded it yet."""
    found = source.json(SCALER).get("scaling_factor") if source.has(SCALER) else None
    scale = source.declared.input_scale or found
    if not isinstance(scale, int | float) or scale <= 0:
        raise UserError(
            f"{source.name} was trained on activations scaled to a mean norm of sqrt(d_in), and the scale is not "
            "in its files.",
            hint="Give it: input_scale=sqrt(d_in) / mean norm of the activations (--input-scale).",
        )
    return float(scale)


def _raw(weights: dict[str, Tensor], data: dict[str, Any], source: Source) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and search settings in raw units: scale and whitening, which SAELens folds when it finishes, folded."""
    settings = {n: data[n] for n in SETTINGS if n in data}
    kind = data.get("normalize_activations")
    if kind == "expected_average_only_in":
        scale = _scale(source)
        if isinstance(settings.get("residual_threshold"), int | float):
            settings["residual_threshold"] /= scale
        return scaled_in(weights, scale), settings
    if kind == "covariance_whitening":
        if not source.has(WHITENING):
            raise UserError(f"{source.name} was trained on whitened activations, and {WHITENING} is not beside it.")
        names = {n: n for n in ("mean", "matrix", "inverse_matrix")}
        maps = take(source.safetensors(WHITENING), names, f"{source.folder / WHITENING}")
        return whitened_in(weights, **maps, subtract=data.get("apply_b_dec_to_input", True)), settings
    return weights, settings


def _run_time(data: dict[str, Any], source: Source) -> str | None:
    """How tokens are normalised at run time, or None.

    TransformerLens centres the writing weights of a model with LayerNorm if told to, and the SAE then never saw a
    token's mean. No model here is changed so.
    """
    kind = data.get("normalize_activations")
    metadata = data.get("metadata") or {}
    if kind in (None, "none", "expected_average_only_in", "covariance_whitening"):
        ours, kwargs = metadata.get("saelab"), metadata.get(_KWARGS)
        asked = isinstance(ours, dict) and ours.get("normalise") == "centred"
        told = isinstance(kwargs, dict) and kwargs.get("center_writing_weights") is True
        return "centred" if asked or (told and _LAYER_NORM.search(str(metadata.get("model_name")))) else None
    if kind not in CARRIED:
        raise UserError(
            f"{source.name} normalises activations in a way that saelab does not know ({kind}).",
            hint=f"Known are {', '.join(CARRIED)}, expected_average_only_in and covariance_whitening.",
        )
    return str(kind)


FORMAT = Format("saelens", f"{CONFIG} with {WEIGHTS}", _recognises, _read, _write)
