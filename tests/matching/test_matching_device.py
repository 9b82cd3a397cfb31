"""A matching on an accelerator: costs are made there, and the matching and its certificate are those of the CPU.

The accelerator is pretended (pretended.py); what a real one's kernels compute is not tested here.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_matching_fold import D, F, Jump, jump

from pretended import PLACE, Pretended, There
from saelab.core.errors import UserError
from saelab.matching import assignment
from saelab.matching.match import match, verify

TENSORS = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def moved(sae: Jump) -> Jump:
    return replace(sae, **{name: getattr(sae, name).to(PLACE) for name in TENSORS})


@pytest.mark.parametrize("asked", [{}, {"reject": 0.5}, {"reject": "null"}, {"fold": "mean", "parts": "decoder"}])
def test_a_matching_elsewhere_is_the_matching_here(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assignment, "DENSE_BELOW", 16)
    a, b = jump(), jump(1)
    b = replace(b, W_dec=a.W_dec + 0.7 * b.W_dec)
    x = torch.randn(200, D, generator=torch.Generator().manual_seed(0))
    rows = (x, x) if "fold" in asked else None
    here = match(a, b, **asked, activations=rows)
    with Pretended():
        far = (moved(a), moved(b))
        assert all(isinstance(getattr(sae, name), There) for sae in far for name in TENSORS)
        rows = (x.to(PLACE), x.to(PLACE)) if rows else None
        there = match(*far, **asked, activations=rows)
        assert np.array_equal(there.permutation, here.permutation)
        assert there.cost == pytest.approx(here.cost, rel=1e-6)
        if "reject" not in asked:
            assert here.method == there.method == "blocked" and len(here.permutation) == F
            assert verify(there, *far, activations=rows).gap <= 1e-9 * there.cost
        with pytest.raises(UserError, match="pretended:0"):
            match(a, far[1], **asked, activations=rows)
