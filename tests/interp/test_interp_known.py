"""Known answers of definitions of the interpretability room, each beside what another definition would give."""

from math import log

import numpy as np
import pytest
import torch

from saelab.activations.site import SINK_RATIO, sink_bound
from saelab.core.records import Description, Judgement
from saelab.interp.features.codes import Codes, encode_codes
from saelab.interp.features.describe import BIGRAM, TOKEN, DescribeConfig, DescribingText, _choose, candidates_of
from saelab.interp.features.detection import Trial, balanced_accuracy, best_cut, detect
from saelab.interp.suite.absorption import absorbed


def test_absorbed_is_no_more_than_what_is_missing() -> None:
    """P = 2, M = 1.5, an absorber gives T = 1: r = min(1, 0.5), so 0.5 / 2; with r = T it would be 1 / 2.5."""
    probe = torch.tensor([1.0, 0.0])
    W_dec = torch.eye(2)[[0, 0]]
    codes = torch.tensor([[1.5, 1.0]])
    fraction, _ = absorbed(probe, torch.tensor([[2.0, 0.0]]), codes, W_dec, torch.tensor([0]))
    assert float(fraction) == pytest.approx(0.25)
    codes = torch.tensor([[0.5, 1.0]])
    fraction, _ = absorbed(probe, torch.tensor([[2.0, 0.0]]), codes, W_dec, torch.tensor([0]))
    assert float(fraction) == pytest.approx(1.0 / 1.5), "control: T is less than what is missing"


def test_a_sink_is_ten_medians_long() -> None:
    norms = torch.tensor([1.0, 2.0, 3.0])
    assert SINK_RATIO == 10 and sink_bound(norms) == pytest.approx(20.0) and sink_bound(norms, 3.0) == 6.0


def test_the_rate_of_a_term_is_shrunk_by_two_occurrences_at_the_base_rate() -> None:
    """(a + 2 d) / (n + 2), and gain = a log(rate / d) + (n - a) log((1 - rate) / (1 - d))."""
    tokens = np.array([7] * 6 + [1] * 94)
    value = np.zeros(100, np.float32)
    value[:4] = 1.0
    rows = torch.from_numpy(value)[:, None]
    codes: Codes = encode_codes(lambda x: x, rows, np.arange(100))
    text = DescribingText(tokens, np.full(100, -1), np.ones(100, bool), [str(i) for i in range(10)])
    found = candidates_of(codes, text, np.ones(1), DescribeConfig(least_gain=0.1, least_lift=1.0))
    row = next(r for r in found.iter_rows(named=True) if r["kind"] == TOKEN and r["token"] == 7)
    d = 4 / 100
    rate = (4 + 2 * d) / (6 + 2)
    assert (row["base"], row["n"], row["active"]) == pytest.approx((d, 6, 4), abs=1e-6)
    assert row["rate"] == pytest.approx(rate, abs=1e-6) and abs(row["rate"] - 4 / 6) > 0.1, "control: unshrunk"
    gain = 4 * log(rate / d) + 2 * log((1 - rate) / (1 - d))
    assert row["gain"] == pytest.approx(gain, abs=1e-5)


def test_a_token_beside_a_bigram_is_rated_by_its_other_occurrences() -> None:
    """10 occurrences worth 6, of which a bigram with it explains 4 worth 3.5: (2.5 + 2 d) / (6 + 2)."""
    d, other = 0.1, {"token": 7, "n": 4, "active": 3.5, "rate": 0.7, "gain": 9.0, "base": 0.1}
    bigram = other | {"kind": BIGRAM, "previous": 3}
    token = other | {"kind": TOKEN, "n": 10, "active": 6.0, "gain": 8.0}
    found = _choose([bigram, token], DescribeConfig(least_gain=0.1, least_lift=1.0))
    rate = (2.5 + 2 * d) / (6 + 2)
    assert found[1]["rate"] == pytest.approx(rate) and abs(rate - 2.5 / 6) > 0.05, "control: unshrunk"
    assert found[1]["gain"] == pytest.approx(2.5 * log(rate / d) + 3.5 * log((1 - rate) / (1 - d)))


class Fixed:
    """A judge that says what it was given, in order."""

    name = "fixed"

    def __init__(self, values: list[float]):
        self.values = values

    def judge(self, requests, *, progress=None):
        return [Judgement("ok", v, "fixed") for v in self.values[: len(requests)]]


def test_a_score_at_the_cut_is_a_no() -> None:
    """yes is `score > cut`; 0.5 of a judge that is asked without calibration says no."""
    active = np.array([True, True, False, False])
    trial = Trial(0, Description("x"), (), np.zeros(0, bool), (("a",),) * 4, active)
    found = detect([trial], Fixed([1.0, 0.5, 0.5, 0.0]), calibrated=False)[0]
    assert (found.cut, found.accuracy, found.balanced_accuracy) == (0.5, 0.75, 0.75)
    said = np.array([1.0, 0.5, 0.5, 0.0]) >= 0.5
    assert balanced_accuracy(said, active) == 0.75 and (said != np.array([True, False, False, False])).any(), "control"
    uneven = Trial(0, Description("x"), (), np.zeros(0, bool), (("a",),) * 4, np.array([True, False, False, False]))
    found = detect([uneven], Fixed([1.0, 0.5, 0.5, 0.0]), calibrated=False)[0]
    assert found.balanced_accuracy == 1.0, "with >= it would be 2 / 3"
    assert best_cut(np.array([0.2, 0.4]), np.array([False, True])) == pytest.approx(0.3)
