"""Ratings: the harmonic mean, our parser that counts failures, and AxBench's that hides them."""

import pytest

from saelab.core.errors import UserError
from saelab.core.records import Description
from saelab.judges.client import Request
from saelab.judges.endpoint import ChatConfig
from saelab.judges.openai_compatible import OpenAIJudge
from saelab.judges.prompts import questions_of
from saelab.judges.rubric import RUBRICS, harmonic_mean, parse_axbench, parse_strict, prompt

# reply, AxBench's rule, ours (a value, or the state)
REPLIES = [
    ("Rating: [[2]]", 2.0, 2.0),
    ("**Rating: [[1]]**", 1.0, 1.0),
    ("Rating: [[1.5]]", 1.5, "unparsed"),
    ("Rating: [[3]]", 0.0, "unparsed"),
    ("Rating: 2/2", 0.0, "unparsed"),
    ("rating: 1", 0.0, 1.0),
    ("Rating: [[0]]\nOn reflection:\nRating: [[2]]", 2.0, "unparsed"),
    ("A rating: 2 needs more than this.\nRating: [[1]]", 1.0, 1.0),
    ("Rating: [[1]]\nRating: [[1]]", 1.0, 1.0),
    ("Rating: [[0]] ... Rating: [[2]]", 2.0, "unparsed"),
    ("", 0.0, "unparsed"),
    ("It reads well.\n\nRating: [[2]].", 2.0, 2.0),
    ('Rating: "1"', 1.0, "unparsed"),
    ("I'm sorry, but I cannot rate this text.", 0.0, "refused"),
    ("The rating is high.", 0.0, "unparsed"),
    ("Rating: [[-1]]", 0.0, "unparsed"),
    ("Rating: [[0]]", 0.0, 0.0),
]


@pytest.mark.parametrize(("reply", "axbench", "strict"), REPLIES)
def test_parsers(reply: str, axbench: float, strict: float | str) -> None:
    assert parse_axbench(reply) == axbench
    ours = parse_strict(reply, "j")
    if isinstance(strict, str):
        assert (ours.state, ours.value) == (strict, None)
        assert ours.reason
    else:
        assert (ours.state, ours.value) == ("ok", strict)


def test_a_failure_is_told_from_a_zero() -> None:
    """AxBench's rule cannot tell them apart; ours can."""
    assert parse_axbench("") == parse_axbench("Rating: [[0]]")
    assert parse_strict("", "j").state != parse_strict("Rating: [[0]]", "j").state


def test_the_benchmarks_parser_is_a_mode_that_leaves_its_mark() -> None:
    """The same replies under both modes: the failures that become 0.0 keep their reason and can be counted."""
    request = Request("fluency", "text")
    for reply, axbench, strict in REPLIES:
        (question,), _ = questions_of([request], "j", parser="axbench")
        (found,) = question.read(reply)
        assert (found.state, found.value) == ("ok", axbench) and question.problem_of(reply) is None
        assert (found.reason is None) == isinstance(strict, float)
    config = ChatConfig(model="m", base_url="http://127.0.0.1:9/v1")
    assert OpenAIJudge(config, parser="axbench").name == OpenAIJudge(config).name + "+axbench-parser"


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [((2, 2, 2), 2.0), ((1, 1, 1), 1.0), ((2, 2, 0), 0.0), ((0, 0, 0), 0.0), ((1, 1, 2), 1.2), ((1, 2, 2), 1.5)],
)
def test_harmonic_mean(ratings: tuple[float, ...], expected: float) -> None:
    assert harmonic_mean(ratings) == pytest.approx(expected)


def test_harmonic_mean_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        harmonic_mean([1, -1, 2])
    with pytest.raises(ValueError, match="at least 0"):
        harmonic_mean([])


def test_prompts_show_each_rubric_only_what_it_reads() -> None:
    request = {"text": "TEXT", "description": Description("CONCEPT"), "instruction": "INSTRUCTION"}
    shown = {name: prompt(Request(name, **request)) for name in RUBRICS}
    for name, rubric in RUBRICS.items():
        assert "TEXT" in shown[name] and "Rating: [[x]]" in shown[name]
        assert ("CONCEPT" in shown[name]) == (rubric.reads == "concept")
        assert ("INSTRUCTION" in shown[name]) == (rubric.reads == "instruction")


def test_a_rubric_without_its_material_is_an_error() -> None:
    with pytest.raises(UserError, match="concept"):
        prompt(Request("concept", "text"))
    with pytest.raises(UserError, match="fluency"):
        prompt(Request("fluensy", "text"))
