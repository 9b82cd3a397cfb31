"""Results in SAEBench's own file layout (0.6.0), so that its schemas accept them and its graphs read them.

    <folder of the kind>/<name>_custom_sae_eval_results.json

One object: what was evaluated, its settings, `eval_result_metrics` by category, details. A file is a function of the
result alone: `eval_id` is made from the content and `datetime_epoch_millis` is 0, so two equal runs give equal bytes
(when work was done stands in the run's ledger). The format demands numbers where a measure may not exist; there it
takes -1, as upstream writes it. A result that lacks any other demanded number is not written at all, as
upstream: the table of results says why. Upstream's graphing tells kinds by the folder's name, which must stay.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saelab.core.config import digest_of
from saelab.core.sites import hook_name
from saelab.interp.suite.evaluation import SaebenchFile, evaluation_of
from saelab.interp.suite.result import Result
from saelab.saes.base import Sae
from saelab.saes.catalogue import ARCHITECTURES
from saelab.store.files import write_json

SUFFIX = "_custom_sae_eval_results.json"


def write_saebench(result: Result, sae: Sae, name: str, root: Path, *, version: str) -> Path | None:
    """Write one result below `root`; None where upstream's schema could not hold it (see `lacking`).

    name: the same in every folder, because upstream joins kinds by it. version: of the program that measured.
    """
    path = file_of(result.kind, name, root)
    if path is None:
        return None
    if lacking(result):
        path.unlink(missing_ok=True)  # what an earlier run left would pass for this one's
        return None
    write_json(path, record(result, sae, name, version=version))
    return path


def file_of(kind: str, name: str, root: Path) -> Path | None:
    """Where the file of an SAE is; None where SAEBench has no such evaluation."""
    layout = evaluation_of(kind).saebench
    return None if layout is None else root / layout.folder / f"{name.replace('/', '_')}{SUFFIX}"


def lacking(result: Result) -> list[str]:
    """The demanded metrics that have no value."""
    layout = _layout(result)
    return [
        metric
        for category in layout.demanded
        for metric, value in result.metrics.get(category, {}).items()
        if value is None and not {"*", metric} & set(layout.filled)
    ]


def record(result: Result, sae: Sae, name: str, *, version: str) -> dict[str, Any]:
    """The whole file as plain data, keys in upstream's order."""
    fill = -1.0 if _layout(result).filled else None
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


def _layout(result: Result) -> SaebenchFile:
    return evaluation_of(result.kind).saebench or SaebenchFile("")


def sae_record(sae: Sae) -> dict[str, Any]:
    """The SAE's settings under the names that upstream reads."""
    cfg = sae.cfg
    tokens = cfg.metadata.get("tokens_trained", cfg.metadata.get("training_tokens"))
    own = ARCHITECTURES.get(cfg.architecture)
    return {
        "architecture": (own and own.saebench_name) or cfg.architecture,
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
