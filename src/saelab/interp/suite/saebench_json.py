"""Results in SAEBench's own file layout (0.6.0), so that its schemas accept them and its graphs read them.

    <folder of the kind>/<name>_custom_sae_eval_results.json

One object: what was evaluated, its settings, `eval_result_metrics` by category, details. A file is a function of the
result alone: `eval_id` is made from the content and `datetime_epoch_millis` is 0, so two equal runs give equal bytes
(when work was done stands in the run's ledger). The format demands numbers where a measure may not exist; there it
takes -1, as upstream writes it (`FILLED`). A result that lacks any other demanded number is not written at all, as
upstream: the table of results says why. Upstream's graphing tells kinds by the folder's name, which must stay.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saelab.core.config import digest_of
from saelab.core.sites import hook_name
from saelab.interp.suite.result import Evaluation
from saelab.saes.base import Sae
from saelab.store.files import write_json

# Kind -> folder, as upstream recommends. Kinds that only saelab has stand under their own names.
FOLDERS: Mapping[str, str] = {
    "core": "core",
    "sparse_probing": "sparse_probing",
    "sparse_probing_sae_probes": "sparse_probing_sae_probes",
    "scr": "scr",
    "tpp": "tpp",
    "absorption_first_letter": "absorption",
    "autointerp": "autointerp",
    "ravel": "ravel",
    "meta_structure_decoder_variance": "meta_structure",
}

# Categories whose every metric must be a number for upstream's schema (the others may be null).
DEMANDED: Mapping[str, tuple[str, ...]] = {
    "core": (
        "model_behavior_preservation",
        "model_performance_preservation",
        "reconstruction_quality",
        "shrinkage",
        "sparsity",
        "token_stats",
        "misc_metrics",
    ),
    "absorption_first_letter": ("mean",),
    "autointerp": ("autointerp",),
    "ravel": ("ravel",),
    "meta_structure_decoder_variance": ("meta_structure",),
}
# Where upstream itself writes -1 for a number that does not exist.
FILLED: Mapping[str, tuple[str, ...]] = {
    "core": ("*",),
    "meta_structure_decoder_variance": ("train_time_seconds",),
}
SUFFIX = "_custom_sae_eval_results.json"


def write_saebench(result: Evaluation, sae: Sae, name: str, root: Path, *, version: str) -> Path | None:
    """Write one result below `root`; None where upstream's schema could not hold it (see `lacking`).

    name: the same in every folder, because upstream joins kinds by it. version: of the program that measured.
    """
    if result.kind not in FOLDERS or lacking(result):
        return None
    path = root / FOLDERS[result.kind] / f"{name.replace('/', '_')}{SUFFIX}"
    write_json(path, record(result, sae, name, version=version))
    return path


def lacking(result: Evaluation) -> list[str]:
    """The demanded metrics that have no value."""
    filled = FILLED.get(result.kind, ())
    return [
        metric
        for category in DEMANDED.get(result.kind, ())
        for metric, value in result.metrics.get(category, {}).items()
        if value is None and not {"*", metric} & set(filled)
    ]


def record(result: Evaluation, sae: Sae, name: str, *, version: str) -> dict[str, Any]:
    """The whole file as plain data, keys in upstream's order."""
    fill = -1.0 if FILLED.get(result.kind) else None
    body: dict[str, Any] = {
        "eval_type_id": result.kind,
        "eval_config": {"model_name": sae.cfg.lm, **result.config},
        "eval_result_metrics": {c: _filled(row, fill) for c, row in result.metrics.items()},
        "eval_result_details": [_filled(row, fill) for row in result.details],
        "sae_bench_commit_hash": f"saelab {version}",
        "sae_lens_id": "custom_sae",
        "sae_lens_release_id": name,
        "sae_lens_version": None,
        "sae_cfg_dict": sae_record(sae),
        "eval_result_unstructured": result.unstructured,
        **result.extra,
    }
    named = {"eval_id": str(uuid.UUID(digest_of(body)[:32], version=4)), "datetime_epoch_millis": 0}
    head = ("eval_type_id", "eval_config")
    return {k: body[k] for k in head} | named | {k: v for k, v in body.items() if k not in head}


def sae_record(sae: Sae) -> dict[str, Any]:
    """The SAE's settings under the names that upstream reads."""
    cfg = sae.cfg
    tokens = cfg.metadata.get("tokens_trained", cfg.metadata.get("training_tokens"))
    return {
        "architecture": {"batchtopk": "batch_topk", "relu": "standard", "matryoshka": "matryoshka_batch_topk"}.get(
            cfg.architecture, cfg.architecture
        ),
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "model_name": cfg.lm,
        "hook_name": hook_name(cfg.site) or cfg.site,
        "hook_layer": _layer(cfg.site),
        "hook_head_index": None,
        "context_size": cfg.metadata.get("context_size"),
        "prepend_bos": True,
        "normalize_activations": "none",
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": cfg.subtract_b_dec,
    } | ({"training_tokens": tokens} if isinstance(tokens, int) else {})  # upstream's graphs want a number or no key


def _layer(site: str | None) -> int | None:
    end = (site or "").rpartition(".")[2]
    return int(end) if end.isdecimal() else None


def _filled(row: Mapping[str, Any], fill: float | None) -> dict[str, Any]:
    return {k: fill if v is None else v for k, v in row.items()}
