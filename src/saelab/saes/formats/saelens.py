"""The native folder: SAELens v6 (`cfg.json`, `sae_weights.safetensors`), with metadata keys that SAELens ignores.

Tensors: W_enc [D, F], W_dec [F, D], b_dec [D], b_enc [F] (gated: b_gate, b_mag, r_mag instead; jumprelu: and threshold
[F], strict `>`; matching pursuit: W_dec and b_dec only). A BatchTopK or Matryoshka SAE is written as jumprelu. Anything
written here opens in SAELens with the same codes (up to the token's spread where tokens are normalised). Folders of
every version since 0.1 are read (saelens_config.py reads their configs); those of an unfinished training as what they
would finish as, and AbsTopK's signed codes as twice as many non-negative ones. Codes that depend on earlier tokens
(temporal) are refused.
"""

import math
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
    check_widths,
    decoder_norms_folded,
    exponential,
    scaled_in,
    signs_split,
    whitened_in,
)
from saelab.saes.formats.saelens_config import Ours, SAELensConfig, read_config
from saelab.saes.formats.saelens_transcoder import write_transcoder
from saelab.saes.formats.source import Format, Source, take
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

REFUSED = {"temporal": "its codes depend on the tokens before, and everything here encodes token by token"}
# Folders of an unfinished training: the threshold of all latents is a number, and is a vector once it is finished.
ENCODES_AS = {"batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu", "abstopk": "topk"}
TRANSCODERS = {
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
    "topk_transcoder": "topk",  # saelab's own
    "topk_skip_transcoder": "topk",
}
FACTORS = ("scaling_factor", "finetuning_scaling_factor")  # before 3, and from 3 to 5
SCALER = "activation_scaler.json"  # the training scale, beside the weights of an unfinished training
STATE, STATE_SCALE = "activations_store_state.safetensors", "estimated_norm_scaling_factor"  # the same before 6
WHITENING = "activation_whitening.safetensors"  # and its whitening


def _recognises(source: Source) -> bool:
    return source.has(CONFIG, WEIGHTS)


def write_own(sae: Sae | Transcoder, folder: Path) -> None:
    """As a run keeps its own: SAELens' layout, and TopK transcoders in it too, which SAELens has none of."""
    if isinstance(sae, Transcoder):
        return write_transcoder(sae, folder, LAYOUT_VERSION, own=True)
    return _write(sae, folder)


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
    config = read_config(source.json(CONFIG), f"{source.folder / CONFIG}")
    name = config.architecture
    if name in REFUSED:
        raise UserError(f"{source.name} holds an SAE of architecture {name!r}: {REFUSED[name]}.")
    if name in TRANSCODERS:
        return _transcoder(config, source)
    encodes_as = ENCODES_AS.get(name, name)
    if encodes_as not in MODULES:
        known = [*MODULES, *ENCODES_AS, *TRANSCODERS]
        raise UserError(f"{source.name} holds an SAE of architecture {name!r}.", hint=nearest(name, known))
    weights = _weights(source, encodes_as, config)
    check_widths(source.name, weights, d_in=config.d_in, d_sae=config.d_sae)
    if config.rescale_acts_by_decoder_norm and encodes_as in ("topk", "jumprelu"):
        weights = decoder_norms_folded(weights)
    weights, settings = _raw(weights, config, source)
    if name == "abstopk":
        weights = signs_split(weights)
    cfg = _sae_config(config, source, d_sae=weights["W_enc"].shape[1], settings=settings)
    kind = _run_time(config, source)
    sae = MODULES[encodes_as](cfg, weights)
    return normalised(sae, kind) if kind else sae


