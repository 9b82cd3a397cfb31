"""What every judge is: a request in, a `Judgement` out; never an exception for one item, never an invented number.

A request is data, not a prompt: each back end renders it in its own way (a prompt, token likelihoods, a count of
terms). What could not be judged comes back as `refused`, `unparsed` or `missing` with its reason and without a value.
This module knows no back end and none of the evaluations that ask.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Judgement
from saelab.judges.marks import marked_text


@dataclass(frozen=True, slots=True)
class Request:
    """One question about one text.

    task: what is asked, such as "detection" (does the described feature fire in this window: 0 to 1), or a steering
        rubric ("concept", "instruction", "fluency": 0 to 2).
    text: what is judged. tokens: the same as tokens (`core.bytetext`) where the asker knows them (`text` may then be
        left empty).
    description: of the feature; instruction: the prompt that `text` answers.
    sample: repeats of the same question differ in it, so that a cache keeps them apart.
    graded: a judge that knows the probability of each rating answers with the expected one, not with the likeliest.
    """

    task: str
    text: str = ""
    tokens: tuple[str, ...] = ()
    description: Description | None = None
    instruction: str | None = None
    sample: int = 0
    graded: bool = False

    def judged_text(self) -> str:
        """The text that is judged, joined from tokens where only those were given."""
        return self.text or marked_text(self.tokens)


@runtime_checkable
class Judge(Protocol):
    """Something that answers requests. `name` says which judge (model, version) and stands beside every score."""

    @property
    def name(self) -> str:
        """Such as "lexical", "scripted", "openai:gpt-4o-mini", "local:smollm2-135m"."""
        ...

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        """One judgement per request, in order."""
        ...
