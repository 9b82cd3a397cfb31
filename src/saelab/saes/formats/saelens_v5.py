"""SAELens 5 and earlier: the same two files, a flat config with older names, turned into a v6 config.

The old config was the whole training config, so the many keys that describe training are known here and put aside; a
key that is neither is refused, because it could change what the SAE computes.
"""

from typing import Any

from saelab.core.errors import UserError
from saelab.saes.formats.source import known_keys

_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_layer": "hook_layer",
    "hook_point_head_index": "hook_head_index",
    "activation_fn": "activation_fn_str",
    "activation_fn_kwargs": "activation_fn_kwargs",
}
_METADATA = frozenset(
    [
        "model_name",
        "hook_name",
        "hook_layer",
        "hook_head_index",
        "context_size",
        "prepend_bos",
        "dataset_path",
        "dataset_trust_remote_code",
        "model_from_pretrained_kwargs",
        "seqpos_slice",
        "neuronpedia_id",
        "sae_lens_training_version",
        "model_class_name",
        "training_tokens",
    ]
)
_KEPT = frozenset(
    [
        "architecture",
        "d_in",
        "d_sae",
        "dtype",
        "device",
        "apply_b_dec_to_input",
        "normalize_activations",
        "k",
        "finetuning_scaling_factor",
    ]
)
_USED = frozenset(["activation_fn_str", "activation_fn_kwargs", "metadata"])
_TRAINING = frozenset(
    [
        "act_store_device",
        "adam_beta1",
        "adam_beta2",
        "autocast",
        "autocast_lm",
        "b_dec_init_method",
        "cached_activations_path",
        "checkpoint_path",
        "compile_llm",
        "compile_sae",
        "dead_feature_threshold",
        "dead_feature_window",
        "decoder_heuristic_init",
        "decoder_heuristic_init_norm",
        "decoder_orthogonal_init",
        "eval_batch_size_prompts",
        "eval_every_n_wandb_logs",
        "exclude_special_tokens",
        "expansion_factor",
        "feature_sampling_window",
        "finetuning_method",
        "finetuning_tokens",
        "from_pretrained_path",
        "hook_eval",
        "init_encoder_as_decoder_transpose",
        "is_dataset_tokenized",
        "is_dataset_on_disk",
        "jumprelu_bandwidth",
        "jumprelu_init_threshold",
        "l1_coefficient",
        "l1_loss_wd_norm",
        "l1_warm_up_steps",
        "llm_compilation_mode",
        "log_activations_store_to_wandb",
        "log_optimizer_state_to_wandb",
        "log_to_wandb",
        "lp_norm",
        "lr",
        "lr_decay_steps",
        "lr_end",
        "lr_scheduler_name",
        "lr_warm_up_steps",
        "mse_loss_normalization",
        "n_batches_in_buffer",
        "n_checkpoints",
        "n_eval_batches",
        "n_restart_cycles",
        "noise_standard_deviation",
        "normalize_sae_decoder",
        "resume",
        "run_name",
        "sae_compilation_mode",
        "sae_lens_version",
        "scale_sparsity_penalty_by_decoder_norm",
        "seed",
        "store_batch_size",
        "store_batch_size_prompts",
        "streaming",
        "sub_type",
        "tokens_per_buffer",
        "train_batch_size",
        "train_batch_size_tokens",
        "use_cached_activations",
        "use_ghost_grads",
        "verbose",
        "wandb_entity",
        "wandb_id",
        "wandb_log_frequency",
        "wandb_project",
        "noise_sd",
        "sae_type",
        "model_kwargs",
        "lp_norm_p",
        "total_training_steps",
        "total_training_tokens",
        "use_dead_neuron_penalty",
    ]
)


def is_old(data: dict[str, Any]) -> bool:
    """Is this a config of before 6.0? v6 keeps everything but the function in `metadata`."""
    return not isinstance(data.get("metadata"), dict) or any(
        key in data for key in ("activation_fn_str", "activation_fn", "hook_name", "hook_point")
    )


def renamed(data: dict[str, Any], where: str) -> dict[str, Any]:
    """The config in v6 names; `architecture` was "standard" with an activation function beside it."""
    data = {_RENAMED.get(key, key): value for key, value in data.items()}
    known_keys(data, _METADATA | _KEPT | _USED | _TRAINING, where)
    new = {key: data[key] for key in _KEPT if key in data}
    new.setdefault("architecture", "standard")
    new.setdefault("apply_b_dec_to_input", True)
    new["metadata"] = dict(data.get("metadata") or {}) | {k: data[k] for k in _METADATA if data.get(k) is not None}
    new |= _gate(str(data.get("activation_fn_str", "relu")), data.get("activation_fn_kwargs") or {}, new, where)
    if isinstance(new.get("normalize_activations"), bool):
        new["normalize_activations"] = "expected_average_only_in" if new["normalize_activations"] else "none"
    if "hook_z" in str(new["metadata"].get("hook_name")):
        new["reshape_activations"] = "hook_z"
    return new


def _gate(function: str, arguments: dict[str, Any], new: dict[str, Any], where: str) -> dict[str, Any]:
    """The v6 architecture that an activation function stands for."""
    if function == "relu":
        return {}
    if function == "topk" and new["architecture"] in ("standard", "topk"):
        k = arguments.get("k", new.get("k"))
        if not isinstance(k, int):
            raise UserError(f"{where} says topk without a k.", hint="Add activation_fn_kwargs: {k: ...}.")
        return {"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": False}
    raise UserError(f"{where} has the activation function {function!r}; relu and topk are read.")
