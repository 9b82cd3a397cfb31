"""Marked tokens: how the question of fuzzing is put. A window is shown with some of its tokens in << >>.

Fuzzing asks whether the marks stand where the described feature fires. Marks are part of the tokens themselves, so a
request needs no field of its own and a language-model judge reads what a person would.
"""

from collections.abc import Sequence

FUZZING = "fuzzing"
OPEN, CLOSE = "<<", ">>"


def marked(tokens: Sequence[str], where: Sequence[bool]) -> tuple[str, ...]:
    """The tokens with those at True in marks."""
    return tuple(f"{OPEN}{t}{CLOSE}" if mark else t for t, mark in zip(tokens, where, strict=True))


def unmarked(tokens: Sequence[str]) -> tuple[tuple[str, ...], tuple[bool, ...]]:
    """The bare tokens, and which of them were marked."""
    flags = tuple(t.startswith(OPEN) and t.endswith(CLOSE) and len(t) > len(OPEN + CLOSE) for t in tokens)
    bare = tuple(t[len(OPEN) : -len(CLOSE)] if flag else t for t, flag in zip(tokens, flags, strict=True))
    return bare, flags
