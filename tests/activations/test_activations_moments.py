"""Moments equal their definitions, whatever the batches were."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.activations.moments import MomentsFitter
from saelab.core.errors import UserError


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 9), st.floats(-100, 100))
@settings(deadline=None, max_examples=50)
def test_moments_are_their_definitions(sizes: list[int], d: int, shift: float) -> None:
    rows = torch.randn(sum(sizes), d, generator=torch.Generator().manual_seed(d)) + shift
    fitter = MomentsFitter(d)
    for part in rows.split(sizes):
        fitter.update(part)
    found = fitter.finish()
    wide = rows.double()
    assert found.count == len(rows)
    torch.testing.assert_close(found.mean, wide.mean(0).float())
    assert found.mean_norm == pytest.approx(float(wide.norm(dim=1).mean()), rel=1e-9)
    assert found.mean_square == pytest.approx(float(wide.square().sum(1).mean()), rel=1e-9)
    variance = float((wide - wide.mean(0)).square().sum(1).mean())
    assert found.variance == pytest.approx(variance, rel=1e-5, abs=1e-6 * found.mean_square)


def test_no_rows_have_no_moments() -> None:
    with pytest.raises(UserError, match="no activations"):
        MomentsFitter(3).finish()
