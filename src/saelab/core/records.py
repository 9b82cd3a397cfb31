"""Frozen records that several stages share: a description with its terms, a judgement.

Records hold plain values. A judgement that failed is a state of its own and carries no value: missing is
never a number.
"""

from dataclasses import dataclass
from typing import Literal

JudgementState = Literal["ok", "refused", "unparsed", "missing"]


@dataclass(frozen=True)
class Term:
    """A token or bigram that drives a feature, as it reads in text, with its weight (share of activation, 0 to 1).

    raw: what it is, as `core.bytetext` writes it, where that is a part of a character: then `text` is the character
    in which it drives the feature most. Empty where `text` says it all.
    """

    text: str
    weight: float
    raw: str = ""


@dataclass(frozen=True)
class Description:
    """What a feature is said to respond to: a sentence, and the terms it was made of (empty for a written one)."""

    text: str
    terms: tuple[Term, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """One answer of a judge. `value` is set only when `state` is "ok"; otherwise `reason` says why there is none."""

    state: JudgementState
    value: float | None
    judge: str
    reason: str | None = None

    def __post_init__(self) -> None:
        if (self.state == "ok") != (self.value is not None):
            raise ValueError(f"a judgement is ok exactly when it has a value: {self.state}, {self.value}")
