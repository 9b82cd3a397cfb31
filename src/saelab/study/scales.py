"""Study files: a study, and the scales at which it may be run.

    name: reduced
    ...
    scales:
      small:             # `--scale small`: these keys stand in for the file's own
        training: {steps: 100}

Mappings are merged key by key, everything else (lists too) is replaced whole. The study at a scale is a study of its
own, called `reduced-small` unless the scale names it, and its run folder holds the merged file. Only reads.
"""

from pathlib import Path
from typing import Any

from saelab.core.config import read_yaml
from saelab.core.errors import UserError, nearest
from saelab.store.layout import RunFolder
from saelab.study.checks import accepted
from saelab.study.spec import StudyConfig


def read_study(path: str | Path, scale: str | None = None) -> StudyConfig:
    """The study of a file, at one of the scales it defines (None: as it stands). A run folder's is its own.

    Raises `UserError` for a missing or invalid file and for a scale that the file does not define.
    """
    if Path(path).is_dir():
        folder, path = Path(path), RunFolder(Path(path)).study
        if not path.exists():
            raise UserError(f"{folder} is a folder without a {path.name}.", hint="Name a study file, or a run folder.")
    data = read_yaml(path)
    if not isinstance(data, dict):
        return accepted(data, origin=str(path))
    scales = data.pop("scales", None) or {}
    if not isinstance(scales, dict) or not all(isinstance(s, dict) for s in scales.values()):
        raise UserError(f"{path}: scales must map names to keys of a study, such as `small: {{resamples: 500}}`.")
    if scale is None:
        return accepted(data, origin=str(path))
    if scale not in scales:
        known = nearest(scale, scales) if scales else "It defines none."
        raise UserError(f"{path} defines no scale {scale!r}.", hint=known)
    changed = {"name": f"{data.get('name')}-{scale}"} | scales[scale]
    return accepted(merged(data, changed), origin=f"{path} at scale {scale}")


def file_schema() -> dict[str, Any]:
    """The JSON schema of study files, for editors: the keys of a study, the words that stand for mappings, scales."""
    schema = StudyConfig.model_json_schema()
    defined, keys = schema["$defs"], schema["properties"]
    keys["judge"] = {"anyOf": [{"type": "string"}, {"$ref": keys["judge"].pop("$ref")}], **keys["judge"]}
    keys["scales"] = {
        "type": "object",
        "additionalProperties": {"type": "object"},
        "description": "Name -> keys that stand in for the file's own with --scale NAME.",
    }
    defined["TextConfig"]["properties"]["documents"] = defined["CorpusConfig"]["properties"]["documents"]
    defined["InstrumentConfig"]["properties"]["classes"]["anyOf"].append({"type": "string"})
    return schema


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` in their place; mappings in both are merged."""
    both = {k: merged(base[k], v) for k, v in over.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return base | over | both
