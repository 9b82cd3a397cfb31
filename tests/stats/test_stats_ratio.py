"""Ratios over documents: intervals that hold what they say, where tokens of a document are alike."""

import numpy as np
import pytest

from saelab.core.seeds import numpy_generator
from saelab.stats.ratio import FEWEST_DOCUMENTS, Sums, ratio_estimate

TRUE, DOCUMENTS, TOKENS = 0.5, 30, 20


def text(rng: np.random.Generator) -> np.ndarray:
    """Values of tokens [documents, tokens]: a document's own level, and noise."""
    return TRUE + rng.normal(size=(DOCUMENTS, 1)) + 0.3 * rng.normal(size=(DOCUMENTS, TOKENS))


def covered(rows_of: str, times: int = 200) -> float:
    """How often the interval holds the true mean, where documents are drawn, or tokens as if they were documents."""
    held = 0
    for k in range(times):
        x = text(numpy_generator("ratio", str(k)))
        sums = (
            Sums(x.sum(1), np.full(DOCUMENTS, float(TOKENS)))
            if rows_of == "documents"
            else Sums(x.ravel(), np.ones(x.size))
        )
        found = ratio_estimate(sums, name=str(k), draws=500)
        assert found.low is not None and found.high is not None
        held += found.low <= TRUE <= found.high
    return held / times


def test_documents_are_what_is_drawn() -> None:
    assert 0.90 <= covered("documents") <= 0.98
    assert covered("tokens", 60) < 0.6, "the control: tokens of one document are no separate evidence"


def test_a_difference_is_paired() -> None:
    """Two readings of one text that share its documents' levels differ by a tenth, and the interval knows it."""
    x = text(numpy_generator("pair"))
    bottom = np.full(DOCUMENTS, float(TOKENS))
    noise = 0.02 * numpy_generator("noise").normal(size=DOCUMENTS)
    one, other = Sums(x.sum(1), bottom), Sums(x.sum(1) - (0.1 + noise) * TOKENS, bottom)
    both, alone = ratio_estimate(one, other, name="d"), ratio_estimate(one, name="d")
    assert both.value == pytest.approx(0.1 + noise.mean()) and both.low is not None
    assert alone.low is not None and alone.high is not None
    assert both.low > 0.08 and alone.high - alone.low > 0.4, "unpaired, a tenth would drown"


def test_what_cannot_be_had_is_a_state() -> None:
    few = Sums(np.ones(FEWEST_DOCUMENTS - 1), np.full(FEWEST_DOCUMENTS - 1, 2.0))
    found = ratio_estimate(few, name="few")
    assert found.value == 0.5 and found.low is None and "too few documents" in str(found.note)
    assert ratio_estimate(Sums(np.zeros(20), np.zeros(20)), name="none").state == "undefined"
    gaps = Sums(np.r_[np.ones(20), np.zeros(30)], np.r_[np.full(20, 2.0), np.zeros(30)])
    assert ratio_estimate(gaps, name="gaps").n == 20, "documents without a token are none"
