"""The gate: a measurement of steering speaks only where it can see steering, and sees none where there is none.

    positive   known classes, direction and reader from disjoint halves, at the dose of the grid that dev chose: lift
               above 0 by its interval over classes and by exchanging readers (p < 0.01)
    negative   the random dictionary under its own readers: `described` lift below half of the classes'
    SAE        where one is given: `described` lift above the random dictionary's by an interval that excludes 0

A dose is a KL (dose.py): every set is moved as far as gives its own median direction that KL. Failed means that nothing
here may be called steering. `described`, the headline, decides; `read_back` has a positive control of its own, without
which its column says nothing. Without classes nothing was tested: "not gated", which is neither of the two. Knows no
file: `run.py` keeps the texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from jaxtyping import Float
from pydantic import Field, model_validator

from saelab.core.config import Config
from saelab.core.progress import SILENT, Progress
from saelab.instrument.controls import Control, difference_of, exchanged_readers, lift_of
from saelab.instrument.dose import Chosen, Curve, Probe, choose, curve
from saelab.instrument.outcomes import LEAST_REFERENCES, UNSTEERED, by_feature
from saelab.instrument.readers import Features, described, read_back
from saelab.instrument.texts import Desk, Job, matrix_of, texts_of

OUTCOMES = ("described", "read_back")
HEADLINE = OUTCOMES[0]
P = 0.01
LEAST_TEXTS = 16

# Gives the table of a named set of texts: from a former run, or by calling what writes it.
Keep = Callable[[str, Callable[[], pl.DataFrame]], pl.DataFrame]


class GateConfig(Config):
    """How much is written and read."""

    doses: tuple[float, ...] = Field(default=(0.1, 0.3, 0.7, 1.5), min_length=1, description="KL per token, in nats.")
    prompts: int = Field(default=2, ge=1, le=4, description="Instructions, and as many openings.")
    dev_copies: int = Field(default=2, ge=1, description="Texts of a class per prompt and dose, to choose the dose.")
    test_copies: int = Field(default=4, ge=1, description="Further texts of a class per prompt, at that dose.")
    feature_copies: int = Field(default=1, ge=1, description="Texts of a feature per prompt.")
    unsteered_copies: int = Field(default=20, ge=1, description="Unsteered texts per prompt.")
    n_features: int = Field(default=64, ge=3, description="Features of the random dictionary, and of the SAE.")
    width: int = Field(default=2048, ge=16, description="Features in the random dictionary; an SAE's own beside one.")
    l0: int = Field(default=32, ge=1, description="Its active features; an SAE's own beside one.")
    new_tokens: int = Field(default=24, ge=4, description="Tokens of a text, at most.")
    temperature: float = Field(default=0.7, ge=0)
    batch_size: int = Field(default=256, ge=1, description="Texts written together.")
    contexts: int = Field(default=640, ge=8, description="Contexts of ordinary text that features are read from.")
    context: int = Field(default=128, ge=32, description="Tokens per context.")
    probe_contexts: int = Field(default=6, ge=1, description="Contexts on which KL is measured, of 48 tokens.")
    class_texts: int = Field(default=64, ge=16, description="Texts of a class: half steer, half read.")
    seed: int = 0

    @model_validator(mode="after")
    def _enough(self) -> "GateConfig":
        if 2 * self.prompts * self.test_copies < LEAST_TEXTS:
            raise ValueError(f"a class needs at least {LEAST_TEXTS} texts: 2 x prompts x test_copies")
        if self.prompts * self.unsteered_copies < LEAST_REFERENCES:
            raise ValueError(
                f"scores need at least {LEAST_REFERENCES} unsteered texts of a kind: prompts x unsteered_copies"
            )
        return self


@dataclass(frozen=True)
class Gate:
    """What the gate found.

    dose: chosen on dev, in nats. strengths: distance of each set, in activation units. doses: the dose response, a row
    per dose and outcome (lift, low, high, n, how the texts look). features: a row per set, outcome and feature.
    """

    state: Literal["passed", "failed", "not_gated"]
    sentence: str
    dose: float | None
    controls: tuple[Control, ...]
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
            "controls": [asdict(control) for control in self.controls],
            "dose_response": self.doses.to_dicts(),
        }


def not_gated(reason: str) -> Gate:
    """Nothing was tested, and why."""
    return Gate("not_gated", f"Not gated: {reason}", None, (), {}, pl.DataFrame(), pl.DataFrame())


@dataclass(frozen=True)
class Sets:
    """What is steered with: classes, the random dictionary's features, an SAE's; and what the texts of the last two are
    kept under, so that gates of several SAEs share all that is not their own."""

    classes: Features
    random: Features
    sae: Features | None = None
    random_key: str = "random_dictionary"
    sae_key: str = "sae"


def gate(config: GateConfig, desk: Desk, probe: Probe, sets: Sets, keep: Keep, progress: Progress = SILENT) -> Gate:
    """Write, read and judge; `keep` holds the texts of each step, so that a killed gate goes on."""
    work = _Work(config, desk, probe, keep, progress)
    found = work.dev(sets.classes)
    if found.dose is None:
        reason = "at no dose is the lift of known classes above 0"
        return work.result("failed", f"The instrument cannot see steering: {reason} (no_dev_signal).", None)
    numbers = range(config.dev_copies, config.dev_copies + config.test_copies)
    classes = work.at(found.dose, "classes", sets.classes, numbers)
    random = work.at(found.dose, "random_dictionary", sets.random, range(config.feature_copies), sets.random_key)
    controls = [
        *(_positive(classes, outcome, config.seed) for outcome in OUTCOMES),
        *_negative(classes, random, config.seed),
    ]
    if sets.sae is not None:
        sae = work.at(found.dose, "sae", sets.sae, range(config.feature_copies), sets.sae_key)
        controls += [_less(sae, random, outcome, config.seed) for outcome in OUTCOMES]
        controls += [lift_of("sae", outcome, sae.tables[outcome], seed=config.seed) for outcome in OUTCOMES]
    work.controls = tuple(controls)
    return work.result(*_verdict(controls), found.dose)


@dataclass(frozen=True)
class _Measured:
    """A set's texts, its readings by outcome, and their tables by feature."""

    name: str
    table: pl.DataFrame
    values: dict[str, Float[np.ndarray, "N K"]]
    tables: dict[str, pl.DataFrame]


