"""The gate: a measurement of steering speaks only where it can see steering, and sees none where there is none.

    positive   known classes, direction and reader from disjoint halves, at the dose of the grid that dev chose: lift
               above 0 by its interval over classes and by exchanging readers (p < 0.01)
    negative   the random dictionary under its own readers: `described` lift below half of the classes'
    SAE        where one is given: `described` lift above the random dictionary's by an interval that excludes 0

A dose is a KL (dose.py): every set is moved as far as gives its own median direction that KL. Failed means that nothing
here may be called steering. `described`, the headline, decides; `read_back` has a positive control of its own, without
which its column says nothing. Without classes nothing was tested: "not gated", which is neither of the two. Knows no
file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

from saelab.instrument.bench import Bench, Measured
from saelab.instrument.config import Sizes
from saelab.instrument.lifts import GateLift, difference_of, exchanged_readers, lift_of
from saelab.instrument.outcomes import FEATURES
from saelab.instrument.readers import CLASSES, HEADLINE, OUTCOMES, RANDOM, Features
from saelab.instrument.texts import texts_of

P = 0.01


@dataclass(frozen=True)
class Gate:
    """What the gate found.

    dose: chosen on dev, in nats. lifts: of the positive and the negative control, and of an SAE
    where one is given. strengths: median distance of each set, in activation units. doses: the dose response,
    a row per dose and outcome (lift, low, high, n, how the texts look). features: a row per set, outcome and feature.
    """

    state: Literal["passed", "failed", "not_gated"]
    sentence: str
    dose: float | None
    lifts: tuple[GateLift, ...]
    strengths: dict[str, float]
    doses: pl.DataFrame
    features: pl.DataFrame

    @property
    def passed(self) -> bool:
        return self.state == "passed"

    def record(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "state": self.state,
            "passed": self.passed,
            "sentence": self.sentence,
            "dose": self.dose,
            "strengths": self.strengths,
            "controls": [asdict(lift) for lift in self.lifts],
            "dose_response": self.doses.to_dicts(),
        }


@dataclass(frozen=True)
class Sets:
    """What is steered with: classes, the random dictionary's features, an SAE's; and what the texts of the last two are
    kept under, so that gates of several SAEs share all that is not their own.
    """

    classes: Features
    random: Features
    sae: Features | None = None
    random_key: str = "random_dictionary"
    sae_key: str = "sae"


def gate(bench: Bench, sets: Sets) -> Gate:
    """Write, read and judge one site by itself: every set is moved as far as its own median direction needs."""
    sizes = bench.sizes
    positive, dose, doses = classes_at_best(bench, sets.classes)
    if positive is None or dose is None:
        return blind(doses)
    found = Found(sizes)
    found.keep(positive, sets.classes)
    copies = range(sizes.feature_copies)

    def at(name: str, features: Features, key: str) -> Measured:
        distance = bench.distance(name, features, dose)
        measured = bench.measured(name, features, dose, copies, distance, step=f"{key}.{dose:g}")
        found.keep(measured, features)
        return measured

    random = at(RANDOM, sets.random, sets.random_key)
    lifts = controls_of(positive, {RANDOM: random.tables}, sizes.seed)
    if sets.sae is not None:
        sae = at("sae", sets.sae, sets.sae_key)
        lifts += [_less(sae, random, outcome, sizes.seed) for outcome in OUTCOMES]
        lifts += [lift_of("sae", outcome, sae.tables[outcome], seed=sizes.seed) for outcome in OUTCOMES]
    return judged(lifts, dose, doses, found)


def classes_at_best(bench: Bench, classes: Features) -> tuple[Measured | None, float | None, list[dict[str, Any]]]:
    """The classes' texts at the dose that dev chose (None: no dose shows a lift), and the dose response."""
    sizes = bench.sizes
    chosen, rows = bench.dev(CLASSES, classes, range(sizes.dev_copies))
    if chosen.dose is None:
        return None, None, rows
    numbers = range(sizes.dev_copies, sizes.dev_copies + sizes.test_copies)
    distance = bench.distance(CLASSES, classes, chosen.dose)
    return bench.measured(CLASSES, classes, chosen.dose, numbers, distance), chosen.dose, rows


@dataclass
class Found:
    """What a gate has measured so far: the distance of each set, and its table by feature."""

    sizes: Sizes
    strengths: dict[str, float] = field(default_factory=dict)
    features: list[pl.DataFrame] = field(default_factory=list)

    def keep(self, measured: Measured, features: Features) -> None:
        """Add a set's outcomes."""
        self.strengths[measured.name] = float(np.median(measured.steered["strength"].to_numpy()))
        for outcome, table in measured.tables.items():
            labels = pl.DataFrame({"set": measured.name, "outcome": outcome, "name": list(features.names)})
            self.features.append(pl.concat([labels, table], how="horizontal"))

    @property
    def table(self) -> pl.DataFrame:
        """A row per set, outcome and feature."""
        empty = pl.DataFrame(schema={"set": pl.String, "outcome": pl.String, "name": pl.String, **FEATURES})
        return pl.concat([empty, *self.features])


