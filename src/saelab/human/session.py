"""One rater before one run's trials: which is next, what is kept, when it is done. Must never know HTML or a server.

What goes to the page is what may be seen: words of a feature, a prompt, two texts. Which text is which stays here.
"""

import threading
from collections.abc import Sequence
from typing import Any

import polars as pl

from saelab.core.errors import UserError
from saelab.human.agreement import agreement_of, left_out
from saelab.human.answers import ANSWERS, AnswerFile
from saelab.human.trials import BlindTrial


class RatingSession:
    """Trials in their order and the answers of one rater. trials: all of the run; count: how many are asked."""

    def __init__(self, trials: Sequence[BlindTrial], answers: AnswerFile, count: int):
        self.trials, self.asked, self.answers = trials, trials[:count], answers
        self._lock = threading.Lock()

    def now(self) -> dict[str, Any]:
        """How far the rater is, and the next trial as it is shown; None where all are answered."""
        choices = self.answers.read().choices
        left = [t for t in self.asked if t.key not in choices]
        done = len(self.asked) - len(left)
        found = {"rater": self.answers.rater, "done": done, "total": len(self.asked), "trial": None}
        return found | ({"trial": _seen(left[0])} if left else {})

    def take(self, data: Any) -> dict[str, Any]:
        """Keep an answer, `{trial, answer}`. Raises `UserError` for what is none."""
        if not isinstance(data, dict) or data.get("answer") not in ANSWERS:
            raise UserError(f"An answer is one of {', '.join(ANSWERS)}.")
        if data.get("trial") not in [t.key for t in self.asked]:
            raise UserError("There is no such trial.", hint="Load the page again.")
        with self._lock:
            self.answers.add(data["trial"], data["answer"])
        return self.now()

    def undo(self) -> dict[str, Any]:
        """Take the last answer back. Raises `UserError` where there is none."""
        with self._lock:
            here = {t.key for t in self.asked}
            given = [key for key in self.answers.read().choices if key in here]
            if not given:
                raise UserError("There is no answer to take back.")
            self.answers.add(given[-1], None)
        return self.now()

    def report(self) -> dict[str, Any]:
        """What the rater's answers come to. Raises `UserError` before the last: it would tell what is right."""
        if self.now()["trial"] is not None:
            raise UserError("The table comes after the last trial.")
        table, notes = self.so_far()
        return {"rows": table.to_dicts(), "notes": notes}

    def so_far(self) -> tuple[pl.DataFrame, list[str]]:
        """The rater's own rows of `agreement_of`, and what is left out."""
        own = {self.answers.rater: self.answers.read()}
        return agreement_of(self.trials, own), left_out(self.trials, own)


def _seen(trial: BlindTrial) -> dict[str, Any]:
    terms, _, examples = trial.about.partition("\n")
    if not examples:  # no term stands out: the examples are all there is
        terms, examples = "", trial.about
    return {
        "key": trial.key, "terms": terms, "examples": examples.partition(": ")[2].split(" | "),
        "prompt": trial.prompt, "answer": trial.answer, "left": trial.left, "right": trial.right,
    }  # fmt: skip
