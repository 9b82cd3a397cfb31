"""Answers: on the disk at once, taken back, damaged, of other texts."""

import json
from pathlib import Path

import pytest
from some_sets import some_sets

from saelab.core.errors import UserError
from saelab.human.agreement import left_out
from saelab.human.answers import Answered, AnswerFile, raters_of
from saelab.human.session import RatingSession
from saelab.human.trials import trials_of
from saelab.store.folders import HumanFolder


def test_an_answer_is_kept_before_the_next_and_can_be_taken_back(tmp_path: Path) -> None:
    trials, folder = trials_of(some_sets(), 0), HumanFolder(tmp_path / "human")

    def session() -> RatingSession:  # as after a kill
        return RatingSession(trials, AnswerFile(folder, "anna"), 3)

    first = session().now()["trial"]["key"]
    second = session().take({"trial": first, "answer": "left"})
    assert (second["done"], second["total"]) == (1, 3) and second["trial"]["key"] != first
    session().take({"trial": second["trial"]["key"], "answer": "skip"})
    assert session().now()["done"] == 2
    assert session().undo()["trial"]["key"] == second["trial"]["key"]
    assert session().undo()["trial"]["key"] == first and session().now()["done"] == 0
    with pytest.raises(UserError, match="no answer to take back"):
        session().undo()
    for n, answer in enumerate(("right", "neither", "left")):
        now = session().take({"trial": trials[n].key, "answer": answer})
    assert now["trial"] is None and AnswerFile(folder, "anna").read().choices == {
        trials[0].key: "right", trials[1].key: "neither", trials[2].key: "left",
    }  # fmt: skip
    assert raters_of(folder) == ["anna"] and session().report()["rows"]


def test_the_table_waits_for_the_last_trial(tmp_path: Path) -> None:
    session = RatingSession(trials_of(some_sets(), 0), AnswerFile(HumanFolder(tmp_path), "anna"), 3)
    with pytest.raises(UserError, match="after the last"):
        session.report()


@pytest.mark.parametrize("data", [None, [], {"trial": 1}, {"trial": "x", "answer": "left"}, {"answer": "both"},
                                  {"trial": [], "answer": "left"}])  # fmt: skip
def test_what_is_no_answer_is_a_sentence(tmp_path: Path, data: object) -> None:
    session = RatingSession(trials_of(some_sets(), 0), AnswerFile(HumanFolder(tmp_path), "anna"), 3)
    with pytest.raises(UserError):
        session.take(data)
    assert session.now()["done"] == 0


def test_a_line_that_was_cut_off_is_counted_and_the_others_hold(tmp_path: Path) -> None:
    answers = AnswerFile(HumanFolder(tmp_path), "anna")
    answers.add("a", "left")
    with HumanFolder(tmp_path).answers("anna").open("ab") as file:
        file.write(b'{"trial": "b", "ans')
    answers.add("c", "right")
    found = answers.read()
    assert found.choices == {"a": "left", "c": "right"} and found.damaged == 1
    assert "1 lines of anna's answers are damaged" in left_out([], {"anna": found})[1]
    for bad in ("[]", '{"trial": 3}', '{"trial": "a", "answer": "up"}', '"x"'):
        with HumanFolder(tmp_path).answers("anna").open("a") as file:
            file.write(bad + "\n")
    assert answers.read().damaged == 5 and answers.read().choices == found.choices


def test_answers_to_other_texts_are_said_and_not_mixed_in(tmp_path: Path) -> None:
    trials = trials_of(some_sets(), 0)
    given = {"anna": Answered({trials[0].key: "left", "another": "right"})}
    assert left_out(trials, given) == [
        "1 answers of anna are of texts that this run no longer holds; they are left out."
    ]
    assert not left_out(trials, {"anna": Answered({trials[0].key: "left"})})


def test_nothing_is_written_through_a_link_nor_under_a_name_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    folder = HumanFolder(tmp_path / "human")
    folder.answers("anna").parent.mkdir(parents=True)
    folder.answers("anna").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link"):
        AnswerFile(folder, "anna").add("a", "left")
    assert (tmp_path / "elsewhere").read_text() == ""
    for name in ("../anna", "", ".anna", "a/b"):
        with pytest.raises(UserError, match="cannot be called so"):
            AnswerFile(folder, name)


def test_a_line_says_which_trial_and_nothing_of_it(tmp_path: Path) -> None:
    AnswerFile(HumanFolder(tmp_path), "anna").add("a", "left")
    line = json.loads(HumanFolder(tmp_path).answers("anna").read_text())
    assert set(line) == {"trial", "answer", "at"}
