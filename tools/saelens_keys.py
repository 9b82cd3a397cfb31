"""Writes src/saelab/saes/formats/saelens_keys.json: every key that a config of SAELens ever had, read from its wheels.

    pip download --no-deps sae-lens==VERSION          # the last of each series and some between, MIT licence
    python tools/saelens_keys.py src/saelab/saes/formats/saelens_keys.json sae_lens-*.whl

Keys are the fields of the config classes, what `__post_init__` adds to them, and the keys of the dicts that they are
saved as. The source is parsed and never run. Each key comes with the first and last of these wheels that have it.
"""

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

# The configs that a cfg.json holds: the SAE's, and before 6 the whole run's. What a config of 6 calls metadata is open.
CLASSES = re.compile(r"RunnerConfig|LanguageModelSAERunnerConfig|\w*(SAE|Transcoder)Config")
# In the configs of gpt2-small-res-jb, which were written before the first release (0.1): there is no wheel to read.
UNRELEASED = (
    "dead_feature_estimation_method",
    "feature_reinit_scale",
    "feature_sampling_method",
    "resample_batches",
)
SAVED_AS = re.compile(r"to_dict|get_\w*cfg_dict")


def keys_of(source: str) -> Iterator[str]:
    """Keys of every config class in a file of source."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.ClassDef) and CLASSES.fullmatch(node.name)):
            continue
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                yield item.target.id
            elif isinstance(item, ast.FunctionDef) and item.name == "__post_init__":
                yield from (n.attr for n in ast.walk(item) if isinstance(n, ast.Attribute) and _is_set(n))
            elif isinstance(item, ast.FunctionDef) and SAVED_AS.fullmatch(item.name):
                yield from (key for n in ast.walk(item) if isinstance(n, ast.Dict) for key in _texts(n))


def _is_set(node: ast.Attribute) -> bool:
    return isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _texts(node: ast.Dict) -> list[str]:
    return [k.value for k in node.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]


def version_of(wheel: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in wheel.name.split("-")[1].split("."))


def main(target: Path, wheels: list[Path]) -> None:
    found: dict[str, dict[str, list[str]]] = {"before 6": {}, "from 6": {}}
    for wheel in sorted(wheels, key=version_of):
        version = version_of(wheel)
        era = found["before 6" if version[0] < 6 else "from 6"]
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.endswith(".py") and "/synthetic/" not in n]
            for key in {key for name in names for key in keys_of(archive.read(name).decode())}:
                era.setdefault(key, []).append(".".join(map(str, version)))
    table = {era: {k: f"{v[0]} to {v[-1]}" for k, v in sorted(keys.items())} for era, keys in found.items()}
    table = {"before 0.1": {key: "in gpt2-small-res-jb" for key in UNRELEASED}} | table
    target.write_text(json.dumps(table, indent=1) + "\n")
    print({era: len(keys) for era, keys in table.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
