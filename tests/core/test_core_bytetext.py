"""Tokens as bytes: joined they are the text, parts of characters differ, and what is shown is whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saelab.core.bytetext import byte_text, bytes_of, characters_at, has_parts, plain_text, whole_characters
from saelab.judges.marks import marked, marked_text

TEXTS = ["plain", "Пчела летит", "漢字かな", "a漢 б🙂c", "\ufffd itself"]


def cut(text: str, sizes: list[int]) -> list[str]:
    """A text cut into tokens of so many bytes."""
    data, found = text.encode(), []
    for size in sizes * (len(data) + 1):
        if data:
            found.append(byte_text(data[:size]))
            data = data[size:]
    return found


@given(st.binary(max_size=40))
def test_bytes_come_back(data: bytes) -> None:
    assert bytes_of(byte_text(data)) == data or any("\uef80" <= c <= "\uefff" for c in data.decode("utf-8", "ignore"))
    byte_text(data).encode("utf-8")  # any table can hold it


@given(st.text(st.characters(exclude_categories=["Cs", "Co"]), max_size=20), st.lists(st.integers(1, 4), min_size=1))
def test_joined_tokens_are_the_text_however_it_is_cut(text: str, sizes: list[int]) -> None:
    tokens = cut(text, sizes)
    assert plain_text(tokens) == text
    groups = whole_characters(tokens)
    assert [i for g in groups for i in g] == list(range(len(tokens)))
    assert "".join(plain_text([tokens[i] for i in g]) for g in groups) == text
    if text.isascii():
        assert all(len(g) == 1 for g in groups) and not any(map(has_parts, tokens))


def test_different_parts_are_different() -> None:
    """Control: decoded alone they are all U+FFFD."""
    parts = [byte_text(bytes([b])) for b in range(0x80, 0x100)]
    assert len(set(parts)) == 128
    assert {bytes_of(p).decode("utf-8", "replace") for p in parts} == {"\ufffd"}


def test_a_window_is_shown_without_cut_characters() -> None:
    tokens = cut("漢字かな", [1])
    assert plain_text(tokens[1:-1]) == "字か"
    assert "\ufffd" not in plain_text(tokens[2:-2])


@pytest.mark.parametrize(
    ("inner", "expected"), [(range(3, 4), "字"), (range(2, 4), "漢字"), (range(0, 1), "漢"), (range(11, 12), "な")]
)
def test_characters_round_a_part(inner: range, expected: str) -> None:
    tokens = cut("漢字かな", [1])
    assert characters_at(tokens, inner) == expected
    assert characters_at(tokens[1:], range(0, 1)) == "", "an end that is missing is not made up"


def test_marks_stand_round_whole_characters() -> None:
    tokens = cut("a漢b", [1])
    assert marked_text(marked(tokens, [False, False, True, False, False])) == "a<<漢>>b"
    plain = [" the", " cat"]
    assert marked_text(marked(plain, [False, True])) == " the<< cat>>"
