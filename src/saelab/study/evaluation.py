"""From some SAEs to the study that judges them: their language model and sites, at the size of a preset.

The same text, windows, instructions and dose for all of them, and a random dictionary beside each, as in any study.
Sizes lie in presets.yaml; what a key means is said where its section is defined. SAEs are opened, nothing is computed.
"""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from saelab.core.config import digest_of
from saelab.core.errors import UserError, nearest
from saelab.lm.facts import facts_of
from saelab.lm.sources import the_one
from saelab.saes.given import GivenSae, given_sae, hold
from saelab.store.cache import cache_folder
from saelab.store.files import is_there, write_text
from saelab.study.grids import AdoptedConfig
from saelab.study.opening import opened_one
from saelab.study.spec import StudyConfig

PARTS = ("fidelity", "interp", "suite", "effects", "steer", "match")
USUAL = ("fidelity", "interp", "steer")
ALWAYS = ("fidelity",)
# Who reads a section of a preset; what is not here is always read.
READ_BY = {"selection": ("effects", "steer"), "steering": ("steer",), "instrument": ("steer",), "matching": ("match",)}
PLAIN = "Question: {instruction}\nAnswer:"  # how a model without a chat template is asked


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Sections of a study by preset."""
    return yaml.safe_load(resources.files("saelab.study").joinpath("presets.yaml").read_text(encoding="utf-8"))


def evaluation(
    saes: Sequence[Any] | Mapping[str, Any],
    *,
    lm: str | None = None,
    text: str | Sequence[str] | None = None,
    site: str | None = None,
    preset: str = "small",
    only: Collection[str] = (),
    against: str | None = None,
    force_lm: bool = False,
    as_read: bool = False,
) -> StudyConfig:
    """The study that judges these SAEs, with all of them opened.

    saes: references, entries of a study file, or SAEs that this program holds (`SaeLike`); by name, or in a row.
    lm: by default the one that their files name; text: a `path:` or `hf:` reference or documents, by default the
    embedded corpus. site: of SAEs that do not say theirs. only: which of `PARTS`, also with commas; by default `USUAL`.
    Fidelity is always measured. against: a folder of SAEBench's result files, beside which the suite's are set. Raises
    `UserError` where the SAEs name different LMs or none, for an unknown part or preset, and for what `opened` refuses.
    """
    parts = [part.strip() for part in only.split(",") if part.strip()] if isinstance(only, str) else only
    chosen = tuple(dict.fromkeys((*_chosen(preset, parts), *(("suite",) if against else ()))))
    entries = _entries([saes] if isinstance(saes, str | Path) else saes, site, lm, chosen)
    said = {"force_lm": True} if force_lm else {}
    said |= {"as_read": True} if as_read else {}
    adopted = [_with_site(opened_one(one.model_copy(update=said)), site) for one in entries]
    model = lm or the_one([one.found.lm for one in adopted if one.found and one.found.lm])
    sizes = {key: value for key, value in presets()[preset].items() if {*READ_BY.get(key, ALWAYS)} & {*chosen, *ALWAYS}}
    data: dict[str, Any] = {key: dict(v) if isinstance(v, Mapping) else v for key, v in sizes.items()}
    if text is not None:
        data["text"]["corpus"] = {"source": _place(text) if isinstance(text, str) else _kept(text)}
    if not {"interp", "effects", "steer"} & set(chosen):  # steering chooses among features whose description was tested
        data["interp"] = data.get("interp", {}) | {"n_scored": 0, "n_embedded": 0}
    if "effects" in chosen:
        data["selection"] = data.get("selection", {}) | {"features": "all"}
    if "suite" in chosen:
        data["suite"] = {"preset": preset} | ({"against": _place(against)} if against else {})
    named = _apart(adopted)
    entry: dict[str, Any] = {"lm": model, "saes": [one.model_dump(mode="json") for one in named]}
    for one in entry["saes"]:
        one["steer"] = one["steer"] and "steer" in chosen
        one["effects"] = "effects" in chosen
    if "match" in chosen:
        entry["paths"] = [{"saes": [a.called, b.called]} for a, b in pairwise(named)]
    facts = facts_of(model) if "steer" in chosen else None
    if facts is not None and not facts.template:
        entry["template"] = PLAIN
    data |= {"models": [entry]}
    sums = [one.found.sha256 for one in named if one.found]
    return StudyConfig.parse(data | {"name": f"evaluate-{digest_of([data, sums])[:8]}"}, origin="The evaluation")


def _entries(
    saes: Sequence[Any] | Mapping[str, Any], site: str | None, lm: str | None, parts: Collection[str]
) -> list[AdoptedConfig]:
    """An entry of a study file per SAE; those that are held in memory are kept for this process."""
    pairs = list(saes.items()) if isinstance(saes, Mapping) else [(None, sae) for sae in saes]
    if not pairs:
        raise UserError("There is no SAE to evaluate.", hint="Give one reference or object, or several.")
    found = []
    for number, (name, sae) in enumerate(pairs):
        if isinstance(sae, str | Path):
            if not str(sae).strip():
                raise UserError("A reference to an SAE is empty.", hint="Give path:FOLDER, hf:org/name, or a folder.")
            entry = AdoptedConfig.parse({"ref": str(sae), "name": name}, origin="The evaluation")
        elif isinstance(sae, AdoptedConfig):
            entry = sae
        else:
            called = name or f"{type(sae).__name__}.{number + 1}"
            own = given_sae(sae, site=site, lm=lm)
            reads = [part for part in ("suite", "match") if part in parts]
            needed = " and ".join(reads)
            if reads and isinstance(own, GivenSae) and not own.has_encoder:
                raise UserError(
                    f"{called} has no W_enc [D, F] and b_enc [F], which {needed} needs.",
                    hint=f"Leave {needed} out.",
                )
            entry = AdoptedConfig.parse({"ref": hold(own, called), "name": called}, origin="The evaluation")
        found.append(entry)
    return found


def _with_site(one: AdoptedConfig, site: str | None) -> AdoptedConfig:
    """An entry with the site that its files leave open."""
    if one.site is not None or (one.found is not None and one.found.site is not None):
        return one
    if site is None:
        raise UserError(
            f"{one.called} does not say at which site it reads.",
            hint="Say it in its config, by `site=` in Python, or in a study file (models, saes, site).",
        )
    return AdoptedConfig.parse(one.model_dump() | {"site": site}, origin="The evaluation")


def _place(name: str) -> str:
    """A reference; what lies here needs no `path:`."""
    return f"path:{name}" if ":" not in name and is_there(name) else name


def _kept(text: Sequence[str]) -> str:
    """A reference to documents, which are kept in the cache by their sum."""
    lines = "".join(json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in text)
    kept = cache_folder() / "texts" / f"{hashlib.sha256(lines.encode()).hexdigest()}.jsonl"
    if not kept.exists():
        write_text(kept, lines)
    return f"path:{kept}"


def _chosen(preset: str, only: Collection[str]) -> tuple[str, ...]:
    if preset not in presets():
        raise UserError(f"There is no preset {preset!r}.", hint=nearest(preset, presets()))
    for part in only:
        if part not in PARTS:
            raise UserError(f"An evaluation has no part {part!r}.", hint=nearest(part, PARTS))
    return tuple(only) or USUAL


def _apart(saes: Sequence[AdoptedConfig]) -> list[AdoptedConfig]:
    """The SAEs with a number behind a name that several of them would have, unless it was given."""
    names = [one.called for one in saes]
    return [
        one
        if one.name or names.count(one.called) == 1
        else one.model_copy(update={"name": f"{one.called}.{names[:i].count(one.called) + 1}"})
        for i, one in enumerate(saes)
    ]