class _Work:
    """The steps of one gate and what they leave."""

    def __init__(self, config: GateConfig, desk: Desk, probe: Probe, keep: Keep, progress: Progress):
        self.config, self.desk, self.probe, self.keep, self.progress = config, desk, probe, keep, progress
        jobs = desk.jobs([UNSTEERED], 0.0, 0.0, range(config.unsteered_copies))
        nowhere = np.zeros((1, desk.lm.d_model))
        self.unsteered = keep("unsteered", lambda: desk.write("unsteered", jobs, nowhere, progress))
        self.curves: dict[str, Curve] = {}
        self.strengths: dict[str, float] = {}
        self.controls: tuple[Control, ...] = ()
        self.doses: list[dict[str, Any]] = []
        self.features: list[pl.DataFrame] = []

    def dev(self, classes: Features) -> Chosen:
        """The dose response of the classes, and the dose that the tests are written at."""
        lifts = {}
        for dose in self.config.doses:
            found = self.measured("classes.dev", classes, dose, range(self.config.dev_copies))
            texts = found.table.filter(pl.col("owner") != UNSTEERED)
            for outcome in OUTCOMES:
                control = lift_of(f"dev {dose:g}", outcome, found.tables[outcome], seed=self.config.seed)
                self.doses.append(
                    {"dose": dose, "outcome": outcome, "lift": control.value, "low": control.low, "high": control.high}
                    | {"n": control.n, "n_missing": control.n_missing, "strength": texts["strength"][0]}
                    | {"share": texts["share"][0], "nll": texts["nll"].mean(), "distinct": texts["distinct"].mean()}
                )
            lifts[dose] = found.tables[HEADLINE]["lift"].fill_null(np.nan).to_numpy()
        return choose(lifts, seed=self.config.seed)

    def at(self, dose: float, name: str, features: Features, copies: Sequence[int], key: str = "") -> _Measured:
        """A set at the chosen dose, its table kept for the result."""
        found = self.measured(name, features, dose, copies, key)
        self.strengths[name] = float(found.table["strength"][0])
        for outcome, table in found.tables.items():
            labels = pl.DataFrame({"set": name, "outcome": outcome, "name": list(features.names)})
            self.features.append(pl.concat([labels, table], how="horizontal"))
        return found

    def measured(self, name: str, features: Features, dose: float, copies: Sequence[int], key: str = "") -> _Measured:
        """Write a set's texts at a dose (kept under `key`) and read them beside the unsteered ones."""
        strength = self._distance(name.split(".")[0], features, dose)
        jobs: list[Job] = self.desk.jobs(range(len(features)), dose, strength, copies)
        written = self.keep(
            f"{key or name}.{dose:g}", lambda: self.desk.write(name, jobs, features.directions, self.progress)
        )
        both = pl.concat([written, self.unsteered])
        texts = texts_of(both)
        values = {
            "described": described(matrix_of(both, "vector"), features),
            "read_back": read_back(matrix_of(both, "state"), features),
        }
        return _Measured(name, both, values, {outcome: by_feature(v, texts) for outcome, v in values.items()})

    def _distance(self, name: str, features: Features, dose: float) -> float:
        if name not in self.curves:
            wanted = self.config.doses
            self.curves[name] = curve(self.probe, features.directions, wanted, progress=self.progress)
        return self.curves[name].distance(dose)

    def result(self, state: Literal["passed", "failed"], sentence: str, dose: float | None) -> Gate:
        features = pl.concat(self.features) if self.features else pl.DataFrame()
        doses = pl.DataFrame(self.doses)
        return Gate(state, sentence, dose, self.controls, self.strengths, doses, features)


