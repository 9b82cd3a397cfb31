"""From some SAEs to the study that judges them: their language model and sites, at the size of a preset.

The same text, windows, instructions and dose for all of them, and a random dictionary beside each, as in any study.
Sizes live here as data; what a key means is said where its section is defined. SAEs are opened, nothing is computed.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from saelab.core.config import digest_of
from saelab.core.errors import UserError, nearest
from saelab.lm.facts import facts_of
from saelab.lm.sources import the_one
from saelab.store.files import is_there
from saelab.study.grids import AdoptedConfig
from saelab.study.opening import opened_one
from saelab.study.spec import StudyConfig

Preset = Literal["tiny", "small", "paper"]
PARTS = ("fidelity", "interp", "suite", "steer", "match")
USUAL = ("fidelity", "interp", "steer")
PLAIN = "Question: {instruction}\nAnswer:"  # how a model without a chat template is asked

# small: some minutes on two cores for a model of 135M parameters; paper: the sizes of the stages' own defaults.
PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "tiny": {
        "text": {"context": 64, "train_contexts": 128, "held_out_contexts": 16},
        "interp": {"fidelity_contexts": 16, "spliced_contexts": 8, "window_rows": 8000, "n_scored": 32,
                   "n_embedded": 0},
        "selection": {"positions": "last", "features": "tested", "criteria": ["output_score"]},
        "steering": {"arms": [{"criterion": "output_score", "n": 2}, {"random": 8}]},
        "instrument": {"doses": [0.5], "prompts": 1, "dev_copies": 2, "test_copies": 8, "unsteered_copies": 30,
                       "contexts": 128, "probe_contexts": 2, "n_dev": 8, "n_random": 16},
        "matching": {"fold": "mean", "contexts": 4},
        "resamples": 500,
    },
    "small": {
        "text": {"context": 128, "train_contexts": 320, "held_out_contexts": 16},
        "interp": {"fidelity_contexts": 16, "spliced_contexts": 8, "window_rows": 32_000, "n_scored": 150,
                   "n_embedded": 16},
        "selection": {"positions": "last", "features": "tested",
                      "criteria": ["delta_confidence", "output_score", "kl", "entropy_change"]},
        "steering": {"arms": [{"criterion": "output_score", "n": 3}, {"random": 24}]},
        "instrument": {"doses": [0.2, 0.5], "prompts": 1, "dev_copies": 2, "test_copies": 8, "unsteered_copies": 30,
                       "contexts": 320, "probe_contexts": 2, "n_dev": 32, "n_random": 80},
        "matching": {"fold": "mean", "contexts": 4},
    },
    "paper": {
        "text": {"context": 128, "train_contexts": 4096, "held_out_contexts": 64},
        "steering": {"arms": [{"criterion": "delta_confidence", "tail": "both", "n": 5},
                              {"criterion": "output_score", "n": 10}, {"random": 48}]},
        "matching": {"fold": "mean"},
    },
}  # fmt: skip


def evaluation(
    references: Sequence[str | AdoptedConfig],
    *,
    lm: str | None = None,
    text: str | None = None,
    preset: Preset = "small",
    only: Collection[str] = (),
    force_lm: bool = False,
) -> StudyConfig:
    """The study that judges these SAEs, with all of them opened.

    lm: by default the one that their files name; text: a `path:` or `hf:` reference, by default the embedded corpus.
    only: which of `PARTS`; by default `USUAL`. Fidelity is always measured. Raises `UserError` where the SAEs name
    different LMs or none, for an unknown part or preset, and for what `opened` refuses.
    """
    chosen = _chosen(preset, only)
    given = [AdoptedConfig(ref=r) if isinstance(r, str) else r for r in references]
    saes = [opened_one(one.model_copy(update={"force_lm": force_lm or one.force_lm})) for one in given]
    model = lm or the_one([one.found.lm for one in saes if one.found and one.found.lm])
    data: dict[str, Any] = {key: dict(v) if isinstance(v, Mapping) else v for key, v in PRESETS[preset].items()}
    if text is not None:
        data["text"]["corpus"] = {"source": f"path:{text}" if ":" not in text and is_there(text) else text}
    if not {"interp", "steer"} & set(chosen):  # steering chooses among features whose description was tested
        data["interp"] = data.get("interp", {}) | {"n_scored": 0, "n_embedded": 0}
    if "suite" in chosen:
        data["suite"] = {"preset": preset}
    named = _apart(saes)
    entry: dict[str, Any] = {"lm": model, "saes": [one.model_dump(mode="json") for one in named]}
    for one in entry["saes"]:
        one["steer"] = one["steer"] and "steer" in chosen
    if "match" in chosen:
        entry["paths"] = [{"saes": [a.called, b.called]} for a, b in pairwise(named)]
    facts = facts_of(model) if "steer" in chosen else None
    if facts is not None and not facts.template:
        entry["template"] = PLAIN
    data |= {"models": [entry]}
    sums = [one.found.sha256 for one in named if one.found]
    return StudyConfig.parse(data | {"name": f"evaluate-{digest_of([data, sums])[:8]}"}, origin="The evaluation")


def _chosen(preset: str, only: Collection[str]) -> tuple[str, ...]:
    if preset not in PRESETS:
        raise UserError(f"There is no preset {preset!r}.", hint=nearest(preset, PRESETS))
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
