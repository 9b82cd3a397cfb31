"""The `lexical` judge: does a text hold the terms of a description? A named proxy, not a language model's opinion.

Detection score of a window of tokens t_1..t_n, with w(term) in [0, 1] the description's weight (the share of the term's
occurrences at which the feature fired, in the text the description was made from):

    score = 1 - prod_i (1 - w_i),    w_i = w(t_{i-1} t_i) where that bigram is a term, else w(t_i), else 0

the probability that at least one position fires if positions fire independently. Where to cut the score into yes and
no is the asker's to calibrate, on windows the description was made from. A description without terms cannot be judged
here: its judgement is `missing`, not 0. Only detection is answered; the steering rubrics are in steering_lexical.py.
"""

from collections.abc import Sequence

from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Judgement
from saelab.judges.client import Request

NAME = "lexical"


class LexicalJudge:
    """Detection by the description's own tokens and bigrams."""

    @property
    def name(self) -> str:
        return NAME

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        """Scores in [0, 1] for requests with task "detection", tokens, and a description with terms."""
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
            answers.append(Judgement("ok", score_tokens(weights[key], request.tokens), NAME))
        return answers


def term_weights(description: Description) -> dict[str, float]:
    """Weight by text; a text that names both a token and a bigram keeps the larger weight."""
    found: dict[str, float] = {}
    for term in description.terms:
        found[term.text] = max(found.get(term.text, 0.0), term.weight)
    return found


def score_tokens(weights: dict[str, float], tokens: Sequence[str]) -> float:
    """The noisy-or above, in [0, 1]."""
    silent, previous = 1.0, ""
    for token in tokens:
        weight = weights.get(previous + token) if previous else None
        if weight is None:
            weight = weights.get(token, 0.0)
        silent *= 1.0 - weight
        previous = token
    return min(1.0, max(0.0, 1.0 - silent))


def _unanswerable(request: Request) -> str | None:
    if request.task != "detection":
        return f"the lexical detection judge does not answer {request.task!r}"
    if request.description is None or not request.description.terms:
        return "the description has no terms"
    if not request.tokens:
        return "the request has no tokens"
    return None
