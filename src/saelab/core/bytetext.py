"""Tokens as the bytes that they are, in strings that any table can hold: the identity of a token that reads nowhere.

A byte-level token may be a part of a character. Its bytes that are no UTF-8 are written as the characters U+EF80 to
U+EFFF (private use), one a byte, so two different parts are two different strings, and a window's tokens joined hold
its bytes again. Such strings are compared and kept; what a person or a judge is shown is `plain_text` of them. Knows no
tokenizer.
"""

import re
from collections.abc import Sequence

_FIRST = 0xEF00  # byte 0x80 is U+EF80
_PARTS = re.compile("[\uef80-\uefff]")


def byte_text(data: bytes) -> str:
    """Bytes as such a string; whole characters are themselves."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(chr(ord(c) - 0xDC00 + _FIRST) if "\udc80" <= c <= "\udcff" else c for c in text)


def bytes_of(text: str) -> bytes:
    """The bytes of such a string."""
    if not _PARTS.search(text):
        return text.encode("utf-8", "replace")
    return b"".join(
        bytes([ord(c) - _FIRST]) if "\uef80" <= c <= "\uefff" else c.encode("utf-8", "replace") for c in text
    )


def has_parts(text: str) -> bool:
    """Whether a token, or several, hold a part of a character."""
    return _PARTS.search(text) is not None


def plain_text(tokens: Sequence[str]) -> str:
    """The text of tokens that stand side by side; characters of which a part is missing at the ends are left out."""
    joined = "".join(tokens)
    return bytes_of(joined).decode("utf-8", "ignore") if has_parts(joined) else joined


def whole_characters(tokens: Sequence[str]) -> list[range]:
    """Which neighbours belong together, so that no character is cut: ranges over the tokens, in order.

    Where no token is a part, each is a range of its own. Parts of a character that is cut off at an end are one range.
    """
    found: list[range] = []
    start, held = 0, b""
    for i, token in enumerate(tokens):
        held += bytes_of(token)
        if has_parts(token) and not _complete(held) and i + 1 < len(tokens) and has_parts(tokens[i + 1]):
            continue
        found.append(range(start, i + 1))
        start, held = i + 1, b""
    return found


def characters_at(tokens: Sequence[str], inner: range) -> str:
    """The whole characters of which the tokens of `inner` hold a part or all; "" where one of their ends is missing."""
    pieces = [bytes_of(t) for t in tokens]
    data = b"".join(pieces)
    first = sum(map(len, pieces[: inner.start]))
    last = first + sum(map(len, pieces[inner.start : inner.stop]))
    while first > 0 and _continues(data[first]):
        first -= 1
    while last < len(data) and _continues(data[last]):
        last += 1
    try:
        return data[first:last].decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _continues(byte: int) -> bool:
    return 0x80 <= byte < 0xC0


def _complete(data: bytes) -> bool:
    """Whether bytes end where a character ends."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason != "unexpected end of data"
    return True
