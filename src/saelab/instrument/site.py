"""The instrument at one site of a study: its gate, the dose of all its SAEs, and the random dictionaries.

    classes              steered at their own best dose: the positive control
    features of some SAEs, evenly spread, at every dose of the grid: their lift chooses the site's dose, one strength
    random dictionaries  one per width and level, at that strength: what the SAEs are held against

Writes what an `InstrumentFolder` holds, going on where it was interrupted. A site without classes is not gated; one
whose features show at no dose has the state `no_dev_signal` and takes the dose at which the classes show.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saelab.activations.shards import ActivationShards
from saelab.core.errors import FetchError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.seeds import seed_of
from saelab.instrument.bench import Bench, Measured, equipped
from saelab.instrument.classes import LabelledTexts, class_features, classes_in, embedded_classes
from saelab.instrument.config import USUAL_DOSE, InstrumentConfig
from saelab.instrument.dose import Probe
from saelab.instrument.features import Dictionary, SiteText
from saelab.instrument.gate import Found, Gate, blind, classes_at_best, controls_of, judged, not_gated
from saelab.instrument.kept import digest_of_classes, digest_of_sae, of_lm, opened, states_asked
from saelab.instrument.random_dictionary import untrained_features
from saelab.instrument.readers import RANDOM, Features, joined
from saelab.instrument.strengths import factor_grid, reach_of
from saelab.instrument.texts import Desk
from saelab.judges.embedding import Embedder
from saelab.lm.model import LanguageModel
from saelab.saes.transcoder import AnySae, Transcoder
from saelab.store.folders import InstrumentFolder
from saelab.text.pack import PackedText

LEAST = 3  # features of a set, for an interval
PER_SAE = 8  # features of an SAE that choose the dose, so that not every SAE has to be encoded for it


@dataclass(frozen=True)
class Place:
    """What all that is steered at a site shares."""

    config: InstrumentConfig
    lm: LanguageModel
    text: SiteText
    embed: Embedder
    desk: Desk
    probe: Probe
    elsewhere: Callable[[str], ActivationShards] | None = None

    def coded(self, sae: AnySae) -> Dictionary:
        """An SAE, or a transcoder that writes here, on the text of the site."""
        rows = None
        if isinstance(sae, Transcoder):
            if self.elsewhere is None or sae.cfg.site is None:
                raise UserError(f"{sae} reads another site, whose activations are not at hand.")
            there = SiteText.of(self.lm, self.text.packed, self.elsewhere(sae.cfg.site), self.config.contexts)
            if not np.array_equal(there.places, self.text.places):
                raise UserError(f"The activations of {sae.cfg.site} and {self.text.site} are not of one harvest.")
            rows = there.rows
        return Dictionary.of(sae.encode, sae.W_dec.detach(), self.text, rows)


def place_at(
    config: InstrumentConfig,
    lm: LanguageModel,
    packed: PackedText,
    shards: ActivationShards,
    *,
    embed: Embedder,
    instructions: Sequence[str] = (),
    elsewhere: Callable[[str], ActivationShards] | None = None,
) -> Place:
    """Open a site. packed, shards: the text that was harvested and its activations there; elsewhere: of the same
    harvest those of a site that transcoders read.
    """
    text = SiteText.of(lm, packed, shards, config.contexts)
    desk, probe = equipped(config, lm, text, embed, instructions)
    return Place(config, lm, text, embed, desk, probe, elsewhere)


def classes_of(config: InstrumentConfig) -> Sequence[LabelledTexts] | str:
    """The known classes of a study, or why there are none."""
    if config.classes == "none":
        return "the study names no classes (instrument.classes: none)."
    if config.classes != "embedded":
        return classes_in(config.classes, label=config.label, taken=config.class_texts)
    try:
        return embedded_classes(taken=config.class_texts)
    except FetchError as error:
        return f"no classes could be had. {error.message}"


def dictionary_name(width: int, level: int) -> str:
    """What a random dictionary's set is called in the tables."""
    return f"{RANDOM}.{width}.{level}"


def dictionary_features(place: Place, width: int, level: int) -> Features:
    """The features of a site's random dictionary, as many as the config says where so many can be read."""
    sizes, seed = place.config, seed_of(place.config.seed, width, level)
    return untrained_features(place.text, place.embed, width=width, l0=level, count=sizes.n_random, least=0, seed=seed)


