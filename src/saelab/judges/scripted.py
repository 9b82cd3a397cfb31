"""A judge that answers by a function, for tests and known answers: an oracle, a liar, one that always says no.

It ships with the package so that a study can be rehearsed, failures included, without a model or a network.
"""

from collections.abc import Callable, Sequence

from saelab.core.progress import SILENT, Progress
from saelab.core.records import Judgement
from saelab.judges.client import Request

Answer = float | int | str | Judgement


class ScriptedJudge:
    """Answers each request with `answer(request)`.

    A number is an ok judgement; a string is a reason why the answer is missing; a `Judgement` is passed through.
    """

    def __init__(self, answer: Callable[[Request], Answer], *, name: str = "scripted"):
        self._answer = answer
        self._name = name

    @property
    def name(self) -> str:
        return self._name

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        del progress
        return [self._judgement(self._answer(request)) for request in requests]

    def _judgement(self, answer: Answer) -> Judgement:
        if isinstance(answer, Judgement):
            return answer
        if isinstance(answer, str):
            return Judgement("missing", None, self._name, answer)
        return Judgement("ok", float(answer), self._name)


def always(value: float | int) -> ScriptedJudge:
    """A judge that gives every request the same value: `always(0)` answers "None" to every detection."""
    return ScriptedJudge(lambda _: value, name=f"always-{value:g}")
