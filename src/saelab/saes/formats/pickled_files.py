"""Single pickled files without a config: Qwen-Scope and OpenAI's GPT-2 SAEs. Opened by `convert` only.

Qwen-Scope `layer{n}.sae.pt`: W_enc [F, D], W_dec [D, F] (both transposed against ours), TopK, b_dec not subtracted; k
stands in the repository's name (`...-L0_50`). OpenAI (Gao et al. 2024) `autoencoders/{layer}.pt`: pre_bias is
subtracted, ReLU or TopK; the TopK releases are those that normalise every token (saes/normalised.py).
"""

import re
from typing import Any

from torch import Tensor

from saelab.core.errors import UserError
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae
from saelab.saes.formats.conventions import config_for, oriented
from saelab.saes.formats.source import Format, Source, integer_after, take
from saelab.saes.normalised import normalised

_QWEN = re.compile(r"layer(\d+)\.sae\.pt")
# mlp_post_act (the MLP's inner activations) and resid_post_attn (the stream between the halves) are no sites here
_OPENAI_SITES = {"resid_post_mlp": "resid_post", "resid_delta_mlp": "mlp_out", "resid_delta_attn": "attn_out"}
_OPENAI_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")


def _file(source: Source) -> str:
    assert source.file is not None
    return source.file


def _is_qwen(source: Source) -> bool:
    return source.file is not None and _QWEN.fullmatch(source.file) is not None


def _read_qwen(source: Source, tensors: dict[str, Tensor], values: dict[str, Any]) -> Sae:
    del values
    names = {n: n for n in ("W_enc", "W_dec", "b_enc", "b_dec")}
    weights = take(tensors, names, source.name)
    d_in, d_sae = weights["b_dec"].shape[0], weights["b_enc"].shape[0]
    if d_in == d_sae:  # the format transposes both
        weights |= {"W_enc": weights["W_enc"].T.contiguous(), "W_dec": weights["W_dec"].T.contiguous()}
    weights["W_enc"] = oriented(weights["W_enc"], d_in, d_sae, "W_enc", declared=True)
    weights["W_dec"] = oriented(weights["W_dec"], d_sae, d_in, "W_dec", declared=True)
    k = source.declared.k or integer_after(str(source.folder) + source.name, r"L0_(\d+)")
    if k is None:
        raise UserError(f"{source.name} does not say its k.", hint="It is in the repository's name: give k=... (--k).")
    layer = integer_after(_file(source), r"layer(\d+)")
    site = source.declared.site or f"resid_post.{layer}"
    metadata = {"format": "qwen_scope"}
    cfg = config_for(weights, "topk", k=k, subtract_b_dec=False, site=site, lm=source.declared.lm, metadata=metadata)
    return TopKSae(cfg, weights)


def _is_openai(source: Source) -> bool:
    return source.file is not None and source.file.endswith(".pt") and source.folder.name == "autoencoders"


def _read_openai(source: Source, tensors: dict[str, Tensor], values: dict[str, Any]) -> Sae:
    gate, after = values.get("activation", "ReLU"), values.get("activation_state_dict/postact_fn", "ReLU")
    if gate not in ("ReLU", "TopK") or after != "ReLU":
        raise UserError(f"{source.name} has the activation {gate} ({after}); ReLU, and TopK with ReLU, are read.")
    k = source.declared.k or values.get("activation_state_dict/k")
    if gate == "TopK" and not isinstance(k, int):
        raise UserError(f"{source.name} does not say its k.", hint="Give k=... (--k).")
    names = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "latent_bias", "b_dec": "pre_bias"}
    weights = take(tensors, names, source.name, optional=_OPENAI_STATISTICS)
    weights |= {"W_enc": weights["W_enc"].T.contiguous(), "W_dec": weights["W_dec"].T.contiguous()}
    layer = integer_after(_file(source), r"(\d+)\.pt")
    places = [site for name, site in _OPENAI_SITES.items() if name in f"{source.name}/{source.folder}"]
    site = source.declared.site or (f"{places[0]}.{layer}" if places else None)
    lm = source.declared.lm or "hf:openai-community/gpt2"
    about: dict[str, Any] = {"site": site, "lm": lm, "metadata": {"format": "openai"}}
    if gate == "ReLU":
        return ReluSae(config_for(weights, "relu", **about), weights)
    return normalised(TopKSae(config_for(weights, "topk", k=k, **about), weights), "layer_norm")


QWEN = Format("qwen_scope", "layer{n}.sae.pt", _is_qwen, _read_qwen, pickle=_file)
OPENAI = Format("openai", "autoencoders/{layer}.pt", _is_openai, _read_openai, pickle=_file)