def _transcoder(config: SAELensConfig, source: Source) -> Transcoder:
    """W_dec [F, D_out], W_skip [D_out, D_in]; nothing is subtracted from the input."""
    name, about = config.architecture, config.metadata
    if config.normalize_activations not in ("none", None):
        raise UserError(f"{source.name} normalises what it reads, which a transcoder's weights cannot express.")
    names = ["W_enc", "b_enc", "W_dec", "b_dec"]
    names += ["threshold"] * name.startswith("jumprelu") + ["W_skip"] * ("skip" in name)
    weights = take(source.safetensors(WEIGHTS), {n: n for n in names}, f"{source.folder / WEIGHTS}")
    check_widths(source.name, weights, transcodes=True, d_in=config.d_in, d_sae=config.d_sae, d_out=config.d_out)
    return transcoder(
        weights,
        act_fn=TRANSCODERS[name],
        k=None if config.k is None else int(config.k),
        site=source.declared.site or house_name(about.hook_name),
        site_out=house_name(about.hook_name_out),
        lm=source.declared.lm or about.model_name,
        metadata=about.model_dump(exclude_unset=True),
    )


def _sae_config(config: SAELensConfig, source: Source, *, d_sae: int, settings: dict[str, Any]) -> SaeConfig:
    name, about, declared = config.architecture, config.metadata, source.declared
    ours = about.saelab or Ours()
    metadata = about.model_dump(exclude_unset=True, exclude={"saelab"})
    if name == "abstopk":
        metadata["signed_latents"] = config.d_sae  # latent F + j is the negative part of latent j
    if config.reshape_activations not in ("none", None):
        metadata["reshape_activations"] = config.reshape_activations
    k = config.k or ours.k
    if k is not None and name in ("topk", "abstopk") and k != round(k):
        raise UserError(f"{source.name} is a TopK SAE whose k is {k}, which is no whole number.")
    if k is None and name in ("topk", "abstopk"):
        k = declared.k
        if k is None or k > config.d_sae:
            raise UserError(
                f"{source.name} is a TopK SAE without its k.", hint=f"Give it: k=1 to {config.d_sae} (--k)."
            )
    return SaeConfig.parse(
        {
            "architecture": ours.architecture or HOUSE_NAMES.get(name, name),
            "d_in": config.d_in,
            "d_sae": d_sae,
            "site": declared.site or ours.site or house_name(about.hook_name),
            "lm": declared.lm or ours.lm or about.model_name,
            "k": round(k) if k else None,
            "subtract_b_dec": config.apply_b_dec_to_input or name == MatchingPursuitSae.saelens_name,
            "settings": settings,
            "metadata": metadata,
        },
        origin=str(source.folder / CONFIG),
    )


def _weights(source: Source, name: str, config: SAELensConfig) -> dict[str, Tensor]:
    """Our weights by name."""
    found = source.safetensors(WEIGHTS)
    if "log_threshold" in found and "threshold" not in found:  # training files before the switch to a direct threshold
        found["threshold"] = exponential(found.pop("log_threshold"), f"{source.folder / WEIGHTS}")
    if "topk_threshold" in found:
        found["threshold"] = _one_threshold(found.pop("topk_threshold"), config.d_sae, source)
    factor = next((found.pop(n) for n in FACTORS if n in found), None)
    names = _GATED if name == "gated" else {}
    tied = name == MatchingPursuitSae.saelens_name
    wanted = {n: names.get(n, n) for n in (_TIED if tied else MODULES[name].weight_names())}
    weights = take(found, wanted, f"{source.folder / WEIGHTS}")
    if tied:
        weights |= {"W_enc": weights["W_dec"].T.contiguous(), "b_enc": torch.zeros(len(weights["W_dec"]))}
        if not config.apply_b_dec_to_input:
            weights["b_dec"] = torch.zeros_like(weights["b_dec"])  # SAELens adds it only where it was subtracted
    if factor is not None and bool((factor != 1).any()):
        # The codes times a fine-tuned factor are only read by the decoder: it goes there, and codes stay.
        if not config.finetuned:
            raise UserError(
                f"{source.name} holds a scaling_factor other than one that its config does not mention.",
                hint="Set finetuning_scaling_factor in cfg.json to say whether it applies.",
            )
        if factor.shape != weights["W_dec"].shape[:1]:
            raise ArtefactError(
                f"{source.name} has a scaling_factor of {factor.numel()} numbers for {config.d_sae} latents."
            )
        weights["W_dec"] = weights["W_dec"] * factor[:, None]
    return weights


