"""Descriptions of matched features compared: an oracle separates them from the null, a biased or mute judge is seen."""

from collections.abc import Sequence

import numpy as np
import pytest

from saelab.core.records import Description, Judgement
from saelab.core.seeds import numpy_generator
from saelab.judges.client import Request
from saelab.judges.comparison import prompt, read
from saelab.judges.embedding import EmbeddingJudge
from saelab.judges.prompts import questions_of
from saelab.judges.scripted import ScriptedJudge, always
from saelab.matching.described import compared, same_level, summarised

N = 40
ORDER = np.random.default_rng(0).permutation(N)
FIRST = {i: Description(f"topic {i}") for i in range(N)}
SECOND = {int(ORDER[i]): Description(f"topic {i}") for i in range(N)}


def oracle(request: Request) -> float:
    assert request.description is not None
    return 3.0 if request.description.text == request.text else 1.0


def test_an_oracle_separates_matched_pairs_from_the_null() -> None:
    found = summarised(compared(ScriptedJudge(oracle), FIRST, SECOND, {"matched": ORDER}, again=FIRST, pairs=20))
    assert [found[k]["mean"] for k in ("matched", "random", "same")] == [3, 1, 3]
    assert found["matched"]["pairs"] == found["random"]["pairs"] == 20
    wrong = summarised(compared(ScriptedJudge(oracle), FIRST, SECOND, {"matched": np.roll(ORDER, 1)}))
    assert wrong["matched"]["mean"] == 1, "control"


def test_several_matchings_stand_beside_one_null() -> None:
    both = {"good": ORDER, "bad": np.roll(ORDER, 1)}
    table = compared(ScriptedJudge(oracle), FIRST, SECOND, both, pairs=20)
    found = summarised(table)
    assert (found["good"]["same"], found["bad"]["same"], found["random"]["pairs"]) == (1, 0, 20)
    asked = [table.filter(kind=kind)["a"].to_list() for kind in both]
    assert asked[0] == asked[1], "of the same features"


def test_an_embedding_is_the_same_above_its_own_null() -> None:
    """A judge by meaning answers no 3: the level is what one random pair in twenty exceeds."""
    meanings = numpy_generator("meanings").normal(size=(N, 8))
    topic = lambda text: meanings[int(text.split()[1])]  # noqa: E731

    class Vectors:
        name = "vectors"

        def __call__(self, texts: Sequence[str]) -> np.ndarray:
            found = np.array([topic(text) for text in texts])
            return found / np.linalg.norm(found, axis=1, keepdims=True)

    table = compared(EmbeddingJudge(Vectors()), FIRST, SECOND, {"matched": ORDER})
    level = same_level(table, scale=False)
    assert level is not None and 0.5 < level < 1
    found = summarised(table, level)
    assert found["matched"]["same"] == 1 and found["random"]["same"] <= 0.05
    assert found["matched"]["mean"] == pytest.approx(1) and found["matched"]["orders_disagree"] == 0
    assert same_level(table, scale=True) == 3 and summarised(table)["matched"]["same"] == 0, "control: another scale"


def test_a_judge_that_prefers_a_place_and_one_that_is_mute_are_seen() -> None:
    turn = iter(range(10**6))
    place = ScriptedJudge(lambda _: 3.0 if next(turn) % 2 else 1.0)
    assert summarised(compared(place, FIRST, SECOND, {"matched": ORDER}))["matched"]["orders_disagree"] == 1
    mute = summarised(compared(ScriptedJudge(lambda _: "no answer"), FIRST, SECOND, {"matched": ORDER}))["matched"]
    assert mute["mean"] is None and mute["missing"] == N
    assert summarised(compared(always(2), FIRST, SECOND, {"matched": ORDER}))["matched"]["orders_disagree"] == 0


@pytest.mark.parametrize(("reply", "value"), [("Both.\nAnswer: [[3]]", 3), ("**Answer: 1**", 1)])
def test_a_reply_is_read(reply: str, value: int) -> None:
    assert read(reply, "j") == Judgement("ok", float(value), "j")


@pytest.mark.parametrize("reply", ["3", "Answer: [[0]]", "Answer: [[2.5]]", "Answer: 4", ""])
def test_what_cannot_be_read_has_no_value(reply: str) -> None:
    assert read(reply, "j").state == "unparsed" and read(reply, "j").value is None


def test_the_question_shows_both_and_is_asked_singly() -> None:
    requests = [Request("comparison", text=f"b{i}", description=Description("a")) for i in range(3)]
    questions, unasked = questions_of(requests, "j")
    assert len(questions) == 3 and not unasked
    assert questions[1].prompt == prompt("a", "b1") and "b1" in questions[1].prompt
    assert questions[0].read("Answer: [[2]]")[0].value == 2
