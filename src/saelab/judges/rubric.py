"""How a steered text is rated: three rubrics from 0 to 2, their harmonic mean, and how a judge's words become a number.

The rubrics are those of AxBench (arXiv 2501.17148, section 4 and its judge prompts, in our own words): is the concept
in the text, does the text answer the instruction, does it read well. The score of a text is the harmonic mean of the
three, zero when any is zero.

`parse_strict` is ours: a reply without exactly readable integer rating is `unparsed`, a refusal is `refused`, and
neither is ever a number. `parse_axbench` reproduces the benchmark's parser, which turns every failure into 0.0; a judge
reads by it only where its `parser` is "axbench", and then its name says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from saelab.core.errors import UserError, nearest
from saelab.core.records import Judgement
from saelab.judges.answers import read_number
from saelab.judges.client import Request

RubricName = Literal["concept", "instruction", "fluency"]
Parser = Literal["strict", "axbench"]
TEMPLATE_VERSION = "1"


@dataclass(frozen=True)
class Rubric:
    """One question about a text. `reads` names what the judge is shown beside the text."""

    name: RubricName
    question: str
    scale: tuple[str, str, str]
    reads: Literal["concept", "instruction", "nothing"]


RUBRICS: dict[RubricName, Rubric] = {
    r.name: r
    for r in (
        Rubric(
            "concept",
            "Is the concept clearly part of the text? Leave grammar and coherence aside.",
            ("the concept is absent", "it is there, but barely or awkwardly", "it is fully and naturally there"),
            "concept",
        ),
        Rubric(
            "instruction",
            "Is the text related to the instruction? Judge the topic only; leave quality aside.",
            ("unrelated", "related a little or indirectly", "clearly related"),
            "instruction",
        ),
        Rubric(
            "fluency",
            "Does the text read well? Leave completeness and relevance aside.",
            ("incomprehensible or repetitive", "readable with noticeable errors", "fluent, close to perfect"),
            "nothing",
        ),
    )
}


def rubric_of(task: str) -> Rubric:
    """The rubric of this name, or a `UserError`."""
    for name, rubric in RUBRICS.items():
        if name == task:
            return rubric
    raise UserError(f"There is no rubric {task!r}.", hint=nearest(task, RUBRICS))


def prompt(request: Request) -> str:
    """The question for a language-model judge: explain first, then one line `Rating: [[x]]`.

    `request.task` names the rubric; what it reads (description or instruction) must be given.
    """
    rubric = rubric_of(request.task)
    concept = request.description.text if request.description is not None else None
    shown = {"concept": f"[Concept]\n{concept}\n\n", "instruction": f"[Instruction]\n{request.instruction}\n\n"}
    if {"concept": concept, "instruction": request.instruction, "nothing": ""}[rubric.reads] is None:
        raise UserError(f"The rubric {rubric.name!r} reads the {rubric.reads}, and the request has none.")
    scale = "\n".join(f"{value}: {meaning}" for value, meaning in enumerate(rubric.scale))
    return (
        f"{rubric.question}\n\n{shown.get(rubric.reads, '')}[Text]\n{request.judged_text()}\n[End of text]\n\n"
        f"Ratings:\n{scale}\n\nFirst explain in one or two sentences. Then end with one line of the form\n"
        "Rating: [[x]]\nwhere x is 0, 1 or 2."
    )


def harmonic_mean(ratings: Sequence[float | int]) -> float:
    """n / sum(1 / r), and 0 if any rating is 0. Ratings of 0 to 2 give 0 to 2."""
    if not ratings or min(ratings) < 0:
        raise ValueError(f"a harmonic mean needs ratings of at least 0: {list(ratings)}")
    return 0.0 if min(ratings) == 0 else len(ratings) / sum(1 / r for r in ratings)


def parse_strict(reply: str, judge: str) -> Judgement:
    """The line `Rating: [[x]]` with x in {0, 1, 2}, or a state that says what went wrong (answers.py)."""
    return read_number(reply, "Rating", 0, 2, judge)


def parse_axbench(reply: str) -> float:
    """AxBench's rule, for comparison with its numbers only: every failure is 0.0.

    Text after the last "Rating:", its first line, brackets dropped, one trailing full stop and quotes, stars and
    spaces stripped, read as a float; missing, unreadable or outside [0, 2] gives 0.0.
    """
    if "Rating:" not in reply:
        return 0.0
    words = reply.rsplit("Rating:", 1)[1].strip().split("\n")[0]
    words = words.replace("[", "").replace("]", "").rstrip(".").strip("\"'* ")
    try:
        value = float(words)
    except ValueError:
        return 0.0
    return value if 0 <= value <= 2 else 0.0


def read_axbench(reply: str, judge: str) -> Judgement:
    """AxBench's number as a judgement; the reason says where our parser would have refused to give one."""
    strict = parse_strict(reply, judge)
    hidden = None if strict.state == "ok" else f"{strict.state} by the strict parser: {strict.reason}"
    return Judgement("ok", parse_axbench(reply), judge, hidden)
