"""Marked tokens: how the question of fuzzing is put. A window is shown with some of its tokens in << >>.

Fuzzing asks whether the marks stand where the described feature fires. Marks are part of the tokens themselves, so a
request needs no field of its own and a language-model judge reads what a person would.
"""

from collections.abc import Sequence

from saelab.core.bytetext import plain_text, whole_characters

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


def marked_text(tokens: Sequence[str]) -> str:
    """The text of a window whose tokens may be marked; a character is marked where one of its parts is."""
    bare, flags = unmarked(tokens)
    if not any(flags):
        return plain_text(tokens)
    found = []
    for group in whole_characters(bare):
        text = plain_text([bare[i] for i in group])
        found.append(f"{OPEN}{text}{CLOSE}" if text and any(flags[i] for i in group) else text)
    return "".join(found)
