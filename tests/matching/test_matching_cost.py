"""Blocks of costs: the whole matrix, piece by piece, in one piece of memory."""

import numpy as np
import pytest
import torch

from saelab.matching import cost
from saelab.matching.cost import Costs


def test_blocks_are_the_matrix_and_share_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "BLOCK_ENTRIES", 1)
    monkeypatch.setattr(cost, "LEAST_HEIGHT", 7)
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 12, generator=g), torch.randn(33, 12, generator=g)
    rows, columns = -torch.rand(40, generator=g) * 20, -torch.rand(33, generator=g) * 8
    whole = torch.cdist(a.double(), b.double()).square() + rows[:, None] + columns
    costs = Costs(a, b)
    blocks = [(part, block.data_ptr(), block.clone()) for part, block in costs.blocks(rows=rows, columns=columns)]
    assert len(blocks) == 6 and len({pointer for _, pointer, _ in blocks}) == 1
    assert torch.allclose(torch.cat([block for *_, block in blocks]).double(), whole, atol=1e-4)
    found = [(i.numpy() + part.start, j.numpy()) for part, _, i, j in costs.nominated(rows=rows, columns=columns)]
    i, j = (np.concatenate(x) for x in zip(*found, strict=True))
    assert 0 < len(i) < whole.numel(), "control: some are and some are not"
    assert np.array_equal(np.stack([i, j]), np.stack((whole.numpy() <= 0).nonzero()))