def run(
    place: Place,
    classes: Sequence[LabelledTexts] | str,
    saes: Mapping[str, AnySae],
    dictionaries: Sequence[tuple[int, int]],
    folder: Path,
    progress: Progress = SILENT,
) -> list[Path]:
    """Gate a site and choose its dose; returns the files written.

    classes: the known classes, or why there are none. saes: those that are steered with at the site, by name.
    dictionaries: width and level of the random ones.
    """
    config, kept = place.config, InstrumentFolder(folder)
    asked = {
        "config": config.settings, "lm": of_lm(place.lm), "site": place.text.site,
        "classes": digest_of_classes(classes), "saes": {name: digest_of_sae(sae) for name, sae in saes.items()},
        "dictionaries": [list(d) for d in dictionaries], "text": place.text.packed.digest(),
        "prompts": [list(p.ids) for p in place.desk.prompts], "reader": place.embed.name,
    }  # fmt: skip
    bench = Bench(config, place.desk, place.probe, opened(kept, asked), progress)
    named = None
    if not isinstance(classes, str):
        named = class_features(place.lm, place.text.site, classes, place.text.background, place.embed)
    positive, dose, rows = (None, None, []) if named is None else classes_at_best(bench, named)
    own, further = _dose(config, bench, _some_of_all(place, saes), dose)
    rows += further
    found = Found(config)
    if positive is not None and named is not None:
        found.keep(positive, named)
    random = {}
    for width, level in dictionaries:
        name = dictionary_name(width, level)
        features = dictionary_features(place, width, level)
        if len(features) >= LEAST:
            random[name] = _at(bench, name, features, own)
            found.keep(random[name], features)
    gate = _gate(classes, positive, dose, rows, random, found)
    kept.features.write(found.table)
    about = {"reader": place.embed.name, "norm": place.probe.norm, "chosen": own, "held": config.strength}
    kept.gate.write(gate.record() | about | {"answers": states_asked(kept)})
    return [kept.manifest.path, kept.gate.path, kept.features.path, *sorted(kept.texts.iterdir())]


def _at(bench: Bench, name: str, features: Features, chosen: Mapping[str, Any]) -> Measured:
    reach = reach_of(bench, name, features, chosen)
    return bench.measured(name, features, reach.doses, range(bench.sizes.feature_copies), reach.strengths)


def _some_of_all(place: Place, saes: Mapping[str, AnySae]) -> Features | None:
    """Some readable features of SAEs evenly spread, for the choice of the dose; None where there are too few."""
    asked = min(len(saes), max(1, place.config.n_dev // PER_SAE))
    each = -(-place.config.n_dev // max(1, asked))
    names, parts = list(saes), []
    for name in [names[k * len(names) // asked] for k in range(asked)]:
        dictionary = place.coded(saes[name])
        if drawn := dictionary.drawn(each, place.config.seed):
            parts.append(dictionary.features(drawn, place.embed, f"{name}/"))
    found = joined(parts) if parts else None
    return found if found is not None and len(found) >= LEAST else None


def _dose(
    config: InstrumentConfig, bench: Bench, features: Features | None, of_classes: float | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The site's dose with its strength and how it was found, and the dose response of the SAEs' features.

    By `feature_dev` the distances of all doses stand beside it, by `factors` the factor.
    """
    usual = of_classes or min(bench.sizes.doses, key=lambda d: abs(d - USUAL_DOSE))
    if features is None:
        return {"dose": usual, "strength": None, "share": None, "state": "no_readable_feature"}, []
    factors = config.factors if config.strength == "factors" else ()
    grid = factor_grid(bench, features, factors) if factors else bench.grid("features", features)
    chosen, rows = bench.dev("features", features, range(1), grid)
    point = chosen.dose or min(grid, key=lambda p: abs(grid[p][0] - usual))
    dose, reach = grid[point]
    strength = float(np.median(reach))
    found = {"dose": dose, "strength": strength, "share": strength / bench.probe.norm, "state": chosen.state}
    if factors:
        found["factor"] = point
    if config.strength == "feature_dev":
        found |= {"doses": list(grid), "distances": [distance for _, distance in grid.values()]}
    return found, rows


def _gate(
    classes: Sequence[LabelledTexts] | str,
    positive: Measured | None,
    dose: float | None,
    rows: Sequence[Mapping[str, Any]],
    random: Mapping[str, Measured],
    found: Found,
) -> Gate:
    if isinstance(classes, str) or not random:
        why = classes if isinstance(classes, str) else "no feature of a random dictionary can be read."
        return not_gated(why, rows, found)
    if positive is None or dose is None:
        return blind(rows)
    lifts = controls_of(positive, {name: m.tables for name, m in random.items()}, found.sizes.seed)
    return judged(lifts, dose, rows, found)
