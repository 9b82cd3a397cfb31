"""Concept detection (AxBench's first task): does a direction's score tell texts that show the concept from others?

A text's score is the largest of its tokens' scores. Two AUROCs, by name: `auroc_easy` is positives against plain
negatives (what AxBench publishes, where a mismatch of labels drops the hard ones), `auroc_all` counts hard negatives
(texts about a word of the concept in another sense) among the negatives. `hard_accuracy` is the mean of the accuracies
on positives and on hard negatives at the threshold that is best (Youden) for positives against plain negatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_curve

from saelab.core.classifiers import auroc, logistic
from saelab.core.errors import UserError
from saelab.steering.concepts.examples import TextRows
from saelab.steering.direction import Direction

BAG = "bag_of_words"  # beside the directions in tables
POSITIVE, NEGATIVE, HARD = "positive", "negative", "hard negative"


@dataclass(frozen=True)
class ConceptDetection:
    """How well scores tell a concept's texts. None where a kind of text is absent."""

    auroc_easy: float
    auroc_all: float
    hard_accuracy: float | None
    n_positive: int
    n_negative: int
    n_hard: int


def detect(scores: np.ndarray, kinds: Sequence[str]) -> ConceptDetection:
    """Detection from one score per text. Unknown kinds are a `UserError`, never silently dropped."""
    kind = np.asarray(kinds)
    unknown = set(kinds) - {POSITIVE, NEGATIVE, HARD}
    if unknown:
        raise UserError(f"Unknown kinds of text: {', '.join(sorted(unknown))}.")
    positive, easy, hard = kind == POSITIVE, kind == NEGATIVE, kind == HARD
    if not positive.any() or not easy.any():
        raise UserError("Detection needs texts that show the concept and plain texts that do not.")
    plain = ~hard
    return ConceptDetection(
        auroc_easy=auroc(scores[plain], positive[plain]),
        auroc_all=auroc(scores, positive),
        hard_accuracy=_hard_accuracy(scores, positive, easy, hard) if hard.any() else None,
        n_positive=int(positive.sum()),
        n_negative=int(easy.sum()),
        n_hard=int(hard.sum()),
    )


def direction_scores(direction: Direction, rows: TextRows) -> np.ndarray:
    """Largest h . v of each text; a text without a counted token is an error, not a low score."""
    scores = rows.pooled(rows.values @ direction.vector).numpy()
    if not np.isfinite(scores).all():
        raise UserError("A text has no counted token, so it has no score.")
    return scores


def bag_of_words(train: Sequence[str], labels: Sequence[bool], test: Sequence[str]) -> np.ndarray:
    """The floor for what words alone can do: counts and a logistic regression (C = 100), scores of `test`."""
    vectors = CountVectorizer()
    model = logistic(vectors.fit_transform(train), np.asarray(labels, dtype=bool), cost=100.0)
    return model.decision_function(vectors.transform(test))


def _hard_accuracy(scores: np.ndarray, positive: np.ndarray, easy: np.ndarray, hard: np.ndarray) -> float:
    plain = positive | easy
    false, true, cut = roc_curve(positive[plain], scores[plain])
    finite = np.isfinite(cut)
    threshold = cut[finite][np.argmax((true - false)[finite])]
    return float(((scores[positive] >= threshold).mean() + (scores[hard] < threshold).mean()) / 2)
