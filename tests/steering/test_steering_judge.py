"""The lexical steering judge on a tiny model: concepts by count, empty and missing told apart, and its calibration."""

import pytest

from saelab.core.errors import UserError
from saelab.core.records import Description, Term
from saelab.judges.client import Request
from saelab.judges.steering_lexical import (
    Calibration,
    LexicalSteeringJudge,
    calibrate,
    distinct_bigrams,
    occurrences,
)
from saelab.lm.tiny import tiny_lm

ANSWERS = ("the cat sat on the mat", "a dog ran to the red house", "we like the sea and the sun", "no one is at home")
CUTS = Calibration(
    lm="tiny", answers=ANSWERS, unrelated=0.1, related=0.5, relatedness_auroc=1.0, fluent=3.0, broken=99.0,
    fluency_auroc=1.0, distinct=0.5,
)  # fmt: skip
PARIS = Description("Paris", (Term(" Paris", 0.8), Term("Eiffel Tower", 0.8), Term(" Seine", 0.4)))


@pytest.fixture(scope="module")
def judge() -> LexicalSteeringJudge:
    return LexicalSteeringJudge(tiny_lm(), CUTS)


def rate(judge: LexicalSteeringJudge, task: str, text: str, concept: Description | None = None) -> float | None:
    return judge.judge([Request(task, text, (), concept, "Tell me of a town.")])[0].value


def test_concept_counts_terms(judge: LexicalSteeringJudge) -> None:
    assert rate(judge, "concept", "nothing of the kind", PARIS) == 0
    assert rate(judge, "concept", "paris", PARIS) == 1, "no matter the case or the blank before it"
    assert rate(judge, "concept", "Go to Paris, see the Eiffel Tower", PARIS) == 2
    assert rate(judge, "concept", "the Seine", PARIS) == 1, "half a term rounds up"


def test_a_word_of_every_text_is_no_concept(judge: LexicalSteeringJudge) -> None:
    """ "the" is in most unsteered texts: as many as usual score nothing, many more do."""
    the = Description("the", (Term(" the", 1.0),))
    assert rate(judge, "concept", "one is red and the house is on the sea", the) == 0
    assert rate(judge, "concept", "the the the the", the) == 2


def test_longest_term_first_and_no_overlap() -> None:
    terms = {("new", "york"): 1.0, ("new",): 0.25, ("york",): 0.25}
    assert occurrences(["in", "new", "york", "the", "new", "one"], terms) == 1.25
    assert distinct_bigrams(["a", "b", "a", "b", "a", "b"]) == pytest.approx(2 / 5)
    assert distinct_bigrams(["a"]) == 1.0


def test_a_loop_is_not_fluent_however_likely(judge: LexicalSteeringJudge) -> None:
    """Likelihood alone would pass it: these cuts call every text likely."""
    easy = LexicalSteeringJudge(tiny_lm(), CUTS.model_copy(update={"fluent": 98.0}))
    assert rate(easy, "fluency", "a dog ran to the red house") == 2
    assert rate(easy, "fluency", "no no no no no no no no no no no no") == 0


def test_empty_is_rated_and_missing_is_not(judge: LexicalSteeringJudge) -> None:
    empty = judge.judge([Request(task, "", (), PARIS, "Say.") for task in ("concept", "instruction", "fluency")])
    assert [(a.state, a.value) for a in empty] == [("ok", 0.0)] * 3
    absent = judge.judge(
        [Request("concept", "text"), Request("concept", "text", (), Description("x")), Request("instruction", "text")]
    )
    assert [(a.state, a.value) for a in absent] == [("missing", None)] * 3
    assert all(a.reason for a in absent)


def test_answers_keep_their_order_and_do_not_depend_on_company(judge: LexicalSteeringJudge) -> None:
    requests = [
        Request(task, text, (), PARIS, instruction)
        for text in ANSWERS
        for instruction in ("Say this.", "Say that.")
        for task in ("concept", "instruction", "fluency")
    ]
    together = judge.judge(requests)
    alone = [judge.judge([r])[0] for r in requests]
    assert [a.value for a in together] == [a.value for a in alone]
    assert {a.judge for a in together} == {"lexical"}


def test_calibration_is_repeatable_and_ordered() -> None:
    lm = tiny_lm()
    instructions = [f"Say {i}." for i in range(12)]
    first = calibrate(lm, instructions, max_new_tokens=48)
    assert first == calibrate(lm, instructions, max_new_tokens=48)
    assert first != calibrate(lm, instructions, max_new_tokens=48, seed=1)
    assert first.unrelated <= first.related and first.fluent <= first.broken
    assert Calibration.parse(first.model_dump(mode="json")) == first
    with pytest.raises(UserError, match="at least 8"):
        calibrate(lm, instructions[:5])
