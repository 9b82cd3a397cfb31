"""What language-model judges are asked, and how their words become judgements; nothing is guessed.

Detection may put several windows of one description into one prompt (SAEBench asks 14 at a time); the rubrics of
steering are asked one by one (rubric.py). A reply is read strictly: one final line of the agreed form with values that
exist, or it is `unparsed`; a refusal is `refused`. TEMPLATES name the wording: change it when a prompt changes, so that
cached replies to other words are not used. Texts come from corpora and models: they are shown between marks and
nothing in them is obeyed by this module.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from saelab.core.records import Judgement
from saelab.judges import comparison, rubric
from saelab.judges.answers import answer_lines, failed
from saelab.judges.client import Request
from saelab.judges.comparison import COMPARISON
from saelab.judges.marks import FUZZING

_NUMBERS = re.compile(r"[0-9]{1,9}(?: ?, ?[0-9]{1,9})*")

DETECTION = "detection"
TEMPLATES = {DETECTION: "detection/1", FUZZING: "fuzzing/1"}
ASKED = {
    DETECTION: ("In which excerpts does the feature fire?", "if it fires in none of them"),
    FUZZING: (
        "In some excerpts the tokens in << >> are those at which the feature fires, in others not. In which are they?",
        "if in none of them",
    ),
}


@dataclass(frozen=True)
class Question:
    """One prompt for one or more requests. `read(reply)` gives a judgement per request, in order."""

    items: tuple[int, ...]
    prompt: str
    template: str
    sample: int
    read: Callable[[str], list[Judgement]]

    def problem_of(self, reply: str) -> str | None:
        """What is wrong with a reply's form; None where it can be read (a refusal can)."""
        return next((j.reason for j in self.read(reply) if j.state == "unparsed"), None)


def questions_of(
    requests: Sequence[Request], judge: str, *, together: int = 14, parser: rubric.Parser = "strict"
) -> tuple[list[Question], dict[int, str]]:
    """Questions for the requests, and by index the reason why a request cannot be asked.

    together: windows of one description per prompt. parser: how replies to the rubrics are read.
    """
    questions: list[Question] = []
    unasked: dict[int, str] = {}
    numbered = [(i, r) for i, r in enumerate(requests)]
    for (task, description, sample), group in groupby(numbered, lambda p: (p[1].task, p[1].description, p[1].sample)):
        rows = list(group)
        if task == COMPARISON and description is not None:
            questions += [_compared(i, description.text, request, judge) for i, request in rows]
        elif task not in TEMPLATES:
            for i, request in rows:
                questions.append(_rated(i, request, judge, parser))
        elif description is None or not description.text:
            unasked |= {i: "the request has no description" for i, _ in rows}
        else:
            for start in range(0, len(rows), together):
                part = rows[start : start + together]
                windows = [request.judged_text() for _, request in part]
                n = len(windows)
                questions.append(
                    Question(
                        items=tuple(i for i, _ in part),
                        prompt=detection_prompt(description.text, windows, task),
                        template=TEMPLATES[task],
                        sample=sample,
                        read=lambda reply, n=n: read_detection(reply, n, judge),
                    )
                )
    return questions, unasked


def detection_prompt(description: str, windows: Sequence[str], task: str = DETECTION) -> str:
    """Which of the numbered excerpts make the feature fire, or (fuzzing) have it fire at the marked tokens."""
    asked, none = ASKED[task]
    shown = "\n".join(f"[{i}] {window.replace(chr(10), '↵')}" for i, window in enumerate(windows, start=1))
    return (
        "A feature inside a language model fires on some texts and not on others.\n\n"
        f"[Description of when it fires]\n{description}\n[End of description]\n\n"
        f"[Excerpts, numbered 1 to {len(windows)}]\n{shown}\n[End of excerpts]\n\n"
        f"{asked} End with one line of the form\n"
        f"Active: [[numbers separated by commas]]\nor, {none},\nActive: [[none]]"
    )


def read_detection(reply: str, n: int, judge: str) -> list[Judgement]:
    """1 for the windows named, 0 for the others; the same failure for all n where the reply cannot be read."""
    if (state := failed(reply, "Active", judge)) is not None:
        return [state] * n
    answer = answer_lines(reply, "Active")[0]
    if answer != "none" and not _NUMBERS.fullmatch(answer):
        return _unparsed(n, judge, f"{answer[:40]!r} is not a list of numbers")
    named = [] if answer == "none" else [int(number) for number in answer.split(",")]
    if any(not 1 <= number <= n for number in named):
        return _unparsed(n, judge, f"a number outside 1 to {n}")
    return [Judgement("ok", float(i in named), judge) for i in range(1, n + 1)]


def _compared(i: int, first: str, request: Request, judge: str) -> Question:
    text = comparison.prompt(first, request.judged_text())
    return Question((i,), text, comparison.TEMPLATE, request.sample, lambda r: [comparison.read(r, judge)])


def _rated(i: int, request: Request, judge: str, parser: rubric.Parser) -> Question:
    def read(reply: str) -> list[Judgement]:
        if parser == "axbench":
            return [rubric.read_axbench(reply, judge)]
        return [rubric.parse_strict(reply, judge)]

    return Question((i,), rubric.prompt(request), f"{request.task}/{rubric.TEMPLATE_VERSION}", request.sample, read)


def _unparsed(n: int, judge: str, reason: str) -> list[Judgement]:
    return [Judgement("unparsed", None, judge, reason)] * n
