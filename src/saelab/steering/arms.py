"""Arms: which features of an SAE are steered with, and what chose them. An arm is a line of data in a study file.

    arms: [{criterion: delta_confidence, tail: both, n: 5}, {criterion: output_score, n: 10}, {random: 48}]

A criterion's arm holds its `n` extreme features of each tail asked for; the one `random` arm is a seeded draw and
stands for the SAE without selection. Any criterion of the catalogue may have any number of arms. No model runs here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from pydantic import Field, model_validator

from saelab.core.config import Config
from saelab.core.errors import UserError, nearest
from saelab.core.seeds import numpy_generator
from saelab.selection.choose import Tail, choose
from saelab.selection.criteria.catalogue import CRITERIA

RANDOM = "random"
DRAWN = 48  # features of the random arm by default
# What study files said before arms were data, and the criterion that each key chose by.
FORMER: Mapping[str, str] = {
    "n_random": RANDOM,
    "top_per_direction": "delta_confidence",
    "top_output": "output_score",
}


class Arm(Config):
    """One arm: `{criterion: NAME, tail: up|down|both, n: K}` or `{random: N}`."""

    criterion: str | None = Field(default=None, description="Score that chooses, of selection's catalogue.")
    tail: Tail | None = Field(
        default=None, description="Largest scores (up), smallest (down) or both; by default as the criterion says."
    )
    n: int | None = Field(default=None, ge=1, description="Features of each tail.")
    random: int | None = Field(default=None, ge=1, description="Features drawn at random, instead of a criterion.")

    @model_validator(mode="before")
    @classmethod
    def _with_its_tail(cls, data: Any) -> Any:
        known = CRITERIA.get(str(data.get("criterion"))) if isinstance(data, dict) else None
        return {"tail": known.tail} | data if known is not None and data.get("tail") is None else data

    @model_validator(mode="after")
    def _is_one_of_the_two(self) -> "Arm":
        if self.random is not None:
            if (self.criterion, self.tail, self.n) != (None, None, None):
                raise ValueError("an arm is {random: N} or {criterion: NAME, n: K}, not both")
        elif self.criterion is None or self.n is None:
            raise ValueError("an arm is {random: N} or {criterion: NAME, n: K}")
        elif self.criterion not in CRITERIA:
            raise ValueError(f"there is no criterion {self.criterion!r}; {nearest(self.criterion, CRITERIA)}")
        return self

    @property
    def size(self) -> int:
        """The most features it can hold."""
        return self.random or (self.n or 0) * (2 if self.tail == "both" else 1)


def default_arms() -> tuple[Arm, ...]:
    """Those of the criteria that are usually chosen by, and the random one."""
    return (*(Arm(criterion=c.name, n=c.chosen) for c in CRITERIA.values() if c.chosen), Arm(random=DRAWN))


def from_former_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which `n_random`, `top_per_direction` and `top_output` are said as arms; others as they are."""
    said = {name: data[key] for key, name in FORMER.items() if key in data}
    if not said:
        return dict(data)
    if "arms" in data:
        raise ValueError(f"say {', '.join(k for k in FORMER if k in data)} as arms, beside the others in `arms`")
    sizes = {a.criterion or RANDOM: a.n or a.random for a in default_arms()} | said
    arms = [{"criterion": name, "n": n} for name, n in sizes.items() if name != RANDOM and n]
    return {k: v for k, v in data.items() if k not in FORMER} | {"arms": [*arms, {RANDOM: sizes[RANDOM]}]}


def named(arms: Sequence[Arm]) -> dict[str, Arm]:
    """Arms by name: `random`, the criterion, or `CRITERION.TAIL.N` where a criterion has several. One is random."""
    own = Counter(a.criterion for a in arms)
    if own[None] != 1:
        raise ValueError("arms need one {random: N}: the SAE's score without selection")
    names = [a.criterion or RANDOM if own[a.criterion] == 1 else f"{a.criterion}.{a.tail}.{a.n}" for a in arms]
    if len(set(names)) < len(names) or (names.count(RANDOM), RANDOM in own) != (1, False):
        raise ValueError("two arms are the same")
    return dict(zip(names, arms, strict=True))


def label(name: str, arm: Arm) -> str:
    """An arm in words."""
    known = CRITERIA[arm.criterion].label if arm.criterion else "no selection"
    return known if name == arm.criterion or arm.random else f"{known}, {arm.tail}, {arm.n}"


def filled(arms: Sequence[Arm], features: pl.DataFrame, effects: pl.DataFrame, seed: int) -> dict[str, list[int]]:
    """Features of each arm, ascending, the random arm first. `features` are candidates, `effects` have the scores.

    Raises `UserError` where there is no candidate or no column of a criterion's scores.
    """
    pool = features["feature"].to_list()
    if not pool:
        raise UserError(
            "No feature of this SAE fired and has a description, so none can be steered.",
            hint="Look at the interp stage: are all features dead?",
        )
    mine = effects.filter(pl.col("feature").is_in(pool))
    found: dict[str, list[int]] = {}
    for name, arm in sorted(named(arms).items(), key=lambda item: item[1].random is None):
        if arm.random is not None:
            drawn = numpy_generator(seed, "steering", "random_arm").choice(pool, min(arm.random, len(pool)), False)
            found[name] = sorted(int(f) for f in drawn)
        elif arm.criterion is not None and arm.tail is not None:
            found[name] = choose(mine, arm.criterion, arm.tail, arm.n or 0)
    return found
