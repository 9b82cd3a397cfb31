"""Detection: can a judge tell from a description in which unseen windows the feature fires?

For one feature: accuracy = share of windows classified right, balanced accuracy = mean of the hit rates on active and
on inactive windows, AUROC = P(score of an active window > score of an inactive one), ties counting half. Accuracy is
SAEBench's field; answering "no" to everything already earns its share of inactive windows (0.714 with 4 of 14 active),
so balanced accuracy (0.5 for such a judge) and AUROC stand beside it. A graded judge's cut between no and yes is set
on the windows the description was made from, never on those it is tested on. A judgement that failed is counted and
left out; it never becomes a "no". Source: EleutherAI 2410.13928, SAEBench `autointerp`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from saelab.core.classifiers import auroc
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Judgement
from saelab.judges.client import Judge, Request

TASK = "detection"


@dataclass(frozen=True)
class Trial:
    """One feature's description with the windows that calibrate the cut and those that test it."""

    feature: int
    description: Description
    calibrate: tuple[tuple[str, ...], ...]
    calibrate_active: Bool[np.ndarray, " C"]
    test: tuple[tuple[str, ...], ...]
    test_active: Bool[np.ndarray, " W"]


@dataclass(frozen=True)
class Detection:
    """A feature's scores over `n_windows` judged windows; None (and `n_missing` > 0) where a class was left empty."""

    feature: int
    accuracy: float | None
    balanced_accuracy: float | None
    auroc: float | None
    n_windows: int
    n_missing: int
    cut: float


def detect(
    trials: Sequence[Trial],
    judge: Judge,
    *,
    calibrated: bool = True,
    task: str = TASK,
    progress: Progress = SILENT,
) -> list[Detection]:
    """Judge all windows of all trials in one go and score each feature.

    task: what is asked of a window. calibrated: set the cut on the calibration windows (graded judges); otherwise it is
    0.5 and they are not asked.
    """
    requests = [
        Request(task, tokens=window, description=trial.description)
        for trial in trials
        for window in ((*trial.calibrate, *trial.test) if calibrated else trial.test)
    ]
    answers = judge.judge(requests, progress=progress)
    found, start = [], 0
    for trial in trials:
        cut = 0.5
        if calibrated:
            part = answers[start : start + len(trial.calibrate)]
            scores, active = _answered(part, trial.calibrate_active)
            cut = best_cut(scores, active)
            start += len(part)
        part = answers[start : start + len(trial.test)]
        start += len(part)
        scores, active = _answered(part, trial.test_active)
        found.append(_score(trial.feature, scores, active, cut, len(part) - len(scores)))
    return found


def best_cut(scores: Float[np.ndarray, " W"], active: Bool[np.ndarray, " W"]) -> float:
    """The cut ("yes" when score > cut) with the highest balanced accuracy; the middle of the widest best gap.

    0.5 where one of the classes is empty.
    """
    if not active.any() or active.all():
        return 0.5
    values = np.unique(np.concatenate([scores, [0.0, 1.0]]))
    cuts = (values[:-1] + values[1:]) / 2
    quality = np.array([balanced_accuracy(scores > cut, active) for cut in cuts])
    best = np.flatnonzero(quality >= quality.max() - 1e-12)
    return float(cuts[best[np.argmax(np.diff(values)[best])]])


def balanced_accuracy(said: Bool[np.ndarray, " W"], active: Bool[np.ndarray, " W"]) -> float:
    """Mean of the hit rate on active windows and on inactive ones; both must be present."""
    return float((said[active].mean() + (~said[~active]).mean()) / 2)


def _answered(
    answers: Sequence[Judgement], active: Bool[np.ndarray, " W"]
) -> tuple[Float[np.ndarray, "_"], Bool[np.ndarray, "_"]]:
    kept = [i for i, answer in enumerate(answers) if answer.value is not None]
    return np.array([answers[i].value for i in kept], np.float64), active[np.array(kept, np.int64)]


def _score(feature: int, scores: np.ndarray, active: np.ndarray, cut: float, n_missing: int) -> Detection:
    if not active.any() or active.all():
        return Detection(feature, None, None, None, len(scores), n_missing, cut)
    said = scores > cut
    return Detection(
        feature=feature,
        accuracy=float((said == active).mean()),
        balanced_accuracy=balanced_accuracy(said, active),
        auroc=auroc(scores, active),
        n_windows=len(scores),
        n_missing=n_missing,
        cut=cut,
    )
