"""A local instruct LM as a judge, by the likelihoods of its possible answers; no reply is written or parsed.

    p(answer) = exp(-NLL(answer | prompt)) / sum over the answers

Detection and fuzzing: the value is p("Yes"). Rubrics: the most likely of 0, 1, 2, or sum v p(v) where a request asks
for a graded value; comparisons: the most likely of 1, 2, 3. Nothing can be refused or garbled, and the same request
gives the same value; whether a small model's values mean anything, anchors and AUROC show.
"""

from collections.abc import Sequence

import torch

from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Judgement
from saelab.judges import comparison, rubric
from saelab.judges.client import Request
from saelab.judges.comparison import COMPARISON
from saelab.judges.marks import FUZZING
from saelab.judges.prompts import DETECTION
from saelab.lm.model import LanguageModel

TOGETHER = 32


class LocalJudge:
    """Judges by what a loaded language model would answer."""

    def __init__(self, lm: LanguageModel):
        self._lm = lm

    @property
    def name(self) -> str:
        return f"local:{self._lm.name}"

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        """One judgement per request: p(yes) for detection, 0 to 2 for a rubric, 1 to 3 for a comparison."""
        found: dict[int, Judgement] = {}
        prompts: list[tuple[int, list[int], tuple[str, ...]]] = []
        for i, request in enumerate(requests):
            try:
                prompt, answers = likelihood_prompt(request)
            except UserError as error:
                found[i] = Judgement("missing", None, self.name, error.message)
                continue
            prompts.append((i, self._lm.chat(prompt), answers))
        with progress.task(f"judging by {self._lm.name}", len(prompts), "requests") as task:
            for start in range(0, len(prompts), TOGETHER):
                part = prompts[start : start + TOGETHER]
                for (i, _, answers), shares in zip(part, self._shares(part), strict=True):
                    found[i] = Judgement("ok", _value(answers, shares, graded=requests[i].graded), self.name)
                task.advance(len(part))
        return [found[i] for i in range(len(requests))]

    def _shares(self, part: Sequence[tuple[int, list[int], tuple[str, ...]]]) -> list[torch.Tensor]:
        """p(answer) for each prompt."""
        prefixes = [ids for _, ids, answers in part for _ in answers]
        continuations = [self._lm.tokenize([a], bos=False)[0] for _, _, answers in part for a in answers]
        costs = iter(float(nll.sum()) for nll in self._lm.nll(prefixes, continuations))
        return [torch.softmax(-torch.tensor([next(costs) for _ in answers]), 0) for _, _, answers in part]


def _value(answers: Sequence[str], shares: torch.Tensor, *, graded: bool) -> float:
    """p(yes), the likeliest rating, or the expected one."""
    if answers == ("No", "Yes"):
        return float(shares[1])
    if graded:
        return float(sum(float(a) * float(p) for a, p in zip(answers, shares, strict=True)))
    return float(answers[int(shares.argmax())])


def likelihood_prompt(request: Request) -> tuple[str, tuple[str, ...]]:
    """The prompt and its possible answers, lowest value first; `UserError` where the request lacks what it reads."""
    if request.task == COMPARISON and request.description is not None:
        asked = comparison.prompt(request.description.text, request.text).rsplit("First explain", 1)[0]
        return asked + "Answer with the number alone: 1, 2 or 3.", ("1", "2", "3")
    if request.task not in (DETECTION, FUZZING):
        asked = rubric.prompt(request).rsplit("First explain", 1)[0]
        return asked + "Answer with the rating alone: 0, 1 or 2.", ("0", "1", "2")
    if request.description is None or not request.description.text:
        raise UserError("The request has no description.")
    question = "Does the feature fire on this text?"
    if request.task == FUZZING:
        question = "Are the tokens in << >> those at which the feature fires?"
    return (
        f"A feature fires on texts that contain: {request.description.text}\n\n"
        f"Text: {request.judged_text()}\n\n{question} Answer Yes or No.",
        ("No", "Yes"),
    )
