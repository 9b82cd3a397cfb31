"""A written concept's terms, for judges that count words: which words its texts hold and other texts do not.

A word's weight is the share of the concept's texts that hold it less the share of the others, relative to the best
word; kept are the words of at least half of that. With texts of other concepts by the same writer among the others,
words of the writer and of the task drop out. Pure text; a judge that reads sentences needs only the concept itself.
"""

import re
from collections import Counter
from collections.abc import Sequence

from saelab.core.errors import UserError
from saelab.core.records import Description, Term

WORD = re.compile(r"[^\W\d_]\w+")


def describe(
    concept: str, shown: Sequence[str], others: Sequence[str], *, n_terms: int = 12, least: float = 0.5
) -> Description:
    """The concept's sentence with its words as terms, heaviest first (weights relative to it, so 1, then at least
    `least`). Raises `UserError` where no word tells the concept's texts from the others.
    """
    here, there = _shares(shown), _shares(others)
    gain = {word: share - there.get(word, 0.0) for word, share in here.items()}
    best = max(gain.values(), default=0.0)
    if not best > 0:
        raise UserError(
            f"No word tells the texts of {concept!r} from the others.",
            hint="Give texts that show the concept, or judge with a language model.",
        )
    kept = sorted((word for word, g in gain.items() if g >= least * best), key=lambda w: (-gain[w], w))[:n_terms]
    return Description(concept, tuple(Term(f" {word}", round(gain[word] / best, 6)) for word in kept))


def _shares(texts: Sequence[str]) -> dict[str, float]:
    """Share of texts that hold each word."""
    count = Counter(word for text in texts for word in set(WORD.findall(text.lower())))
    return {word: n / len(texts) for word, n in count.items()}
