"""What the instrument has the model write: half answers to instructions, half continuations of plain openings.

Texts of all features answer the same few prompts, so that a percentile among them compares features, not prompts. Must
never know directions or scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.lm.model import LanguageModel
from saelab.text.instructions import load_instructions

OPENINGS = ("I think that", "The", "There is", "When we")


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it; answer: an instruction is answered (else an opening goes on)."""

    text: str
    answer: bool
    ids: tuple[int, ...]


def prompts_of(lm: LanguageModel, *, each: int, seed: int, instructions: Sequence[str] = ()) -> list[Prompt]:
    """`each` instructions, drawn from those given (by default the forty that are shipped), and `each` openings."""
    known = list(instructions) or load_instructions()
    if not 1 <= each <= min(len(known), len(OPENINGS)):
        raise UserError(f"There are {len(known)} instructions and {len(OPENINGS)} openings, not {each} of each.")
    order = numpy_generator(seed, "instrument", "instructions").permutation(len(known))
    asked = [known[int(i)] for i in order[:each]]
    return [
        *(Prompt(text, True, tuple(lm.chat(text))) for text in asked),
        *(Prompt(text, False, tuple(lm.tokenize([text])[0])) for text in OPENINGS[:each]),
    ]
