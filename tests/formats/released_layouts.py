"""Synthetic files in the layouts that the registry's releases are in, each as of its date: random weights, no library.

`layouts(name)` lists the ways a released SAE of a short name may lie at its place, as functions that write it to a
folder. Where a release's own layout is not known to the year (SAELens), all of them are listed.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from test_formats_foreign import B_DEC, B_ENC, PLAIN, THETA, W_DEC, W_ENC, D, F, K

from saelab.saes.formats.released import released, releases

Maker = Callable[[Path], None]
Files = dict[str, dict[str, Any]]  # name of a file -> its JSON, tensors or arrays

JUMPRELU = PLAIN | {"threshold": THETA}
W_SKIP = 0.1 * torch.ones(D, D)
LINEAR = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T}


def write(files: Files, folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".json"):
            path.write_text(json.dumps(data))
        elif name.endswith(".npz"):
            np.savez(path, **{key: t.numpy() for key, t in data.items()})
        elif name.endswith(".pt"):
            torch.save({key: t.clone() for key, t in data.items()}, path)
        else:
            save_file({key: t.contiguous() for key, t in data.items()}, path)


def layouts(name: str) -> list[Maker]:
    """Every layout that the release of a short name is in."""
    release, _, inside = name.partition("/")
    kind = releases()[release].get("format") or "saelens"
    return [partial(write, files) for files in LAYOUTS[kind](name, inside)]


def saelens(name: str, inside: str) -> list[Files]:
    """Flat in older names (0 to 2), flat (3 to 5), and with metadata (6)."""
    known = released(name)
    found = re.match(r"blocks\.\d+\.(?:attn\.)?hook_\w+?(?=_\d|$)", inside)
    hook = found[0] if found else "blocks.3.hook_resid_pre"
    scaled = known.input_scale is not None
    shape = {"d_in": D, "d_sae": F, "device": "cpu", "apply_b_dec_to_input": True}
    oldest = {"model_name": "gpt2", "hook_point": hook, "hook_point_layer": 3, "dtype": "torch.float32"}
    oldest |= {"normalize_activations": scaled, "noise_scale": 0.0, "l1_coefficient": 1e-3, "use_ghost_grads": True}
    oldest |= {"feature_sampling_method": None, "resample_batches": 1028, "feature_reinit_scale": 0.2}
    oldest |= {"dead_feature_estimation_method": "no_fire", "total_training_tokens": 300_000_000}
    flat = {"architecture": "standard", "model_name": "gpt2", "hook_name": hook, "hook_layer": 3, "dtype": "float32"}
    flat |= {"activation_fn_str": "relu", "finetuning_scaling_factor": False, "sae_lens_training_version": "3.9.2"}
    flat |= {"normalize_activations": "expected_average_only_in" if scaled else "none"}
    six = {"architecture": "standard", "dtype": "float32", "reshape_activations": "none"}
    six |= {"normalize_activations": flat["normalize_activations"]}
    six |= {"metadata": {"model_name": "gpt2", "hook_name": hook, "sae_lens_version": "6.12.3"}}
    return [
        {"cfg.json": shape | oldest, "sae_weights.safetensors": PLAIN | {"scaling_factor": torch.ones(F)}},
        {"cfg.json": shape | flat, "sae_weights.safetensors": PLAIN},
        {"cfg.json": shape | six, "sae_weights.safetensors": PLAIN},
    ]


def gemma_scope(name: str, inside: str) -> list[Files]:
    del name, inside
    return [{"params.npz": JUMPRELU}]


def gemma_scope_2(name: str, inside: str) -> list[Files]:
    layer = re.search(r"layer_(\d+)", inside)
    assert layer is not None
    block = f"model.layers.{layer[1]}"
    place = released(name).reference
    tensors = {key.lower(): t for key, t in JUMPRELU.items()}
    config: dict[str, Any] = {"architecture": "jump_relu", "affine_connection": inside.endswith("_affine")}
    if "/transcoder" not in place:
        hook = f"{block}.output"
        return [{"config.json": config | {"hf_hook_point_in": hook, "hf_hook_point_out": hook}, SAFE: tensors}]
    config |= {"hf_hook_point_in": f"{block}.pre_feedforward_layernorm.output"}
    config |= {"hf_hook_point_out": f"{block}.post_feedforward_layernorm.output"}
    tensors |= {"affine_skip_connection": W_SKIP} if inside.endswith("_affine") else {}
    return [{"config.json": config, SAFE: tensors}]


def llama_scope(name: str, inside: str) -> list[Files]:
    del name
    layer, kind = re.findall(r"l(\d+)([ram])_", inside)[0]
    hook = f"blocks.{layer}.hook_" + {"r": "resid_post", "a": "attn_out", "m": "mlp_out"}[kind]
    config = {"d_model": D, "d_sae": F, "hook_point_in": hook, "hook_point_out": hook, "jump_relu_threshold": 0.4}
    config |= {"act_fn": "jumprelu", "dataset_average_activation_norm": {"in": 4.0, "out": 4.0}}
    weights = LINEAR | {"decoder.bias": B_DEC}
    return [{"hyperparams.json": config, "checkpoints/final.safetensors": weights}]


def llama_scope_2(name: str, inside: str) -> list[Files]:
    del name
    hook = f"blocks.{inside.removeprefix('l').partition('r_')[0]}.hook_resid_post"
    config = {"sae_type": "sae", "d_model": D, "hook_point_in": hook, "hook_point_out": hook, "act_fn": "jumprelu"}
    config |= {"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True}
    weights = {"W_E": W_ENC, "b_E": B_ENC, "W_D": W_DEC, "b_D": B_DEC, "log_jumprelu_threshold": THETA.log()}
    weights |= {f"dataset_average_activation_norm.{hook}": torch.tensor(4.0)}
    return [{"config.json": config, "sae_weights.safetensors": weights}]


def dictionary_learning(name: str, inside: str) -> list[Files]:
    """The class by the release's name; before 22 December 2024 without k and threshold among the tensors."""
    del inside
    place = released(name).reference
    layer = re.search(r"resid_post_layer_(\d+)", place)
    assert layer is not None
    trainer = {"activation_dim": D, "dict_size": F, "lm_name": "gpt2", "layer": int(layer[1])}
    trainer |= {"submodule_name": f"resid_post_layer_{layer[1]}"}
    tracked = {"k": torch.tensor(K), "threshold": torch.tensor(0.4)}
    if "atryoshka" in place or "atroyshka" in place:
        found = "MatroyshkaBatchTopKSAE", PLAIN | tracked | {"group_sizes": torch.tensor([8, F - 8])}
    elif "andyrdt" in place:
        found = "BatchTopKSAE", LINEAR | {"b_dec": B_DEC} | tracked
    elif "topk" in place:
        found, trainer["k"] = ("AutoEncoderTopK", LINEAR | {"b_dec": B_DEC}), K
    elif "gated" in place:
        rest = {"decoder_bias": B_DEC, "gate_bias": B_ENC, "mag_bias": B_ENC, "r_mag": torch.zeros(F)}
        found = "GatedAutoEncoder", {k: LINEAR[k] for k in ("encoder.weight", "decoder.weight")} | rest
    else:  # vanilla, standard and p-anneal
        found = "AutoEncoder", LINEAR | {"bias": B_DEC}
    config = {"trainer": trainer | {"dict_class": found[0]}, "buffer": {"ctx_len": 128}}
    return [{"config.json": config, "ae.pt": found[1]}]


def qwen_scope(name: str, inside: str) -> list[Files]:
    """Three times as many latents: k is the repository's, 50 or 100."""
    del inside
    tensors = {"W_enc": W_ENC.T.repeat(3, 1), "W_dec": W_DEC.T.repeat(1, 3), "b_enc": B_ENC.repeat(3), "b_dec": B_DEC}
    return [{released(name).reference.rpartition("/")[2]: tensors}]


SAFE = "params.safetensors"
LAYOUTS: dict[str, Callable[[str, str], list[Files]]] = {
    "saelens": saelens,
    "gemma_scope": gemma_scope,
    "gemma_scope_2": gemma_scope_2,
    "llama_scope": llama_scope,
    "llama_scope_2": llama_scope_2,
    "dictionary_learning": dictionary_learning,
    "qwen_scope": qwen_scope,
}
