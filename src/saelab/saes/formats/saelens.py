"""The native folder: SAELens v6 (`cfg.json`, `sae_weights.safetensors`), with metadata keys that SAELens ignores.

Tensors: W_enc [D, F], W_dec [F, D], b_dec [D], b_enc [F] (gated: b_gate, b_mag, r_mag instead; jumprelu: and threshold
[F], strict `>`). Architectures standard, gated, topk, jumprelu; a BatchTopK or Matryoshka SAE is written as jumprelu.
Anything written here opens in SAELens with the same codes. Folders of SAELens 5 and earlier have a flat config with
older names; saelens_v5.py renames them and this file does the rest. What would need more than a matrix product and a
gate per token (run-time normalisation, signed or sequence-dependent codes) is refused with its reason.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from saelab.core.errors import ArtefactError, UserError, nearest
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.catalogue import MODULES
from saelab.saes.formats.conventions import decoder_norms_folded, hook_name, scaled_in, site_of
from saelab.saes.formats.saelens_v5 import is_old, renamed
from saelab.saes.formats.source import Format, Source, known_keys, take
from saelab.store.files import write_json
from saelab.store.tensors import write_tensors

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
LAYOUT_VERSION = "6.0.0"  # the SAELens version whose layout this is

HOUSE_NAMES = {"standard": "relu"}  # SAELens' name -> ours, where they differ
# Tensor names that differ in a gated SAE: ours -> SAELens'.
_GATED = {"b_enc": "b_gate"}

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
    ]
)

REFUSED = {
    "abstopk": "its codes may be negative, and everything here reads codes as non-negative",
    "temporal": "its codes depend on the tokens before, and everything here encodes token by token",
    "matching_pursuit": "its codes come from a search, not from an encoder",
    "transcoder": "it maps one site to another; saelab reads SAEs",
    "skip_transcoder": "it maps one site to another; saelab reads SAEs",
    "jumprelu_transcoder": "it maps one site to another; saelab reads SAEs",
    "jumprelu_skip_transcoder": "it maps one site to another; saelab reads SAEs",
}


def _recognises(source: Source) -> bool:
    return source.has(CONFIG, WEIGHTS)


def _write(sae: Sae, folder: Path) -> None:
    """The weights first, so that a folder with a config is whole."""
    names = _GATED if sae.saelens_name == "gated" else {}
    write_tensors(folder / WEIGHTS, {names.get(n, n): t for n, t in sae.weights().items()})
    cfg = sae.cfg
    data: dict[str, Any] = {
        "architecture": sae.saelens_name,
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": cfg.subtract_b_dec,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if sae.saelens_name == "topk":
        data |= {"k": cfg.k, "rescale_acts_by_decoder_norm": False}
    metadata = dict(cfg.metadata) | {
        "sae_lens_version": LAYOUT_VERSION,
        "training_architecture": cfg.architecture,
        "model_name": cfg.lm,
        "hook_name": hook_name(cfg.site),
    }
    saelab = {
        "unit": "raw",
        "site": cfg.site,
        "lm": cfg.lm,
        "k": cfg.k,
        "threshold_comparison": ">",
        "architecture": cfg.architecture,
    }
    write_json(folder / CONFIG, data | {"metadata": metadata | {"saelab": saelab}})


def _read(source: Source) -> Sae:
    data = source.json(CONFIG)
    where = f"{source.folder / CONFIG}"
    data = renamed(data, where) if is_old(data) else data
    if not {"architecture", "d_in", "d_sae"} <= data.keys():
        raise ArtefactError(f"{where} is not a SAELens config: it lacks architecture, d_in or d_sae.")
    known_keys(data, KNOWN, where)
    name = str(data["architecture"])
    if name in REFUSED:
        raise UserError(f"{source.name} holds an SAE of architecture {name!r}: {REFUSED[name]}.")
    if name not in MODULES:
        raise UserError(f"{source.name} holds an SAE of architecture {name!r}.", hint=nearest(name, MODULES))
    weights, rescaled = _weights(source, name, data)
    weights = _without_normalisation(weights, data, source)
    if rescaled:
        weights = decoder_norms_folded(weights)
    return MODULES[name](_config(data, name, source), weights)


def _config(data: dict[str, Any], name: str, source: Source) -> SaeConfig:
    metadata = dict(data.get("metadata") or {})
    ours = metadata.pop("saelab", {})
    if data.get("reshape_activations", "none") not in ("none", None):
        metadata["reshape_activations"] = data["reshape_activations"]
    declared = source.declared
    return SaeConfig.parse(
        {
            "architecture": str(ours.get("architecture") or HOUSE_NAMES.get(name, name)),
            "d_in": data["d_in"],
            "d_sae": data["d_sae"],
            "site": declared.site or ours.get("site") or site_of(metadata.get("hook_name")),
            "lm": declared.lm or ours.get("lm") or metadata.get("model_name"),
            "k": data.get("k") or ours.get("k"),
            "subtract_b_dec": data.get("apply_b_dec_to_input", True),
            "metadata": metadata,
        },
        origin=str(source.folder / CONFIG),
    )


def _weights(source: Source, name: str, data: dict[str, Any]) -> tuple[dict[str, Tensor], bool]:
    """Our weights by name, and whether latents are compared by decoder norm."""
    found = source.safetensors(WEIGHTS)
    if "log_threshold" in found and "threshold" not in found:  # training files before the switch to a direct threshold
        found["threshold"] = found.pop("log_threshold").exp()
    factor = found.pop("scaling_factor", None)
    names = _GATED if name == "gated" else {}
    wanted = {n: names.get(n, n) for n in MODULES[name].weight_names()}
    weights = take(found, wanted, f"{source.folder / WEIGHTS}")
    if factor is not None and bool((factor != 1).any()):
        # The codes times a fine-tuned factor are only read by the decoder: it goes there, and codes keep their gate.
        if not data.get("finetuning_scaling_factor"):
            raise UserError(
                f"{source.name} holds a scaling_factor other than one that its config does not mention.",
                hint="Set finetuning_scaling_factor in cfg.json to say whether it applies.",
            )
        weights["W_dec"] = weights["W_dec"] * factor[:, None]
    return weights, name == "topk" and bool(data.get("rescale_acts_by_decoder_norm"))


def _without_normalisation(weights: dict[str, Tensor], data: dict[str, Any], source: Source) -> dict[str, Tensor]:
    """Weights in raw units. SAELens folds a scalar when it finishes training; files of before that need the scale."""
    kind = data.get("normalize_activations", "none")
    if kind in ("none", None):
        return weights
    if kind == "expected_average_only_in":
        if source.declared.input_scale is None:
            raise UserError(
                f"{source.name} was trained on activations scaled to a mean norm of sqrt(d_in), and the scale is not "
                "in its files.",
                hint="Give it: input_scale=sqrt(d_in) / mean norm of the activations (--input-scale).",
            )
        return scaled_in(weights, source.declared.input_scale)
    raise UserError(
        f"{source.name} normalises every token at run time ({kind}), which no weights can express.",
        hint="Choose an SAE without run-time normalisation; layer_norm and constant_norm_rescale cannot be folded.",
    )


FORMAT = Format("saelens", f"{CONFIG} with {WEIGHTS}", _recognises, _read, _write)
