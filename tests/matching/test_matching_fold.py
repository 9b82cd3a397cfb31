"""Folding changes no function; matching SAEs finds their shuffle; composition and transfer keep to the indices."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.matching.cost import costs_between
from saelab.matching.evaluate import coactivation, cost_shares, explained_variance, transferred
from saelab.matching.fold import features_of, implied_threshold
from saelab.matching.match import compose, match

D, F, N = 24, 60, 500


@dataclass
class Jump:
    """A JumpReLU SAE, as matching sees one."""

    W_enc: Tensor
    W_dec: Tensor
    b_enc: Tensor
    b_dec: Tensor
    threshold: Tensor
    cfg: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(subtract_b_dec=True))

    def encode(self, x: Tensor) -> Tensor:
        pre = (x - self.b_dec * self.cfg.subtract_b_dec) @ self.W_enc + self.b_enc
        return pre * ((pre > self.threshold) & (pre > 0))

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W_dec + self.b_dec


def jump(seed: int = 0, *, subtract: bool = True) -> Jump:
    g = torch.Generator().manual_seed(seed)
    decoder = torch.randn(F, D, generator=g)
    return Jump(
        W_enc=decoder.T * 0.3,
        W_dec=decoder,
        b_enc=0.1 * torch.randn(F, generator=g),
        b_dec=torch.randn(D, generator=g),
        threshold=0.2 + torch.rand(F, generator=g),
        cfg=SimpleNamespace(subtract_b_dec=subtract),
    )


def shuffled(sae: Jump, order: Tensor) -> Jump:
    """The same SAE with feature i at place order[i]."""
    back = torch.argsort(order)
    return Jump(sae.W_enc[:, back], sae.W_dec[back], sae.b_enc[back], sae.b_dec, sae.threshold[back], sae.cfg)


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("fold", ["theta", "mean", "rms", "quantile", "max", "none"])
def test_folding_changes_no_function(fold: str, subtract: bool) -> None:
    sae = jump(subtract=subtract)
    x = 2 * torch.randn(N, D, generator=torch.Generator().manual_seed(1))
    f = features_of(sae, fold, activations=x)
    folded = (x @ f.encoder.T + f.bias) * (sae.encode(x) > 0)
    assert torch.allclose(folded * f.scale, sae.encode(x), atol=1e-4)
    assert torch.allclose(folded @ f.decoder + sae.b_dec, sae.decode(sae.encode(x)), atol=1e-3)
    if fold == "theta":
        folded_threshold = implied_threshold(sae) / f.scale
        assert (folded_threshold.sort().values[1:] - 1).abs().max() < 1e-5, "thresholds become 1"
        assert 0 < folded_threshold.min() <= 1, "but the smallest one's, which is clipped"


def test_a_gated_saes_threshold_is_where_its_code_switches_on() -> None:
    sae = jump()
    del sae.threshold
    sae.r_mag, sae.b_mag, sae.b_enc = (torch.tensor([v]) for v in (0.3, 0.5, -1.0))
    gate = torch.tensor([1e-6])  # pre just above 0
    code = (gate - sae.b_enc) * sae.r_mag.exp() + sae.b_mag
    assert torch.allclose(implied_threshold(sae), code, atol=1e-4)


def test_a_scalar_fold_does_nothing_to_decoder_matching() -> None:
    a, b = jump(0), jump(1)
    plain = costs_between(features_of(a, "none"), features_of(b, "none"), "decoder")
    scaled = [features_of(s, "custom", custom=3.0 / s.W_dec.norm(dim=1)) for s in (a, b)]
    nine = costs_between(scaled[0], scaled[1], "decoder")
    i = np.arange(F)
    assert np.allclose(9 * plain.edges(i, i[::-1].copy()), nine.edges(i, i[::-1].copy()))


@pytest.mark.parametrize("parts", ["all", "decoder", "encoder"])
def test_matching_recovers_the_shuffle_of_an_sae(parts: str) -> None:
    sae = jump()
    order = torch.randperm(F, generator=torch.Generator().manual_seed(2))
    found = match(sae, shuffled(sae, order), fold="theta", parts=parts)
    assert np.array_equal(found.permutation, order.numpy())
    assert found.cost == pytest.approx(0, abs=1e-6)
    assert np.allclose(found.cosine, 1, atol=1e-5)


def test_the_shares_of_a_cost_are_those_of_its_tensors() -> None:
    a, b = (features_of(jump(k)) for k in (0, 1))
    pairs, weights = np.roll(np.arange(F), 3), (1.0, 2.0, 0.5)
    found = cost_shares(a, b, pairs, weights)
    whole = costs_between(a, b, "all", weights).edges(np.arange(F), pairs).sum()
    apart = [
        w * ((x.double() - y.double()[pairs]).numpy() ** 2).sum()
        for w, x, y in zip(weights, (a.decoder, a.encoder, a.bias), (b.decoder, b.encoder, b.bias), strict=True)
    ]
    assert found is not None and list(found.values()) == pytest.approx([x / whole for x in apart])
    assert sum(found.values()) == pytest.approx(1)
    assert cost_shares(a, a, np.arange(F)) is None, "control: nothing to share"


def test_theta_needs_thresholds() -> None:
    a = jump()
    a.threshold = torch.zeros(F)
    with pytest.raises(UserError, match="needs thresholds"):
        match(a, jump(1), fold="theta")
    with pytest.raises(UserError, match="measured on activations"):
        match(a, jump(1), fold="mean")


def test_composition_and_transfer_follow_the_indices() -> None:
    g = np.random.default_rng(0)
    ab, bc = g.permutation(F), g.permutation(F)
    assert np.array_equal(compose(ab, bc), [bc[ab[i]] for i in range(F)])
    ab[3] = -1
    assert compose(ab, bc)[3] == -1
    codes = torch.rand(N, F)
    one = torch.ones(F)
    moved = transferred(codes, ab, (one, 2 * one))
    assert torch.equal(moved[:, ab[0]], 2 * codes[:, 0])
    assert moved[:, [j for j in range(F) if j not in ab]].sum() == 0


def test_coactivation_of_identical_codes_is_one_and_of_shuffled_ones_is_chance() -> None:
    on = torch.rand(4000, F, generator=torch.Generator().manual_seed(0)) < 0.1
    same = coactivation(on, on, np.arange(F))
    assert same["matching_score"] == 1 and same["jaccard"] == 1
    other = coactivation(on, on, np.roll(np.arange(F), 1))
    assert other["over_chance"] == pytest.approx(1, abs=0.1)
    assert coactivation(torch.zeros_like(on), on, np.arange(F))["matching_score"] is None


def test_explained_variance_charges_a_mean_shift_only_in_its_second_form() -> None:
    x = torch.randn(2000, D, generator=torch.Generator().manual_seed(0))
    assert explained_variance(x, x) == (1.0, 1.0)
    centred, shifted = explained_variance(x, x + 1)
    assert centred == pytest.approx(1, abs=1e-6) and shifted < 0.2
    assert explained_variance(x, x.mean(0).expand_as(x))[1] == pytest.approx(0, abs=1e-6)
