"""What a config of SAELens says, of any version, typed and in the words of version 6.

Since 6 a config holds what the SAE computes, and `metadata` the rest. Before, it was flat, and a training run wrote its
whole config there under older names. Keys that some version had and that leave the function alone are put aside
(saelens_keys.json, read from SAELens' wheels by tools/saelens_keys.py); a key that no version had is refused, because
it could change the function. This file must never read weights.
"""

import json
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any

from pydantic import Field

from saelab.core.errors import UserError
from saelab.saes.formats.foreign import Count, Foreign
from saelab.saes.formats.source import known_keys

RENAMED = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
    "uses_scaling_factor": "finetuning_scaling_factor",  # written between the releases 2.1 and 3.0
}
# What older configs say outside `metadata` about the language model, the data and the training.
FACTS = (
    "model_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "hook_name",
    "hook_layer",
    "hook_head_index",
    "context_size",
    "prepend_bos",
    "seqpos_slice",
    "dataset_path",
    "dataset_trust_remote_code",
    "training_tokens",
    "neuronpedia_id",
    "sae_lens_version",
    "sae_lens_training_version",
)


class Ours(Foreign):
    """What saelab writes into the metadata of its own folders."""

    architecture: str | None = None
    site: str | None = None
    lm: str | None = None
    k: Count | None = None
    normalise: str | None = None


class Metadata(Foreign):
    """The metadata that are read; all others are kept as they are."""

    hook_name: str | None = None
    hook_name_out: str | None = None
    model_name: str | None = None
    model_from_pretrained_kwargs: dict[str, Any] | None = None
    saelab: Ours | None = None


class SAELensConfig(Foreign):
    """What the SAE computes. `finetuned`: a factor beside the weights multiplies the codes that are decoded."""

    architecture: str
    d_in: Count
    d_sae: Count
    d_out: Count | None = None
    apply_b_dec_to_input: bool = True
    normalize_activations: str | None = None
    reshape_activations: str | None = None
    k: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None  # a BatchTopK's may be 31.5 on average
    rescale_acts_by_decoder_norm: bool = False
    finetuned: bool = False
    residual_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    max_iterations: Count | None = None
    stop_on_duplicate_support: bool | None = None
    metadata: Metadata


@lru_cache(maxsize=1)
def known() -> frozenset[str]:
    """Every key that a config of some version had."""
    eras = json.loads((resources.files("saelab.saes.formats") / "saelens_keys.json").read_text())
    return frozenset(key for era in eras.values() for key in era) | set(RENAMED) | {"metadata"}


def read_config(data: dict[str, Any], where: str) -> SAELensConfig:
    """The config of a folder, whichever version wrote it.

    Raises `UserError` for a key that no version had, a value of another type, and an activation function that is not
    ReLU or TopK.
    """
    known_keys(data, known(), where)
    data = {RENAMED.get(key, key): value for key, value in data.items()}
    data["finetuned"] = bool(data.get("finetuning_scaling_factor") or data.get("finetuning_method"))
    data |= _gate(data, where)
    metadata = data.get("metadata")
    if metadata is None:
        data = {"architecture": "standard"} | data
    if metadata is None or isinstance(metadata, dict):  # what stands in `metadata` is newer than what stands beside it
        data["metadata"] = {key: data[key] for key in FACTS if data.get(key) is not None} | (metadata or {})
        if "hook_z" in str(data["metadata"].get("hook_name")):
            data.setdefault("reshape_activations", "hook_z")
    if isinstance(normalised := data.get("normalize_activations"), bool):
        data["normalize_activations"] = "expected_average_only_in" if normalised else None
    return SAELensConfig.parse({k: v for k, v in data.items() if k in SAELensConfig.model_fields}, origin=where)


def _gate(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The architecture of version 6 that an older activation function stands for."""
    function, arguments = data.get("activation_fn"), data.get("activation_fn_kwargs") or {}
    architecture = data.get("architecture") or "standard"
    if function in (None, "relu"):
        return {}
    if function == "topk" and architecture in ("standard", "topk") and isinstance(arguments, dict):
        k = arguments.get("k", data.get("k"))
        if k is None:
            raise UserError(f"{where} says topk without a k.", hint="Add activation_fn_kwargs: {k: ...}.")
        return {"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": False}
    raise UserError(
        f"{where} has the activation function {str(function)[:40]!r} in an SAE of architecture "
        f"{str(architecture)[:40]!r}; relu is read, and topk in standard and topk."
    )
