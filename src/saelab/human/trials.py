"""Trials: a feature in words and two texts that answer one prompt, one of them steered with the feature.

The other text, the foil, was steered with another feature of the set for one half of the trials, and not at all for the
other half. Which texts, which side and which order follow from the study's seed and the names of the texts, so that a
run has the same trials for everybody. SAEs and arms take turns, and one trial in five is of a random dictionary, whose
features are about nothing. Pure data: no model, no file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saelab.core.config import digest_of
from saelab.core.seeds import numpy_generator
from saelab.human.shown import SteeredSet
from saelab.instrument.outcomes import UNSTEERED
from saelab.instrument.readers import HEADLINE, OUTCOMES
from saelab.steering.arms import RANDOM

SIDES = ("left", "right")
OTHER, NONE = "another feature", "unsteered"  # what the foil was steered with
# Of ten trials in a row, how many are of a random dictionary or not, by foil.
TEN = {(False, OTHER): 4, (False, NONE): 4, (True, OTHER): 1, (True, NONE): 1}


@dataclass(frozen=True)
class BlindTrial:
    """One question. key: names what is shown, texts and sides. steered: on which side the steered text is. judges: by
    judge the side that reads higher; None where both read the same or one was not read.
    """

    key: str
    set: str
    feature: int
    control: bool
    arms: tuple[str, ...]
    foil: str
    about: str
    prompt: str
    answer: bool
    left: str
    right: str
    steered: str
    judges: Mapping[str, str | None]


def trials_of(sets: Sequence[SteeredSet], seed: int) -> list[BlindTrial]:
    """Every steered text of a run with its foil, in the order in which they are asked."""
    made = [trial for one in sets for trial in _of_set(one, seed)]
    streams = {kind: _in_turn([t for t in made if (t.control, t.foil) == kind], seed) for kind in TEN}
    kinds, order = [kind for kind, n in TEN.items() for _ in range(n)], list[BlindTrial]()
    while len(order) < len(made):
        block = numpy_generator(seed, "human", "order", len(order)).permutation(len(kinds))
        order += [trial for k in block.tolist() if (trial := next(streams[kinds[k]], None)) is not None]
    return order


def _of_set(one: SteeredSet, seed: int) -> Iterator[BlindTrial]:
    owner, texts = one.texts["owner"].to_numpy(), one.texts["text"].to_list()
    prompts, copies = one.texts["prompt"].to_list(), one.texts["copy"].to_list()
    read = {o: one.features[o].to_list() for o in OUTCOMES}
    for i in np.flatnonzero(owner != UNSTEERED).tolist():
        k, prompt = int(owner[i]), prompts[i]
        about, feature = one.features["about"][k], one.features["feature"][k]
        draw = numpy_generator(seed, "human", one.name, feature, prompt, copies[i])
        others = [j for j, p in enumerate(prompts) if p == prompt and owner[j] != k and _differ(texts[i], texts[j])]
        kinds = {
            OTHER: [j for j in others if owner[j] != UNSTEERED],
            NONE: [j for j in others if owner[j] == UNSTEERED],
        }
        foil = (OTHER, NONE)[int(draw.integers(2))]
        # A judge that was asked has read a share of the texts: those come first.
        candidates = [j for j in kinds[foil] if np.isfinite(read[HEADLINE][k][j])] or kinds[foil]
        if not candidates:
            continue
        j, side = candidates[int(draw.integers(len(candidates)))], int(draw.integers(2))
        pair = (texts[i], texts[j]) if side == 0 else (texts[j], texts[i])
        judges = {one.judges[o]: _higher(values[k][i], values[k][j], side) for o, values in read.items()}
        yield BlindTrial(
            key=digest_of([one.name, feature, about, prompt, *pair])[:16], set=one.name, feature=feature,
            control=one.control, arms=one.arms.get(feature, ()), foil=foil, about=about, prompt=prompt,
            answer=one.texts["answer"][i], left=pair[0], right=pair[1], steered=SIDES[side], judges=judges,
        )  # fmt: skip


def _differ(one: str, other: str) -> bool:
    return bool(one.strip() and other.strip()) and one.strip() != other.strip()


def _higher(steered: float, foil: float, side: int) -> str | None:
    if not np.isfinite(steered - foil) or steered == foil:
        return None
    return SIDES[side] if steered > foil else SIDES[1 - side]


def _in_turn(trials: Sequence[BlindTrial], seed: int) -> Iterator[BlindTrial]:
    """One trial after another of every set and arm, each of them in an order of its own."""
    queues: dict[tuple[str, str], list[BlindTrial]] = {}
    for trial in trials:
        # The rarer arm counts where a feature is in several.
        arm = next((a for a in trial.arms if a != RANDOM), RANDOM)
        queues.setdefault((trial.set, arm), []).append(trial)
    for name, queue in queues.items():
        order = numpy_generator(seed, "human", "turn", *name).permutation(len(queue))
        queues[name] = [queue[k] for k in order.tolist()]
    rounds = 0
    while left := [name for name, queue in queues.items() if len(queue) > rounds]:
        order = numpy_generator(seed, "human", "round", rounds).permutation(len(left))
        yield from (queues[left[k]][rounds] for k in order.tolist())
        rounds += 1