def _one_threshold(value: Tensor, d_sae: int, source: Source) -> Tensor:
    """The threshold that a BatchTopK training follows, for every latent; zero says that it has not followed one yet."""
    if value.numel() != 1:
        raise ArtefactError(f"{source.name} holds a topk_threshold of {value.numel()} numbers; one was expected.")
    threshold = source.declared.settled("threshold", float(value) if float(value) > 0 else None)
    if not threshold:
        raise UserError(
            f"{source.name} was saved before its threshold was followed.", hint="Give one: threshold=... (--threshold)."
        )
    return torch.full((d_sae,), threshold)


def _scale(source: Source) -> float:
    """What activations were multiplied by in a training that has not folded it yet.

    From 5.3 to 5.11 a run left it in the state of its data; once that holds none, it is in the weights.
    """
    found: object = None
    if source.has(SCALER):
        found = source.json(SCALER).get("scaling_factor")
    elif source.has(STATE):
        state = source.safetensors(STATE, only=(STATE_SCALE,))
        held = state.get(STATE_SCALE, torch.ones(()))
        if held.numel() != 1:
            raise ArtefactError(f"{source.name} holds a training scale of {held.numel()} numbers; one was expected.")
        found = float(held)
    scale: object = source.declared.settled("input_scale", found)
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise UserError(
            f"{source.name} was trained on activations scaled to a mean norm of sqrt(d_in), and the scale is not "
            "in its files.",
            hint="Give it: input_scale=sqrt(d_in) / mean norm of the activations (--input-scale). At the end of a run "
            "SAELens 3 to 5 fold it into the weights and still name it in the config: --input-scale 1.",
        )
    return float(scale)


def _raw(weights: dict[str, Tensor], config: SAELensConfig, source: Source) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and search settings in raw units: scale and whitening, which SAELens folds when it finishes, folded."""
    pursues = config.architecture == MatchingPursuitSae.saelens_name
    settings = {n: getattr(config, n) for n in SETTINGS if pursues and n in config.model_fields_set}
    kind = config.normalize_activations
    if kind == "expected_average_only_in":
        scale = _scale(source)
        if settings.get("residual_threshold") is not None:
            settings["residual_threshold"] /= scale
        return scaled_in(weights, scale), settings
    if kind == "covariance_whitening":
        if not source.has(WHITENING):
            raise UserError(f"{source.name} was trained on whitened activations, and {WHITENING} is not beside it.")
        names = {n: n for n in ("mean", "matrix", "inverse_matrix")}
        maps = take(source.safetensors(WHITENING), names, f"{source.folder / WHITENING}")
        for name, tensor in maps.items():
            if tuple(tensor.shape) != (wanted := (config.d_in,) * (1 if name == "mean" else 2)):
                shape = tuple(tensor.shape)
                raise ArtefactError(f"{WHITENING} of {source.name} has {name} of shape {shape}; it should be {wanted}.")
        return whitened_in(weights, **maps, subtract=config.apply_b_dec_to_input), settings
    return weights, settings


def _run_time(config: SAELensConfig, source: Source) -> str | None:
    """How tokens are normalised at run time, or None.

    TransformerLens centres the writing weights of a model with LayerNorm if told to, and the SAE then never saw a
    token's mean. No model here is changed so.
    """
    kind, about = config.normalize_activations, config.metadata
    if kind in (None, "none", "expected_average_only_in", "covariance_whitening"):
        asked = about.saelab is not None and about.saelab.normalise == "centred"
        told = (about.model_from_pretrained_kwargs or {}).get("center_writing_weights") is True
        return "centred" if asked or (told and _LAYER_NORM.search(about.model_name or "")) else None
    if kind not in CARRIED:
        raise UserError(
            f"{source.name} normalises activations in a way that saelab does not know ({kind}).",
            hint=f"Known are {', '.join(CARRIED)}, expected_average_only_in and covariance_whitening.",
        )
    return kind


FORMAT = Format("saelens", f"{CONFIG} with {WEIGHTS}", _recognises, _read, _write)