def not_gated(reason: str, doses: Sequence[Mapping[str, Any]] = (), found: Found | None = None) -> Gate:
    """Nothing was tested, and why; with what was measured nevertheless."""
    strengths, features = ({}, pl.DataFrame()) if found is None else (found.strengths, found.table)
    return Gate("not_gated", f"Not gated: {reason}", None, (), strengths, pl.DataFrame(doses), features)


def controls_of(positive: Measured, random: Mapping[str, Mapping[str, pl.DataFrame]], seed: int) -> list[GateLift]:
    """The positive control, and the negative one over the features of all random dictionaries (tables by outcome)."""
    found = [_positive(positive, outcome, seed) for outcome in OUTCOMES]
    pooled = {o: pl.concat([tables[o] for tables in random.values()]) for o in OUTCOMES}
    return found + _negative(positive, pooled, seed)


def blind(doses: Sequence[Mapping[str, Any]]) -> Gate:
    """The gate of a site at which no dose of known classes shows."""
    reason = "at no dose is the lift of known classes above 0"
    sentence = f"The instrument cannot see steering: {reason} (no_dev_signal)."
    return Gate("failed", sentence, None, (), {}, pl.DataFrame(doses), pl.DataFrame())


def judged(lifts: Sequence[GateLift], dose: float, doses: Sequence[Mapping[str, Any]], found: Found) -> Gate:
    """The gate with its verdict."""
    state, sentence = _verdict(lifts)
    return Gate(state, sentence, dose, tuple(lifts), found.strengths, pl.DataFrame(doses), found.table)


def _positive(classes: Measured, outcome: str, seed: int) -> GateLift:
    plain = lift_of(CLASSES, outcome, classes.tables[outcome], seed=seed)
    p = exchanged_readers(classes.values[outcome], texts_of(classes.table), seed=seed)
    return _with(plain, p=p, bound=0.0, holds=plain.low is not None and plain.low > 0 and p is not None and p < P)


def _negative(classes: Measured, random: Mapping[str, pl.DataFrame], seed: int) -> list[GateLift]:
    """`described` is held against half of the classes' lift; `read_back`, an echo, is shown and gates nothing."""
    bound = classes.tables[HEADLINE]["lift"].mean()
    half = 0.5 * bound if isinstance(bound, float) else None
    plain, echo = (lift_of(RANDOM, o, random[o], seed=seed) for o in OUTCOMES)
    below = plain.value is not None and half is not None and plain.value < half
    return [_with(plain, bound=half, holds=below), echo]


def _less(sae: Measured, random: Measured, outcome: str, seed: int) -> GateLift:
    name = "sae_less_random_dictionary"
    plain = difference_of(name, outcome, sae.tables[outcome], random.tables[outcome], seed=seed)
    if outcome != HEADLINE:
        return plain
    return _with(plain, bound=0.0, holds=plain.low is not None and plain.low > 0)


def _with(lift: GateLift, **changes: Any) -> GateLift:
    return GateLift(**(asdict(lift) | changes))


def _verdict(lifts: Sequence[GateLift]) -> tuple[Literal["passed", "failed"], str]:
    """Passed where no control of the headline is lost, and the sentence that says so or which one is."""
    by = {(c.name, c.outcome): c for c in lifts}
    known, random = by[CLASSES, HEADLINE], by[RANDOM, HEADLINE]
    figures = f"known classes have a lift of {_spoken(known)} (p {_p(known)}), features of a random dictionary"
    if not known.holds:
        return "failed", f"The instrument cannot see steering: {figures} {_spoken(random)}."
    if not random.holds:
        return "failed", f"The instrument cannot see steering: {figures} {_spoken(random)}, not less than half of that."
    sentence = f"The instrument sees steering: {figures} {_spoken(random)}"
    if not by[CLASSES, OUTCOMES[1]].holds:
        sentence += f" ({OUTCOMES[1]} does not see it, so that column says nothing)"
    less = by.get(("sae_less_random_dictionary", HEADLINE))
    if less is None:
        return "passed", f"{sentence}."
    if less.holds:
        return "passed", f"{sentence}, and the SAE's features less those {_spoken(less)}."
    return "failed", f"{sentence}; but the SAE's features cannot be told from those (difference {_spoken(less)})."


def _spoken(lift: GateLift) -> str:
    if lift.value is None:
        return "missing"
    interval = "" if lift.low is None else f" [{lift.low:+.3f}, {lift.high:+.3f}]"
    return f"{lift.value:+.3f}{interval}"


def _p(lift: GateLift) -> str:
    return "missing" if lift.p is None else f"{lift.p:.2g}"
