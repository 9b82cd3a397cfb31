"""Small models with random weights, and small copies of a config: the same family, layer types and switches.

For the proof of what a short batch cannot show on the real model (a window of thousands), and for tests of every
family. Sizes are made small by the names that transformers' configs share; whether the result can be built is seen by
building it. Must never be used for numbers that anybody reads.
"""

import copy
from typing import Any

import torch
from torch import nn

from saelab.lm.loading import settle

# Names of sizes in transformers' configs, and what they become. Names that a config lacks are passed over.
SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "vocab_size_per_layer_input": 96,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "word_embed_proj_dim": 32,
    "embedding_size": 32,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "d_ff": 48,
    "n_inner": 48,
    "ffn_hidden_size": 48,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24,
    "expert_ffn_hidden_size": 24,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "encoder_ffn_dim": 48,
    "head_dim": 8,
    "rotary_dim": 4,
    "n_positions": 64,
    "attention_hidden_size": 32,
    "global_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "top_k_experts": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 8,
    "state_size": 8,
    "n_groups": 1,
    "mamba_n_groups": 1,
    "n_mamba_heads": 4,
    "mamba_ngroups": 1,
    "mamba_headdim": 16,
    "mamba_d_ssm": 64,
    "lru_width": 32,
    "attention_window_size": 8,
    "kv_channels": 8,
    "block_auto_adjust_ff_dim": False,
    "attention_head_size": 8,
    "laurel_rank": 8,
    "altup_num_inputs": 2,
}
WINDOWS = ("sliding_window", "window_size", "attention_chunk_size")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers")
WINDOW = 6


def small_config(config: Any, n_layers: int = 4) -> Any:
    """A copy of the config with sizes of tens, windows of 6 where there are windows, and the first layers' types."""
    small = copy.deepcopy(config)
    text = small.get_text_config(decoder=True)
    for part in {id(c): c for c in (small, text)}.values():
        _shrink(part, n_layers)
    for name in getattr(small, "sub_configs", {}):  # the parts that read images or sound
        other = getattr(small, name, None)
        if other is not None and other is not text and hasattr(other, "to_dict"):
            _shrink(other, 1)
    return small


def lively_model(config: Any, seed: int = 0) -> Any:
    """A causal model of any config with lively random weights; same arguments, same model."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):  # transformers draws first weights from the global state
        model = AutoModelForCausalLM.from_config(config)
    _draw(model, torch.Generator().manual_seed(seed))
    return settle(model)


def _shrink(config: Any, n_layers: int) -> None:
    mapped = _of(config, "attribute_map") or {}
    old = _of(config, "num_hidden_layers")
    n_layers = min(n_layers, old or n_layers)
    own = set(config.to_dict()) | set(mapped)
    grouped = _of(config, "num_key_value_heads") != _of(config, "num_attention_heads")
    if _of(config, "num_key_value_heads"):
        config.num_key_value_heads = 2 if grouped else 4
    for name, size in SIZES.items():
        if name in own and _is_size(_of(config, name), size):
            setattr(config, name, size)
    for name in LAYERS:
        if name in own and isinstance(_of(config, name), int):
            setattr(config, name, n_layers)
    for name in WINDOWS:
        if name in own and isinstance(_of(config, name), int):
            setattr(config, name, WINDOW)
    for name in own:
        value = _of(config, name)
        if isinstance(value, list) and old is not None and len(value) == old and old > n_layers:
            setattr(config, name, _first_kinds(value, n_layers))
        elif name.endswith("token_id") and isinstance(value, int):
            setattr(config, name, min(value, 3))


def _of(config: Any, name: str) -> Any:
    """A setting, None where the config has none or one per layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # transformers' own error for settings per layer has no public name
        return None


def _is_size(value: Any, size: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (isinstance(size, bool) or value > 0)


def _first_kinds(values: list[Any], n: int) -> list[Any]:
    """The first n values; a kind that first comes later takes the last place."""
    kept = values[:n]
    for value in values[n:]:
        if value not in kept:
            return [*kept[:-1], value]
    return kept


def _draw(model: nn.Module, generator: torch.Generator) -> None:
    """Matrices from N(0, 1/fan_in), the head twice that, embeddings and biases small; norms keep their scale."""
    for name, weight in sorted(model.named_parameters()):
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            weight.data += 0.1 * noise
        elif "embed" in name or "wte" in name or "wpe" in name:
            weight.data = 0.3 * noise
        else:
            weight.data = noise * (2.0 if "head" in name else 1.0) / weight.shape[1] ** 0.5
