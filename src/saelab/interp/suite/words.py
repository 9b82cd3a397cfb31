"""The words of a vocabulary in spelling prompts, read at the word: the data of absorption.

A word is a token of ASCII letters with at most one space before it. Its prompt is a line end, some spelt examples drawn
from the same part of the vocabulary, and the word as its own token:

    <word> has the first letter: <LETTER>
    ...
    <word>                                     (the activation is read here)

The LM never runs on the rest of the line: what follows a token cannot change its activation. One pass for all sites.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.seeds import numpy_generator
from saelab.interp.suite.pooled import read_ids
from saelab.lm.model import LanguageModel

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEMPLATE = "{word} has the first letter:"


@dataclass(frozen=True)
class WordActivations:
    """Activations at words, and the words' letters. `again`: the test words in other prompts."""

    train: Float[Tensor, "N D"]
    train_letters: Int[Tensor, " N"]
    test: Float[Tensor, "M D"]
    test_letters: Int[Tensor, " M"]
    again: Float[Tensor, "M D"]


@dataclass(frozen=True)
class Vocabulary:
    """Word tokens: ids, how each reads, and its letter (0 to 25)."""

    ids: Int[np.ndarray, " N"]
    strings: tuple[str, ...]
    letters: Int[np.ndarray, " N"]


def vocabulary(strings: Sequence[str], count: int, seed: int) -> Vocabulary:
    """Up to `count` words, drawn at random; strings: how each id of the LM's vocabulary reads."""
    found = [i for i, s in enumerate(strings) if s.isascii() and s.removeprefix(" ").isalpha()]
    if len(found) < 10:
        raise UserError(f"The vocabulary has {len(found)} words of plain letters; absorption needs many.")
    drawn: list[int] = numpy_generator(seed, "vocabulary").permutation(np.array(found))[:count].tolist()
    texts = tuple(strings[i] for i in drawn)
    return Vocabulary(np.array(drawn), texts, np.array([LETTERS.index(t.strip()[0].lower()) for t in texts]))


def read_words(
    lm: LanguageModel,
    sites: Sequence[str],
    *,
    count: int,
    examples: int,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress = SILENT,
) -> dict[str, WordActivations]:
    """Train words once, test words in two different prompts each, at every site.

    count: words of the vocabulary at most. examples: spelt words before each.
    """
    words = vocabulary(lm.token_strings(range(lm.vocab_size)), count, seed)
    cut = int(0.8 * len(words.ids))
    train, test = np.arange(cut), np.arange(cut, len(words.ids))
    parts = [(train, "train"), (test, "test"), (test, "again")]
    texts = [text for rows, name in parts for text in _examples(words, rows, examples, seed, name)]
    own = np.concatenate([words.ids[rows] for rows, _ in parts])
    ids = [[*before, int(word)] for before, word in zip(lm.tokenize(texts), own, strict=True)]
    context = max(map(len, ids))
    read = read_ids(lm, ids, sites, context=context, last=True, batch_size=batch_size, progress=progress)
    sizes, letters = [len(rows) for rows, _ in parts], torch.from_numpy(words.letters)
    found = {}
    for site, rows in read.items():
        first, second, third = rows.rows.float().split(sizes)
        found[site] = WordActivations(first, letters[:cut], second, letters[cut:], third)
    return found


def _examples(words: Vocabulary, rows: np.ndarray, count: int, seed: int, part: str) -> list[str]:
    """What stands before each word: a line end and `count` spelt words of the same part."""
    texts = []
    for row in rows.tolist():
        drawn = numpy_generator(seed, "spelling", part, int(words.ids[row])).permutation(rows)
        lines = []
        for other in [i for i in drawn[: count + 1].tolist() if i != row][:count]:
            letter = LETTERS[int(words.letters[other])].upper()
            lines.append(f"{TEMPLATE.format(word=words.strings[other])} {letter}\n")
        texts.append("\n" + "".join(lines))
    return texts
