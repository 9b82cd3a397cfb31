"""A planted dictionary is recovered by every architecture; from the same numbers, shuffled, it is not."""

import pytest
import torch
from torch import Tensor

from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.training.sweep import train

D, PLANTED, ACTIVE, ROWS = 48, 48, 3, 256


def planted() -> tuple[Tensor, list[Tensor]]:
    """Unit directions, and batches of sparse positive combinations of them plus a mean and a little noise."""
    g = torch.Generator().manual_seed(0)
    directions = torch.randn(PLANTED, D, generator=g)
    directions /= directions.norm(dim=1, keepdim=True)
    mean = 5 * torch.randn(D, generator=g)
    batches = []
    for _ in range(30):
        on = torch.rand(ROWS, PLANTED, generator=g) < ACTIVE / PLANTED
        codes = on * (1 + torch.rand(ROWS, PLANTED, generator=g))
        batches.append(20 * (codes @ directions + 0.02 * torch.randn(ROWS, D, generator=g)) + mean)
    return directions, batches


def shuffled(batches: list[Tensor]) -> list[Tensor]:
    """Every coordinate permuted over the tokens by itself: the same numbers, no directions."""
    g = torch.Generator().manual_seed(1)
    rows = torch.cat(batches)
    columns = [rows[torch.randperm(len(rows), generator=g), i] for i in range(D)]
    return list(torch.stack(columns, dim=1).split(ROWS))


def recovery(architecture: str, batches: list[Tensor], directions: Tensor) -> float:
    """Mean over planted directions of the largest cosine with a decoder row."""
    nested = {"widths": (PLANTED,)} if architecture == "matryoshka" else {}
    cfg = training_config(architecture, level=ACTIVE, d_in=D, d_sae=2 * PLANTED, **nested)
    (sae,) = train([cfg], batches, steps=900)
    return float((directions @ sae.W_dec.T).max(dim=1).values.mean())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_planted_dictionary_is_recovered_and_a_shuffled_one_is_not(architecture: str) -> None:
    directions, batches = planted()
    assert recovery(architecture, batches, directions) > 0.95
    assert recovery(architecture, shuffled(batches), directions) < 0.6
