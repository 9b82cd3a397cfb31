"""The `lexical` judge: does a text hold the terms of a description? A named proxy, not a language model's opinion.

Detection score of a window of tokens t_1..t_n, with w(term) in [0, 1] the description's weight (the share of the term's
occurrences at which the feature fired, in the text the description was made from):

    score = 1 - prod_i (1 - w_i),    w_i = w(t_{i-1} t_i) where that bigram is a term, else w(t_i), else 0

the probability that at least one position fires if positions fire independently. Where to cut the score into yes and
no is the asker's to calibrate, on windows the description was made from. Fuzzing: the same over the marked tokens only.
A description without terms cannot be judged here: its judgement is `missing`, not 0. The steering rubrics are in
steering_lexical.py.
"""

from collections.abc import Sequence

from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Judgement
from saelab.judges.client import Request
from saelab.judges.marks import FUZZING, unmarked

NAME = "lexical"


class LexicalJudge:
    """Detection by the description's own tokens and bigrams."""

    @property
    def name(self) -> str:
        return NAME

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        """Scores in [0, 1] for detection and fuzzing requests with tokens and a description with terms."""
        del progress
        weights: dict[int, dict[str, float]] = {}
        answers = []
        for request in requests:
            if (reason := _unanswerable(request)) or request.description is None:
                answers.append(Judgement("missing", None, NAME, reason))
                continue
            key = id(request.description)
            if key not in weights:
                weights[key] = term_weights(request.description)
            tokens, counted = unmarked(request.tokens) if request.task == FUZZING else (request.tokens, None)
            answers.append(Judgement("ok", score_tokens(weights[key], tokens, counted), NAME))
        return answers


def term_weights(description: Description) -> dict[str, float]:
    """Weight by text; a text that names both a token and a bigram keeps the larger weight."""
    found: dict[str, float] = {}
    for term in description.terms:
        name = term.raw or term.text
        found[name] = max(found.get(name, 0.0), term.weight)
    return found


def score_tokens(weights: dict[str, float], tokens: Sequence[str], counted: Sequence[bool] | None = None) -> float:
    """The noisy-or above, in [0, 1], over the counted positions (None: all)."""
    silent, previous = 1.0, ""
    for i, token in enumerate(tokens):
        if counted is not None and not counted[i]:
            previous = token
            continue
        weight = weights.get(previous + token) if previous else None
        if weight is None:
            weight = weights.get(token, 0.0)
        silent *= 1.0 - weight
        previous = token
    return min(1.0, max(0.0, 1.0 - silent))


def _unanswerable(request: Request) -> str | None:
    if request.task not in ("detection", FUZZING):
        return f"the lexical detection judge does not answer {request.task!r}"
    if request.description is None or not request.description.terms:
        return "the description has no terms"
    if not request.tokens:
        return "the request has no tokens"
    return None