def _positive(classes: _Measured, outcome: str, seed: int) -> Control:
    plain = lift_of("classes", outcome, classes.tables[outcome], seed=seed)
    p = exchanged_readers(classes.values[outcome], texts_of(classes.table), seed=seed)
    return _with(plain, p=p, bound=0.0, holds=plain.low is not None and plain.low > 0 and p is not None and p < P)


def _negative(classes: _Measured, random: _Measured, seed: int) -> list[Control]:
    """`described` is held against half of the classes' lift; `read_back`, an echo, is shown and gates nothing."""
    bound = classes.tables[HEADLINE]["lift"].mean()
    half = 0.5 * bound if isinstance(bound, float) else None
    plain, echo = (lift_of("random_dictionary", o, random.tables[o], seed=seed) for o in OUTCOMES)
    below = plain.value is not None and half is not None and plain.value < half
    return [_with(plain, bound=half, holds=below), echo]


def _less(sae: _Measured, random: _Measured, outcome: str, seed: int) -> Control:
    name = "sae_less_random_dictionary"
    plain = difference_of(name, outcome, sae.tables[outcome], random.tables[outcome], seed=seed)
    if outcome != HEADLINE:
        return plain
    return _with(plain, bound=0.0, holds=plain.low is not None and plain.low > 0)


def _with(control: Control, **changes: Any) -> Control:
    return Control(**(asdict(control) | changes))


def _verdict(controls: Sequence[Control]) -> tuple[Literal["passed", "failed"], str]:
    """Passed where no control of the headline is lost, and the sentence that says so or which one is."""
    by = {(c.name, c.outcome): c for c in controls}
    known, random = by["classes", HEADLINE], by["random_dictionary", HEADLINE]
    figures = f"known classes have a lift of {_spoken(known)} (p {_p(known)}), features of a random dictionary"
    if not known.holds:
        return "failed", f"The instrument cannot see steering: {figures} {_spoken(random)}."
    if not random.holds:
        return "failed", f"The instrument cannot see steering: {figures} {_spoken(random)}, not less than half of that."
    sentence = f"The instrument sees steering: {figures} {_spoken(random)}"
    if not by["classes", OUTCOMES[1]].holds:
        sentence += f" ({OUTCOMES[1]} does not see it, so that column says nothing)"
    less = by.get(("sae_less_random_dictionary", HEADLINE))
    if less is None:
        return "passed", f"{sentence}."
    if less.holds:
        return "passed", f"{sentence}, and the SAE's features less those {_spoken(less)}."
    return "failed", f"{sentence}; but the SAE's features cannot be told from those (difference {_spoken(less)})."


def _spoken(control: Control) -> str:
    if control.value is None:
        return "missing"
    interval = "" if control.low is None else f" [{control.low:+.3f}, {control.high:+.3f}]"
    return f"{control.value:+.3f}{interval}"


def _p(control: Control) -> str:
    return "missing" if control.p is None else f"{control.p:.2g}"
