"""Numbers, missing values and sentences: what they say must be true."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from saelab.report import words
from saelab.report.cells import Strip, figure


@pytest.mark.parametrize("n", [3, 5, 6])
def test_chance_spread_is_the_exact_null(n: int) -> None:
    """The formula equals the standard deviation of tau over all orders of n items; a wrong n does not."""
    taus = [float(kendalltau(range(n), p).statistic) for p in permutations(range(n))]
    assert words.chance_spread(n) == pytest.approx(np.std(taus))
    assert words.chance_spread(n + 1) != pytest.approx(np.std(taus), rel=0.05)


def test_small_groups_are_told_that_they_say_nothing() -> None:
    """Four items can never reach p = 0.05 (2/4! = 0.083); five can."""
    assert "cannot be ranked" in words.allowance(2)
    assert "0.33" in words.allowance(3) and "0.08" in words.allowance(4)
    assert "cannot be told from chance, and" in words.allowance(5)
    assert "0.14" in words.allowance(90) and "0.20" in words.allowance(90)


def test_verdict_follows_the_interval() -> None:
    """Only an interval that leaves zero out is a finding, and its sign is told."""
    assert "better" in words.verdict(0.3, 0.1, 0.5, p=0.01)
    assert "worse" in words.verdict(-0.3, -0.5, -0.1, p=0.01)
    assert "cannot say" in words.verdict(0.6, 0.2, 0.8, p=0.2), "as in the study's verdict"
    assert "includes zero" in words.verdict(0.3, -0.1, 0.6)
    assert "a hint, not a finding" in words.verdict(0.3, -0.1, 0.6, p=0.01)
    assert "a hint" not in words.verdict(0.3, -0.1, 0.6, p=0.2)
    assert "nothing is concluded" in words.verdict(0.3, None, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_infinite_number_is_printed(value: float) -> None:
    with pytest.raises(ValueError, match="missing value"):
        words.number(value)
    cell = figure(value, why="the judge refused", n=3)
    assert (cell.kind, cell.text, cell.note) == ("missing", "missing (3)", "the judge refused")


def test_zero_is_a_number_and_not_missing() -> None:
    """Control: a true zero prints as zero, without a sign."""
    assert figure(0.0).text == "0.00" and figure(0).kind == "number"
    assert words.number(-0.001) == "0.00" and words.percent(-0.0001, signed=True) == "0 %"


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_a_printed_number_reads_back(value: float) -> None:
    """What is printed is the number, rounded."""
    assert float(words.number(value, 3).replace("−", "-").replace(",", "")) == pytest.approx(value, abs=0.00051)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(3.21, "3.2 s"), (59.4, "59 s"), (59.7, "1 min 0 s"), (566, "9 min 26 s"), (7260, "2 h 1 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(("share", "said"), [(0.0, "0.0 %"), (0.0001, "<0.1 %"), (0.0337, "3.4 %"), (1.0, "100.0 %")])
def test_a_small_share_is_not_zero(share: float, said: str) -> None:
    assert words.percent(share, 1) == said


@given(st.text(st.characters()))
def test_visible_text_can_be_written_and_hides_nothing(text: str) -> None:
    """Any text, lone surrogates included, becomes text that UTF-8 can hold, with no control or format character."""
    shown = words.visible(text)
    shown.encode("utf-8")
    assert not any(ord(c) < 32 or c in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff" for c in shown)
    assert words.visible("plain text, ünïcödé 中文") == "plain text, ünïcödé 中文"


def test_a_strip_stays_on_its_scale() -> None:
    """-1, 0 and 1 are the ends and the middle; what lies beyond is cut, not drawn outside."""
    assert [Strip.place(v) for v in (-1, 0, 1, 3)] == ["0.0", "50.0", "100.0", "100.0"]
    assert Strip.span(-1, 1) == "100.0" and math.isclose(float(Strip.span(-2, 0)), 50)
