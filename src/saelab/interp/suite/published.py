"""Anybody's SAEBench result files (0.6.0) as they were published, to stand beside what is measured here.

A figure is taken from its file as it is. What it was measured with stands in the file's `eval_config`; where that
differs from the settings used here, the two figures are of two measurements, and every key that differs is said. This
file computes nothing of an SAE.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from saelab.core.errors import ArtefactError, UserError
from saelab.interp.suite.catalogue import CATALOGUE
from saelab.interp.suite.evaluation import evaluation_of
from saelab.store.files import read_json

COLUMNS: dict[str, Any] = {
    "sae": pl.String, "kind": pl.String, "metric": pl.String, "value": pl.Float64, "reason": pl.String,
    "lm": pl.String, "site": pl.String, "d_sae": pl.Int64, "differs": pl.String, "file": pl.String,
}  # fmt: skip
NONE = -1.0  # what SAEBench writes where a measure does not exist, for some evaluations
WHERE_IT_RAN = ("batch_size", "device", "path", "save", "vram", "memory", "api_key", "artifacts")  # no settings


def result_files(folder: Path) -> list[Path]:
    """The result files below a folder. Raises `UserError` where there is none."""
    found = _files_of(folder)
    if not found:
        raise UserError(
            f"{folder} holds no result of SAEBench.", hint="Name the folder that holds its *_eval_results.json files."
        )
    return found


def published(folder: Path, own: Path) -> pl.DataFrame:
    """A row per file and quoted figure (columns `COLUMNS`), as the files below `folder` give them.

    own: the folder of this run's result files, with whose settings theirs are compared. differs: the keys of
    `eval_config` that differ, "theirs (here: ours)"; empty for none, null where the evaluation was not done here.
    reason: why a value is null. Raises `ArtefactError` for a file that is no SAEBench result of a known layout.
    """
    mine = {data["eval_type_id"]: data["eval_config"] for path in _files_of(own) for data in [read_json(path)]}
    rows = [row for path in result_files(folder) for row in _rows(path, path.relative_to(folder), mine)]
    return pl.DataFrame(rows, schema=COLUMNS)


def _files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*.json") if p.is_file() and _is_result(p))


def _is_result(path: Path) -> bool:
    """By its beginning: result files are large, and other JSON files lie beside them."""
    with path.open("rb") as file:
        return b'"eval_type_id"' in file.read(1 << 16)


def _rows(path: Path, name: Path, mine: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    try:
        data = json.loads(path.read_bytes())
        kind, config, found = str(data["eval_type_id"]), dict(data["eval_config"]), data["eval_result_metrics"]
        metrics = {m: _number(value) for category in found.values() for m, value in category.items()}
        about = dict(data.get("sae_cfg_dict") or {})
        sae = _called(data, path).encode("utf-8", "replace").decode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise ArtefactError(
            f"{path} is not a result of SAEBench as its version 0.6.0 writes them.", hint="Take it out of the folder."
        ) from None
    said = {"sae": sae, "kind": kind, "lm": _text(config.get("model_name")), "site": _text(about.get("hook_name")),
            "d_sae": _whole(about.get("d_sae")), "file": str(name)}  # fmt: skip
    if kind not in CATALOGUE:
        yield said | {"metric": "", "value": None, "reason": "saelab has no evaluation of this name", "differs": None}
        return
    layout = evaluation_of(kind).saebench
    said["differs"] = _differing(config, mine[kind]) if kind in mine else None
    for headline in CATALOGUE[kind].headlines:
        value, reason = metrics.get(headline.metric), None
        if value is None:
            reason = "its file gives no number"
        elif value == NONE and layout is not None and {"*", headline.metric} & set(layout.filled):
            value, reason = None, "its file gives -1, which SAEBench writes for none"
        yield said | {"metric": headline.metric, "value": value, "reason": reason}


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def _called(data: Mapping[str, Any], path: Path) -> str:
    """SAEBench's two names of an SAE; a custom one has its name in the place of the release."""
    release, own = data.get("sae_lens_release_id"), data.get("sae_lens_id")
    if not release:
        return path.name
    return str(release) if own in (None, "", "custom_sae") else f"{release}/{own}"


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    keys = [k for k in sorted({*theirs, *ours}) if not any(word in k for word in WHERE_IT_RAN)]
    return "; ".join(
        f"{k} {_said(theirs, k)} (here: {_said(ours, k)})" for k in keys if theirs.get(k, ()) != ours.get(k, ())
    )


def _said(config: Mapping[str, Any], key: str) -> str:
    """A value in a few words; a long list by its length."""
    if key not in config:
        return "not said"
    value = config[key]
    if isinstance(value, list | dict) and len(value) > 3:
        return f"{len(value)} values"
    return json.dumps(value)
