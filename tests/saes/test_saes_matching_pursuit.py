"""A pursuit finds a planted sparse code, ends where it is told to, and treats every token alone."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.saes.architectures.matching_pursuit import SETTINGS, MatchingPursuitSae
from saelab.saes.base import SaeConfig
from saelab.saes.formats.conventions import with_bias_convention

D, F = 16, 30


def pursuit(decoder: Tensor, threshold: float = 1e-3, steps: int | None = None, *, stop: bool = True) -> Any:
    settings = {"residual_threshold": threshold, "max_iterations": steps, "stop_on_duplicate_support": stop}
    cfg = SaeConfig(architecture="matching_pursuit", d_in=D, d_sae=len(decoder), settings=settings)
    weights = {"W_enc": decoder.T, "W_dec": decoder, "b_enc": torch.zeros(len(decoder)), "b_dec": torch.ones(D)}
    return MatchingPursuitSae(cfg, weights)


def directions(seed: int = 0) -> Tensor:
    drawn = torch.randn(F, D, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


def test_orthogonal_directions_are_found_exactly_and_others_are_not() -> None:
    basis = torch.linalg.qr(directions().T @ directions())[0]
    codes = torch.zeros(5, D)
    codes[torch.arange(5)[:, None], torch.tensor([[0, 3, 7]])] = torch.tensor([1.0, 2.0, 0.5])
    x = codes @ basis + 1
    assert torch.allclose(pursuit(basis).encode(x), codes, atol=1e-5)
    assert not torch.allclose(pursuit(basis.flip(1)).encode(x), codes, atol=0.1), "control"


def test_each_step_takes_away_what_it_explains() -> None:
    x = torch.randn(8, D, generator=torch.Generator().manual_seed(1)) + 1
    errors = [(x - pursuit(directions(), 0.0, n, stop=False)(x)).norm(dim=1) for n in (1, 2, 4, 16)]
    assert all(bool((b < a).all()) for a, b in pairwise(errors))
    assert int((pursuit(directions(), 0.0, 4, stop=False).encode(x) > 0).sum(1).max()) <= 4


def test_where_a_search_ends() -> None:
    x = torch.randn(8, D, generator=torch.Generator().manual_seed(1)) + 1
    both_ways = torch.cat(
        [directions(), -directions()]
    )  # codes are not negative: without these, some x are out of reach
    sae, endless = pursuit(both_ways, 2.0, stop=False), pursuit(both_ways, 0.0, stop=False)
    assert int((sae.encode(x) > 0).sum()) < int((endless.encode(x) > 0).sum())
    assert bool(((x - sae(x)).norm(dim=1) < 2.0).all())
    assert not bool(((x - pursuit(both_ways, 2.0, 1)(x)).norm(dim=1) < 2.0).all()), "control: one step is not enough"
    alone = torch.stack([sae.encode(row) for row in x])
    assert torch.allclose(alone, sae.encode(x), atol=1e-5)


def test_it_needs_its_settings_and_its_bias() -> None:
    bare = SaeConfig(architecture="matching_pursuit", d_in=D, d_sae=F)
    with pytest.raises(UserError, match="residual_threshold"):
        MatchingPursuitSae(bare, dict(pursuit(directions()).weights()))
    for settings in ((-1.0, None, True), ("0.1", None, True), (0.1, 0, True), (0.1, None, 1)):
        odd = bare.model_copy(update={"settings": dict(zip(SETTINGS, settings, strict=True))})
        with pytest.raises(UserError, match="cannot end by"):
            MatchingPursuitSae(odd, dict(pursuit(directions()).weights()))
    with pytest.raises(UserError, match="cannot be rewritten"):
        with_bias_convention(pursuit(directions()), subtract=False)
