"""Writes src/saelab/saes/formats/released.json, short names of released SAEs, from the registry that sae-lens ships.

    pip download --no-deps sae-lens==6.54.12 && unzip sae_lens-*.whl sae_lens/pretrained_saes.yaml     # MIT licence
    python tools/released_saes.py sae_lens/pretrained_saes.yaml src/saelab/saes/formats/released.json

Only names and places are taken: release, repository, folder, language model, and the training scale or normalisation
where the files do not hold it. Releases whose files saelab does not read are left out and listed. Regular sets of names
are written with braces, `layer_{0,1,2}_width_{16k,262k}`, which takes a twentieth of the space.
"""

import json
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import yaml

# sae-lens' loader -> our format; None: found by its files
FORMATS = {
    None: None,
    "sae_lens": None,
    "gemma_2": "gemma_scope",
    "gemma_2_transcoder": "gemma_scope",
    "gemma_3": "gemma_scope_2",
    "llama_scope": "llama_scope",
    "llama_scope_r1_distill": "llama_scope_2",
    "dictionary_learning_1": "dictionary_learning",
    "qwen_scope": "qwen_scope",
}
# TransformerLens' names of language models -> the hub's
MODELS = {
    "gemma-2-2b": "google/gemma-2-2b",
    "gemma-2-9b": "google/gemma-2-9b",
    "gemma-2b": "google/gemma-2b",
    "gemma-2b-it": "google/gemma-2b-it",
    "gpt2-small": "openai-community/gpt2",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "pythia-70m-deduped": "EleutherAI/pythia-70m-deduped",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "qwen3-14b": "Qwen/Qwen3-14B",
}
FIELD = re.compile(r"\d+|[a-z]+_out|small|medium|big|pre|post|res|mlp|att")


def braced(names: list[str]) -> list[str]:
    """The names, with every set that is a full product of its fields written as one pattern."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        groups.setdefault(FIELD.sub("\0", name), []).append(tuple(FIELD.findall(name)))
    found = []
    for frame, rows in groups.items():
        columns = [list(dict.fromkeys(column)) for column in zip(*rows, strict=True)] if rows[0] else []
        if columns and sorted(product(*columns)) == sorted(rows):
            parts = frame.split("\0")
            text = parts[0]
            for values, rest in zip(columns, parts[1:], strict=True):
                text += (values[0] if len(values) == 1 else "{" + ",".join(values) + "}") + rest
            found.append(text)
        else:
            found += [name for name in names if FIELD.sub("\0", name) == frame]
    return found


def entry(release: dict[str, Any]) -> dict[str, Any]:
    """One release as the registry holds it."""
    rows = release["saes"]
    model = release["model"]
    data: dict[str, Any] = {"repo": release["repo_id"]}
    if kind := FORMATS[release.get("conversion_func")]:
        data["format"] = kind
    if kind != "gemma_scope":  # the repository's name says it, and sae-lens is wrong about one of them
        data["lm"] = f"hf:{MODELS.get(model, model)}"
    same = [row["id"] for row in rows if row["path"] == row["id"]]
    data["folders"] = braced(same)
    aliases = {row["id"]: row["path"] for row in rows if row["path"] != row["id"]}
    fronts = {path.removesuffix(name) for name, path in aliases.items()}
    if aliases and len(fronts) == 1 and all(path.endswith(name) for name, path in aliases.items()):
        data |= {"under": fronts.pop(), "folders": braced(same + list(aliases))}
        assert not same
    elif aliases:
        data["aliases"] = aliases
    # Llama Scope's own files hold its norms; older SAELens files do not.
    scales = {row["id"]: row["norm_scaling_factor"] for row in rows if row.get("norm_scaling_factor")}
    if scales and data.get("format") is None:
        data["input_scales"] = scales
    overrides = release.get("config_overrides") or {}
    if overrides.get("model_from_pretrained_kwargs", {}).get("center_writing_weights"):
        data["normalise"] = "centred"
    if kind := overrides.get("normalize_activations"):
        data["normalise"] = kind
    return data


def main(source: Path, target: Path) -> None:
    releases = yaml.load(source.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    kept = {}
    for name, release in sorted(releases.items()):
        if release.get("conversion_func") in FORMATS:
            kept[name] = entry(release)
        else:
            print(f"left out: {name} ({release['conversion_func']}, {len(release['saes'])} SAEs)")
    lines = [f"{json.dumps(name)}: {json.dumps(data)}" for name, data in kept.items()]
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(kept)} releases, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
