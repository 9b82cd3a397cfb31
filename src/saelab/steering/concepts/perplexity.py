"""Perplexity of what was written, always by the unsteered model and always given the plain instruction.

    exp( mean over the text's tokens of -ln p(token | chat(instruction), the tokens before it) )

AxBench scores prompt and text together for some methods, the text alone for others, and trained models by themselves;
here every method's texts get one yardstick. Likelihoods come from `LanguageModel.nll`, which takes no edits.
"""

import math
from collections.abc import Sequence

from saelab.core.errors import UserError
from saelab.lm.model import LanguageModel


def unsteered_perplexity(lm: LanguageModel, instructions: Sequence[str], texts: Sequence[str]) -> list[float | None]:
    """Perplexity of each text as an answer to its instruction; None for a text without tokens."""
    if len(instructions) != len(texts):
        raise UserError(f"There are {len(instructions)} instructions for {len(texts)} texts.")
    prefixes = [lm.chat(instruction) for instruction in instructions]
    found = lm.nll(prefixes, lm.tokenize(list(texts), bos=False))
    return [math.exp(float(nll.mean())) if len(nll) else None for nll in found]
