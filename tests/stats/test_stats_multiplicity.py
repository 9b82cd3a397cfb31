"""Corrected p are those of the definitions; tests without a p are not part of the family."""

import numpy as np
import pytest

from saelab.core.seeds import numpy_generator
from saelab.stats.multiplicity import benjamini_hochberg, holm

PS = numpy_generator("test multiplicity").uniform(size=14) ** 3


def test_benjamini_hochberg_is_the_step_up_rule() -> None:
    """What is rejected at level alpha: all p up to the last with p <= alpha rank / n."""
    found = np.array(benjamini_hochberg([float(p) for p in PS]), dtype=float)
    for alpha in (0.01, 0.05, 0.2, 0.6):
        ordered = sorted(PS)
        below = [rank for rank, p in enumerate(ordered, 1) if p <= alpha * rank / len(PS)]
        assert int((found <= alpha).sum()) == max(below, default=0)


def test_holm_is_the_step_down_rule() -> None:
    found = np.array(holm([float(p) for p in PS]), dtype=float)
    for alpha in (0.01, 0.05, 0.2, 0.6):
        rejected = 0
        for place, p in enumerate(sorted(PS)):
            if p > alpha / (len(PS) - place):
                break
            rejected += 1
        assert int((found <= alpha).sum()) == rejected


def test_missing_p_stay_missing_and_do_not_count() -> None:
    assert holm([0.02, None, 0.03]) == pytest.approx([0.04, None, 0.04])
    assert benjamini_hochberg([None, 0.03]) == pytest.approx([None, 0.03])
    assert holm([]) == benjamini_hochberg([]) == []
    assert holm([None]) == [None]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
