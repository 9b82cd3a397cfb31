"""Detection: cuts set on the describing windows only, known answers, failures that stay failures."""

import numpy as np
import pytest

from saelab.core.classifiers import auroc
from saelab.core.records import Description, Judgement
from saelab.interp.features.detection import Trial, best_cut, detect
from saelab.judges.client import Request
from saelab.judges.scripted import ScriptedJudge, always


def trial(n_active: int = 4, n_inactive: int = 10) -> Trial:
    """Windows that say in their first token whether they are active, in the second whether they are for testing."""
    active = np.arange(n_active + n_inactive) < n_active
    windows = {s: tuple((f"{a:d}", s) for a in active) for s in ("describe", "test")}
    return Trial(3, Description("d"), windows["describe"], active, windows["test"], active)


def test_a_judge_that_knows_the_truth_is_right() -> None:
    (found,) = detect([trial()], ScriptedJudge(lambda r: float(r.tokens[0])))
    assert (found.accuracy, found.balanced_accuracy, found.auroc) == (1, 1, 1)
    assert found.n_windows == 14 and found.n_missing == 0


@pytest.mark.parametrize("calibrated", [True, False])
def test_always_none_earns_its_share_of_negatives_and_no_balanced_accuracy(calibrated: bool) -> None:
    (found,) = detect([trial()], always(0), calibrated=calibrated)
    assert found.accuracy == pytest.approx(10 / 14)
    assert found.balanced_accuracy == 0.5 and found.auroc == 0.5


def test_the_cut_is_set_on_the_describing_windows() -> None:
    """Scores that separate the classes at 0.1 there keep that cut on test windows, whatever those hold."""
    asked: list[Request] = []

    def answer(request: Request) -> float:
        asked.append(request)
        return (0.2 if request.tokens[0] == "1" else 0.0) if request.tokens[1] == "describe" else 0.15

    (found,) = detect([trial()], ScriptedJudge(answer))
    assert found.cut == pytest.approx(0.1)
    assert found.accuracy == pytest.approx(4 / 14)
    asked.clear()
    detect([trial()], ScriptedJudge(answer), calibrated=False)
    assert {r.tokens[1] for r in asked} == {"test"}


def test_missing_judgements_are_left_out_and_counted() -> None:
    """Control: a missing answer taken for a "no" would lower the accuracy of this perfect judge."""
    answers = iter(["timeout", 1, 1, 1, *[0] * 9, Judgement("refused", None, "scripted", "sorry")])
    (found,) = detect([trial()], ScriptedJudge(lambda _: next(answers)), calibrated=False)
    assert found.accuracy == 1 and found.n_windows == 12 and found.n_missing == 2


def test_a_class_without_answers_gives_no_score() -> None:
    judge = ScriptedJudge(lambda r: "down" if r.tokens[0] == "1" else 0)
    (found,) = detect([trial()], judge, calibrated=False)
    assert found.accuracy is None and found.auroc is None and found.n_missing == 4


def test_trials_keep_their_answers_apart() -> None:
    judge = ScriptedJudge(lambda r: float(r.tokens[0]))
    wrong = trial()
    flipped = Trial(9, wrong.description, wrong.calibrate, wrong.calibrate_active, wrong.test, ~wrong.test_active)
    found = detect([trial(2, 3), flipped, trial()], judge)
    assert [d.feature for d in found] == [3, 9, 3]
    assert [d.auroc for d in found] == [1, 0, 1]


def test_best_cut_and_auroc_on_a_hand_computed_case() -> None:
    scores, active = np.array([0.9, 0.6, 0.6, 0.2]), np.array([True, True, False, False])
    assert auroc(scores, active) == pytest.approx(3.5 / 4)
    assert best_cut(scores, active) in (pytest.approx(0.4), pytest.approx(0.75))
    assert best_cut(scores, np.ones(4, bool)) == 0.5
