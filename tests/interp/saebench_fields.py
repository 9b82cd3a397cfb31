"""What SAEBench 0.6.0's result files must hold: names of fields and their kinds, and a checker. No text of theirs.

Kinds: n a number, n? a number or null, i an integer, s text.
"""

from typing import Any

TOP = {
    "eval_type_id": str, "eval_config": dict, "eval_id": str, "datetime_epoch_millis": int,
    "eval_result_metrics": dict, "eval_result_details": list, "sae_bench_commit_hash": str,
}  # fmt: skip
NULLABLE = ("sae_lens_id", "sae_lens_release_id", "sae_lens_version", "sae_cfg_dict")

ALL_N, ALL_K = (2, 5, 10, 20, 50, 100, 500), (1, 2, 5, 10, 20, 50, 100)
SCR = {f"scr_{p}_threshold_{n}": "n?" for n in ALL_N for p in ("dir1", "metric", "dir2")}
PARTS = ("total_metric", "intended_diff_only", "unintended_diff_only")
TPP = {f"tpp_threshold_{n}_{p}": "n?" for n in ALL_N for p in PARTS}
TOP_K = {side: {f"{side}_top_{k}_test_accuracy": "n?" for k in ALL_K} for side in ("llm", "sae")}
PROBES = {f"sae_top_{k}_test_{m}": "n?" for k in ALL_K for m in ("accuracy", "auc", "f1")}
LLM_PROBES = {f"llm_test_{m}": "n?" for m in ("accuracy", "auc", "f1")}
LATENT = (
    "feature_density", "consistent_activation_heuristic", "encoder_bias", "encoder_norm", "encoder_decoder_cosine_sim",
    "max_decoder_cosine_sim", "max_encoder_cosine_sim",
)  # fmt: skip
_SPREAD = [f"{a}_{b}" for a in ("mean", "std_dev") for b in ("absorption_fraction_score", "full_absorption_score")]

METRICS: dict[str, dict[str, dict[str, str]]] = {
    "core": {
        "model_behavior_preservation": dict.fromkeys(
            ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"), "n"
        ),
        "model_performance_preservation": dict.fromkeys(
            ("ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"), "n"
        ),
        "reconstruction_quality": dict.fromkeys(
            ("explained_variance", "explained_variance_legacy", "mse", "cossim"), "n"
        ),
        "shrinkage": dict.fromkeys(("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"), "n"),
        "sparsity": {"l0": "n", "l1": "n"},
        "token_stats": dict.fromkeys(
            ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"), "i"
        ),
        "misc_metrics": dict.fromkeys(
            (
                "freq_over_1_percent", "freq_over_10_percent", "normalized_freq_over_1_percent",
                "normalized_freq_over_10_percent", "average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim",
                "frac_alive",
            ), "n",
        ),
    },
    "sparse_probing": {
        "llm": {"llm_test_accuracy": "n"} | TOP_K["llm"],
        "sae": {"sae_test_accuracy": "n?"} | TOP_K["sae"],
    },
    "sparse_probing_sae_probes": {"llm": LLM_PROBES, "sae": {"sae_test_accuracy": "n?"} | PROBES},
    "scr": {"scr_metrics": SCR},
    "tpp": {"tpp_metrics": TPP},
    "absorption_first_letter": {
        "mean": dict.fromkeys([*_SPREAD, "mean_num_split_features", "std_dev_num_split_features"], "n")
    },
    "autointerp": {"autointerp": {"autointerp_score": "n", "autointerp_std_dev": "n"}},
    "ravel": {"ravel": dict.fromkeys(("disentanglement_score", "cause_score", "isolation_score"), "n")},
    "meta_structure_decoder_variance": {
        "meta_structure": dict.fromkeys(
            ("decoder_fraction_variance_explained", "train_time_seconds", "final_reconstruction_mse"), "n"
        )
    },
}  # fmt: skip

DETAILS: dict[str, dict[str, str]] = {
    "core": {"index": "i"} | dict.fromkeys(LATENT, "n"),
    "scr": {"dataset_name": "s"} | SCR,
    "tpp": {"dataset_name": "s"} | TPP,
    "sparse_probing": {"dataset_name": "s", "llm_test_accuracy": "n", "sae_test_accuracy": "n?"}
    | TOP_K["llm"]
    | TOP_K["sae"],
    "sparse_probing_sae_probes": {"dataset_name": "s"} | LLM_PROBES | PROBES,
    "absorption_first_letter": {
        "first_letter": "s", "mean_absorption_fraction": "n", "full_absorption_rate": "n", "num_full_absorption": "i",
        "num_probe_true_positives": "i", "num_split_features": "i",
    },
}  # fmt: skip


def problems(file: dict[str, Any]) -> list[str]:
    """What upstream's schema would refuse."""
    found = [f"{k} is not {t.__name__}" for k, t in TOP.items() if not isinstance(file.get(k), t)]
    found += [f"{k} is absent" for k in NULLABLE if k not in file]
    kind = file.get("eval_type_id", "")
    for category, fields in METRICS[kind].items():
        found += _wrong(file.get("eval_result_metrics", {}).get(category, {}), fields, category)
    for row in file.get("eval_result_details", []):
        found += _wrong(row, DETAILS.get(kind, {}), "details")
    cfg = file.get("sae_cfg_dict") or {}
    found += [f"sae_cfg_dict has no {k}" for k in ("architecture", "d_sae") if k not in cfg]
    return found


def _wrong(row: dict[str, Any], fields: dict[str, str], where: str) -> list[str]:
    return [f"{where}.{name} is {row.get(name)!r}" for name, kind in fields.items() if not _fits(row.get(name), kind)]


def _fits(value: Any, kind: str) -> bool:
    if kind == "s":
        return isinstance(value, str)
    if value is None:
        return kind == "n?"
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole if kind == "i" else whole or (isinstance(value, float) and value == value)
