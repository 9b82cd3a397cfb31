"""Anchors: the same judge agrees with itself, a changed one is caught, local likelihoods answer without parsing."""

import pytest
from sklearn.metrics import cohen_kappa_score

from saelab.core.errors import JudgeError
from saelab.core.records import Description, Judgement
from saelab.judges.anchors import anchors, drift, judge_anchors, weighted_kappa
from saelab.judges.client import Request
from saelab.judges.local import LocalJudge, likelihood_prompt
from saelab.judges.prompts import detection_prompt, questions_of, read_detection
from saelab.judges.scripted import ScriptedJudge
from saelab.lm.tiny import tiny_lm

EXPECTED = {(r.task, r.text, r.description): e for r, e in anchors()}


def truthful(request: Request) -> int:
    return EXPECTED[(request.task, request.text, request.description)]


def test_there_are_forty_of_four_tasks_with_every_rating() -> None:
    assert len(anchors()) == 40 and len(EXPECTED) == 40
    for task, ratings in (("concept", 3), ("instruction", 3), ("fluency", 3), ("detection", 2)):
        assert len({e for r, e in anchors() if r.task == task}) == ratings


def test_a_judge_that_stays_the_same_passes_and_one_that_changes_is_caught() -> None:
    start = judge_anchors(ScriptedJudge(truthful), 0)
    same = drift(start, judge_anchors(ScriptedJudge(truthful), 1))
    assert same.kappa == 1 and same.kappa_expected == 1 and same.n == 40
    assert same.state == "same"
    changed = drift(start, judge_anchors(ScriptedJudge(lambda r: 2 - truthful(r)), 1))
    assert changed.kappa is not None and changed.kappa < 0 and changed.state == "changed"


def test_rounds_differ_in_their_sample_so_that_no_cache_answers_for_both() -> None:
    seen: list[int] = []
    for moment in (0, 1):
        judge_anchors(ScriptedJudge(lambda r: seen.append(r.sample) or 0), moment)
    assert len(set(seen)) == 2


def test_a_judge_that_answers_too_little_cannot_be_checked() -> None:
    def gives_up(request: Request) -> int:
        raise JudgeError("3 % of the judgements are missing.")

    start = judge_anchors(ScriptedJudge(truthful), 0)
    for answer in (lambda r: "down", gives_up):
        found = drift(start, judge_anchors(ScriptedJudge(answer), 1))
        assert found.record() == {"state": "too_few", "kappa": None, "kappa_expected": 1, "n": 0, "missing": 40}
    few = [a if i < 19 else Judgement("missing", None, "j", "down") for i, a in enumerate(start)]
    assert drift(start, few).state == "too_few" and drift(start, few).kappa == 1
    assert drift(start, few).record()["kappa"] is None, "nineteen items tell nothing"


def test_weighted_kappa_is_the_textbook_one() -> None:
    pairs = [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (2.0, 2.0), (1.0, 0.0), (2.0, 0.0), (0.0, 0.0)]
    a, b = zip(*pairs, strict=True)
    assert weighted_kappa(pairs) == pytest.approx(cohen_kappa_score(a, b, weights="quadratic"))
    assert weighted_kappa([(1.0, 1.0), (1.0, 1.0)]) is None and weighted_kappa([]) is None


# --- prompts ---


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Active: [[2]]", [0, 1, 0]),
        ("Because of x.\n**Active: [[1, 3]]**", [1, 0, 1]),
        ("active: none", [0, 0, 0]),
        ("Active: [[none]].", [0, 0, 0]),
        ("Active: [[4]]", None),
        ("Active: [[0]]", None),
        ("Active: 1\nActive: 2", None),
        ("Active: [[1]]\nActive: [[1]]", [1, 0, 0]),
        ("1, 2", None),
        ("", None),
        ("Active: [[1.5]]", None),
    ],
)
def test_detection_replies_are_read_strictly(reply: str, expected: list[int] | None) -> None:
    answers = read_detection(reply, 3, "j")
    if expected is None:
        assert [a.state for a in answers] == ["unparsed"] * 3
    else:
        assert [a.value for a in answers] == expected
    assert [a.state for a in read_detection("I'm sorry, I can't.", 3, "j")] == ["refused"] * 3


def test_windows_of_one_description_share_a_prompt_and_others_do_not() -> None:
    a, b = Description("a"), Description("b")
    requests = [Request("detection", tokens=("x",), description=d) for d in (a, a, a, b)]
    requests += [Request("detection", tokens=("x",)), Request("fluency", text="t"), Request("fluency", text="t")]
    questions, unasked = questions_of(requests, "j", together=2)
    assert [q.items for q in questions] == [(0, 1), (2,), (3,), (5,), (6,)]
    assert list(unasked) == [4]
    assert "[2] line↵end" in detection_prompt("a", ["x", "line\nend"])


# --- local ---


def test_the_local_judge_reads_likelihoods() -> None:
    judge = LocalJudge(tiny_lm())
    requests = [
        Request("detection", tokens=(" cat",), description=Description("cat")),
        Request("fluency", text="hello"),
        Request("detection", tokens=(" cat",)),
        Request("comparison", text="dogs", description=Description("cats")),
    ]
    first = judge.judge(requests)
    assert [a.state for a in first] == ["ok", "ok", "missing", "ok"]
    assert first[3].value in (1, 2, 3)
    assert 0 < (first[0].value or 0) < 1 and first[1].value in (0, 1, 2)
    one_by_one = [judge.judge([r])[0] for r in requests]
    assert one_by_one[1].value == first[1].value
    assert one_by_one[0].value == pytest.approx(first[0].value, abs=1e-4)
    assert judge.name == "local:tiny-llama"


def test_likelihood_prompts_offer_all_values() -> None:
    prompt, answers = likelihood_prompt(Request("fluency", text="hello"))
    assert answers == ("0", "1", "2") and "hello" in prompt and "explain" not in prompt
    prompt, answers = likelihood_prompt(Request("comparison", text="dogs", description=Description("cats")))
    assert answers == ("1", "2", "3") and "cats" in prompt and "dogs" in prompt and "explain" not in prompt
    assert isinstance(Judgement("ok", 1.0, "j").value, float)
