"""Single pickled files without a config: Qwen-Scope and OpenAI's GPT-2 SAEs. Opened by `convert` only.

Qwen-Scope `layer{n}.sae.pt`: W_enc [F, D], W_dec [D, F] (both transposed against ours), TopK, b_dec not subtracted; k
stands in a config.json beside it or in the repository's name (`SAE-Res-MODEL-W32K-L0_50`). OpenAI (Gao et al. 2024)
`{location}/autoencoders/{layer}.pt`: pre_bias is subtracted, ReLU or TopK; the TopK releases are those that normalise
every token (saes/normalised.py).
"""

import re
from typing import Any

from torch import Tensor

from saelab.core.errors import UserError
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae
from saelab.saes.formats.conventions import config_for, oriented, transposed
from saelab.saes.formats.foreign import Count, Foreign
from saelab.saes.formats.places import folder_names, placed
from saelab.saes.formats.source import Format, Source, take
from saelab.saes.normalised import normalised

_QWEN = re.compile(r"layer(\d+)\.sae\.pt")
_QWEN_REPOSITORY = re.compile(r"SAE-Res-(?P<lm>.+)-W\d+K-L0_(?P<k>\d+)")
_QWEN_CONFIG = "config.json"
_OPENAI = re.compile(r"(\d+)\.pt")
# mlp_post_act (the MLP's inner activations) and resid_post_attn (the stream between the halves) are no sites here
_OPENAI_SITES = {"resid_post_mlp": "resid_post", "resid_delta_mlp": "mlp_out", "resid_delta_attn": "attn_out"}
_OPENAI_LOCATION = re.compile(r"(resid_post_mlp|resid_delta_mlp|resid_delta_attn)(?:_v\d+(?:_\d+k)?)?")
_OPENAI_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


class _QwenConfig(Foreign):
    """What is used of a config.json beside the layers."""

    k: Count | None = None


def _file(source: Source) -> str:
    assert source.file is not None
    return source.file


def _is_qwen(source: Source) -> bool:
    return source.file is not None and _QWEN.fullmatch(source.file) is not None


def _read_qwen(source: Source, tensors: dict[str, Tensor], values: dict[str, Any]) -> Sae:
    del values
    names = {n: n for n in ("W_enc", "W_dec", "b_enc", "b_dec")}
    weights = take(tensors, names, source.name)
    d_in, d_sae = weights["b_dec"].numel(), weights["b_enc"].numel()
    if d_in == d_sae:  # the format transposes both
        weights = transposed(weights, source.name, "W_enc", "W_dec")
    weights["W_enc"] = oriented(weights["W_enc"], d_in, d_sae, "W_enc", declared=True)
    weights["W_dec"] = oriented(weights["W_dec"], d_sae, d_in, "W_dec", declared=True)
    place = placed(source, _QWEN_REPOSITORY)
    said = (
        _QwenConfig.parse(source.json(_QWEN_CONFIG), origin=_QWEN_CONFIG) if source.has(_QWEN_CONFIG) else _QwenConfig()
    )
    k = source.declared.settled("k", said.k or (int(place.repository["k"]) if place else None))
    if k is None:
        raise UserError(f"{source.name} does not say its k.", hint="It is in the repository's name: give k=... (--k).")
    site = source.declared.site or _QWEN.sub(r"resid_post.\1", _file(source))
    lm = source.declared.lm or (f"hf:Qwen/{place.repository['lm']}" if place else None)
    metadata = {"format": "qwen_scope"}
    cfg = config_for(weights, "topk", k=k, subtract_b_dec=False, site=site, lm=lm, metadata=metadata)
    return TopKSae(cfg, weights)


def _is_openai(source: Source) -> bool:
    named = source.file is not None and _OPENAI.fullmatch(source.file) is not None
    return named and any(own == "autoencoders" for _, own in folder_names(source))


def _read_openai(source: Source, tensors: dict[str, Tensor], values: dict[str, Any]) -> Sae:
    act_fn, after = values.get("activation", "ReLU"), values.get("activation_state_dict/postact_fn", "ReLU")
    if act_fn not in ("ReLU", "TopK") or after != "ReLU":
        raise UserError(f"{source.name} has the activation {act_fn} ({after}); ReLU, and TopK with ReLU, are read.")
    k = source.declared.settled("k", values.get("activation_state_dict/k")) if act_fn == "TopK" else None
    if act_fn == "TopK" and not isinstance(k, int):
        raise UserError(f"{source.name} does not say its k.", hint="Give k=... (--k).")
    names = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "latent_bias", "b_dec": "pre_bias"}
    weights = take(tensors, names, source.name, optional=_OPENAI_STATISTICS)
    weights = transposed(weights, source.name, "W_enc", "W_dec")
    released = [found for parent, _ in folder_names(source) if (found := _OPENAI_LOCATION.fullmatch(parent))]
    site, lm = source.declared.site, source.declared.lm
    if released:
        site = site or _OPENAI.sub(rf"{_OPENAI_SITES[released[0][1]]}.\1", _file(source))
        lm = lm or "hf:openai-community/gpt2"
    about: dict[str, Any] = {"site": site, "lm": lm, "metadata": {"format": "openai"}}
    if act_fn == "ReLU":
        return ReluSae(config_for(weights, "relu", **about), weights)
    return normalised(TopKSae(config_for(weights, "topk", k=k, **about), weights), "layer_norm")


QWEN = Format("qwen_scope", "layer{n}.sae.pt", _is_qwen, _read_qwen, pickle=_file)
OPENAI = Format("openai", "autoencoders/{layer}.pt", _is_openai, _read_openai, pickle=_file)
