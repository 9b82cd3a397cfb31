"""Trials: a feature in words and two texts that answer one prompt, one of them steered with the feature.

The other text, the foil, was steered with another feature of the set for one half of the trials, and not at all for the
other half; it comes again only when all that fit have come. Which texts, which side and which order follow from the
study's seed and the names of the texts, so that a run has the same trials for everybody. SAEs and arms take turns, and
one trial in five is of a random dictionary, whose features are about nothing. Pure data: no model, no file.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saelab.core.config import digest_of
from saelab.core.seeds import numpy_generator
from saelab.human.shown import SteeredSet
from saelab.instrument.outcomes import UNSTEERED
from saelab.instrument.readers import HEADLINE
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


@dataclass(frozen=True)
class _Draft:
    """A trial without its foil. text, others: places of the steered text and of what its foil may be, in the order of
    a draw; owner: the place of its feature.
    """

    of: SteeredSet
    text: int
    owner: int
    foil: str
    others: list[int]
    side: int

    @property
    def arms(self) -> tuple[str, ...]:
        return self.of.arms.get(self.of.features["feature"][self.owner], ())


def trials_of(sets: Sequence[SteeredSet], seed: int) -> list[BlindTrial]:
    """Every steered text of a run with its foil, in the order in which they are asked."""
    made = [draft for one in sets for draft in _drafts(one, seed)]
    streams = {kind: _in_turn([d for d in made if (d.of.control, d.foil) == kind], seed) for kind in TEN}
    kinds, order = [kind for kind, n in TEN.items() for _ in range(n)], list[BlindTrial]()
    used = Counter[str]()
    while len(order) < len(made):
        block = numpy_generator(seed, "human", "order", len(order)).permutation(len(kinds))
        order += [_trial(d, used) for k in block.tolist() if (d := next(streams[kinds[k]], None)) is not None]
    return order


def _drafts(one: SteeredSet, seed: int) -> Iterator[_Draft]:
    owner, texts = one.texts["owner"].to_numpy(), one.texts["text"].to_list()
    prompts, copies = one.texts["prompt"].to_list(), one.texts["copy"].to_list()
    read, features = one.features[HEADLINE].to_list(), one.features["feature"].to_list()
    for i in np.flatnonzero(owner != UNSTEERED).tolist():
        k = int(owner[i])
        draw = numpy_generator(seed, "human", one.name, features[k], prompts[i], copies[i])
        foil, side = (OTHER, NONE)[int(draw.integers(2))], int(draw.integers(2))
        others = [
            j for j, prompt in enumerate(prompts)
            if prompt == prompts[i] and owner[j] != k and (owner[j] == UNSTEERED) == (foil == NONE)
            and _differ(texts[i], texts[j])
        ]  # fmt: skip
        # A judge that was asked has read a share of the texts: those come first.
        others = [j for j in others if np.isfinite(read[k][j])] or others
        if others:
            yield _Draft(one, i, k, foil, draw.permutation(others).tolist(), side)


def _trial(draft: _Draft, used: Counter[str]) -> BlindTrial:
    """With the foil that was shown least often so far: an unsteered text that comes again would be known for a foil."""
    one, side, texts = draft.of, draft.side, draft.of.texts["text"]
    other = min(draft.others, key=lambda j: used[texts[j]])
    used[texts[other]] += 1
    pair = [texts[draft.text], texts[other]][:: 1 if side == 0 else -1]
    feature, about = one.features["feature"][draft.owner], one.features["about"][draft.owner]
    prompt, answer = one.texts["prompt"][draft.text], one.texts["answer"][draft.text]
    read = {judge: one.features[outcome][draft.owner] for outcome, judge in one.judges.items()}
    return BlindTrial(
        key=digest_of([one.name, feature, about, prompt, *pair])[:16], set=one.name, feature=feature,
        control=one.control, arms=draft.arms, foil=draft.foil, about=about, prompt=prompt, answer=answer,
        left=pair[0], right=pair[1], steered=SIDES[side],
        judges={judge: _higher(values[draft.text], values[other], side) for judge, values in read.items()},
    )  # fmt: skip


def _differ(one: str, other: str) -> bool:
    return bool(one.strip() and other.strip()) and one.strip() != other.strip()


def _higher(steered: float, foil: float, side: int) -> str | None:
    if not np.isfinite(steered - foil) or steered == foil:
        return None
    return SIDES[side] if steered > foil else SIDES[1 - side]


def _in_turn(drafts: Sequence[_Draft], seed: int) -> Iterator[_Draft]:
    """One draft after another of every set and arm, each of them in an order of its own."""
    queues: dict[tuple[str, str], list[_Draft]] = {}
    for draft in drafts:
        # The rarer arm counts where a feature is in several.
        arm = next((a for a in draft.arms if a != RANDOM), RANDOM)
        queues.setdefault((draft.of.name, arm), []).append(draft)
    for name, queue in queues.items():
        order = numpy_generator(seed, "human", "turn", *name).permutation(len(queue))
        queues[name] = [queue[k] for k in order.tolist()]
    rounds = 0
    while left := [name for name, queue in queues.items() if len(queue) > rounds]:
        order = numpy_generator(seed, "human", "round", rounds).permutation(len(left))
        yield from (queues[left[k]][rounds] for k in order.tolist())
        rounds += 1
