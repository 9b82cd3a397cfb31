"""The lexical judge knows a description's terms and nothing else; the scripted one says what it is told."""

import pytest

from saelab.core.records import Description, Judgement, Term
from saelab.judges.client import Request
from saelab.judges.lexical import LexicalJudge, score_tokens, term_weights
from saelab.judges.scripted import ScriptedJudge, always

PARIS = Description("“ Paris”", (Term(" Paris", 0.9), Term(" in Rome", 0.5), Term(" Rome", 0.1)))


def ask(*tokens: str, description: Description | None = PARIS, task: str = "detection") -> Judgement:
    return LexicalJudge().judge([Request(task, tokens=tokens, description=description)])[0]


def test_a_window_without_terms_scores_zero_and_one_with_the_term_its_weight() -> None:
    assert ask(" a", " b").value == 0
    assert ask(" a", " Paris").value == pytest.approx(0.9)


def test_positions_combine_as_independent_chances() -> None:
    assert ask(" Paris", " x", " Paris").value == pytest.approx(1 - 0.1**2)


def test_a_bigram_counts_in_place_of_its_token_and_only_when_adjacent() -> None:
    assert ask(" in", " Rome").value == pytest.approx(0.5)
    assert ask(" in", " old", " Rome").value == pytest.approx(0.1)
    assert ask(" Rome").value == pytest.approx(0.1)


def test_what_it_cannot_judge_is_missing_and_has_no_value() -> None:
    for answer in (
        ask(" a", description=None),
        ask(" a", description=Description("written by hand")),
        ask(" a", task="fluency"),
        ask(),
    ):
        assert answer.state == "missing" and answer.value is None and answer.reason


def test_scores_stay_in_the_unit_interval() -> None:
    weights = term_weights(Description("x", (Term("a", 1.0), Term("a", 0.3))))
    assert weights == {"a": 1.0}
    assert score_tokens(weights, ["a"] * 50) == 1.0


def test_the_scripted_judge_answers_passes_on_and_goes_missing() -> None:
    refusal = Judgement("refused", None, "scripted", "no")
    judge = ScriptedJudge(lambda r: {"a": 1.0, "b": "no network", "c": refusal}[r.text])
    answers = judge.judge([Request("detection", text=t) for t in "abc"])
    assert [a.state for a in answers] == ["ok", "missing", "refused"]
    assert [a.value for a in answers] == [1.0, None, None]
    assert always(0).judge([Request("detection")])[0].value == 0
