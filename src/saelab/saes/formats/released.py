"""Short names of released SAEs, such as `gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical`.

A name is a release and the SAE's name in it, as SAELens and Neuronpedia call them. released.json holds the places
(tools/released_saes.py makes it; braces stand for sets: `layer_{0,1}_width_{16k,262k}`). This file must never fetch.
"""

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib import resources
from itertools import product
from typing import Any

from saelab.core.errors import UserError, nearest

_BRACES = re.compile(r"\{([^}]*)\}")


@dataclass(frozen=True)
class Released:
    """Where a released SAE lies, and what its files do not say. format: None where its files tell."""

    name: str
    reference: str
    format: str | None = None
    lm: str | None = None
    input_scale: float | None = None
    normalise: str | None = None


@lru_cache(maxsize=1)
def releases() -> dict[str, dict[str, Any]]:
    """The registry: release -> repo, lm, format, folders (patterns), under, aliases, input_scales, normalise."""
    return json.loads((resources.files("saelab.saes.formats") / "released.json").read_text())


@cache
def names_in(release: str) -> dict[str, str]:
    """Names of a release's SAEs -> folder (or file) in its repository."""
    data = releases()[release]
    under = data.get("under", "")
    folders = {name: under + name for pattern in data["folders"] for name in _expanded(pattern)}
    return folders | data.get("aliases", {})


def released(name: str) -> Released:
    """The SAE of a short name; a name that is not there is a `UserError` with the nearest ones."""
    release, _, inside = name.partition("/")
    known = releases()
    if release not in known:
        close = get_close_matches(release, known, n=2, cutoff=0.8)
        hint = f"Did you mean {' or '.join(close)}?" if close else "Check the path, or give a release's short name."
        raise UserError(f"There is no folder {name}, and no release of that name.", hint=hint)
    names = names_in(release)
    if inside not in names:
        what = f"no SAE {inside!r}" if inside else f"{len(names)} SAEs: name one"
        raise UserError(f"The release {release} has {what}.", hint=_closest(release, inside, list(names)))
    data = known[release]
    scale = data.get("input_scales", {}).get(inside)
    place = f"hf:{data['repo']}/{names[inside]}"
    return Released(name, place, data.get("format"), data.get("lm"), scale, data.get("normalise"))


def _closest(release: str, inside: str, names: list[str]) -> str:
    """Did you mean: by characters, and first of all those with the same numbers."""
    numbers = set(re.findall(r"\d+", inside))
    names = sorted(names, key=lambda n: -len(numbers & set(re.findall(r"\d+", n))))
    return nearest(f"{release}/{inside}", [f"{release}/{n}" for n in names], most=4)


def _expanded(pattern: str) -> list[str]:
    """Every name that a pattern with braces stands for."""
    parts = _BRACES.split(pattern)  # text, choices, text, choices, ..., text
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(one) for one in product(*choices)]
