"""The answer line of a reply, `Rating: [[2]]` or `Active: [[1, 4]]`, read strictly and in one way for every question.

Case, emphasis and missing brackets are forgiven. Two lines that differ are no answer, a reply that opens with a refusal
is one whatever follows, and what an explanation says in passing does not count. Knows no question and no scale.
"""

import re

from saelab.core.records import Judgement
from saelab.judges.refusals import refuses

_NUMBER = re.compile(r"\[*\s*(-?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*\]*")


def answer_lines(reply: str, word: str) -> list[str]:
    """What follows `word:` at the beginning of a line, brackets and emphasis taken off, each different one once."""
    line = re.compile(rf"^[\s*_#>]*{word}[\s*_]*:[\s*_]*(.*?)[\s*_.]*$", re.IGNORECASE | re.MULTILINE)
    found = (re.sub(r"\s+", " ", match).strip("[] ").lower() for match in line.findall(reply))
    return list(dict.fromkeys(found))


def failed(reply: str, word: str, judge: str) -> Judgement | None:
    """Why a reply has not exactly one answer: `refused` or `unparsed`; None where it has one."""
    lines = answer_lines(reply, word)
    if refuses(reply, answered=bool(lines)):
        return Judgement("refused", None, judge, reply.strip()[:200])
    if not lines:
        return Judgement("unparsed", None, judge, f"no line '{word}: [[...]]' in a reply of {len(reply)} characters")
    if len(lines) > 1:
        return Judgement("unparsed", None, judge, f"more than one {word.lower()}")
    return None


def read_number(reply: str, word: str, low: int, high: int, judge: str) -> Judgement:
    """A whole number of the scale as a judgement, or the state that says what went wrong."""
    if (state := failed(reply, word, judge)) is not None:
        return state
    answer = answer_lines(reply, word)[0]
    number = _NUMBER.fullmatch(answer)
    if number is None:
        return Judgement("unparsed", None, judge, f"{word.lower()} {answer[:20]!r} is not a number")
    if "." in number[1] or not low <= int(number[1]) <= high:
        return Judgement("unparsed", None, judge, f"{word.lower()} {number[1]} is off the scale {low} to {high}")
    return Judgement("ok", float(int(number[1])), judge)
