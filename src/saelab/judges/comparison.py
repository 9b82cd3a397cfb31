"""Do two descriptions name the same feature? 1 different, 2 maybe, 3 same (the scale of arXiv 2410.07656, App. C).

The wording is ours. The order of the two is the asker's to swap: judges prefer a place. A reply is read strictly, as in
answers.py: one line with a value on the scale, or no value at all.
"""

from saelab.core.records import Judgement
from saelab.judges.answers import read_number

COMPARISON = "comparison"
TEMPLATE = "comparison/1"
SCALE = ("different", "maybe the same", "the same")


def prompt(first: str, second: str) -> str:
    """The question."""
    scale = "\n".join(f"{value}: {meaning}" for value, meaning in enumerate(SCALE, 1))
    return (
        "Two parts of a language model are described by what they respond to. Do the descriptions mean the same thing, "
        "whatever their wording? Which one stands first says nothing.\n\n"
        f"[First]\n{first}\n[Second]\n{second}\n[End]\n\nAnswers:\n{scale}\n\n"
        "First explain in one sentence. Then end with one line of the form\nAnswer: [[x]]\nwhere x is 1, 2 or 3."
    )


def read(reply: str, judge: str) -> Judgement:
    """The line `Answer: [[x]]`, or a state that says what went wrong."""
    return read_number(reply, "Answer", 1, len(SCALE), judge)
