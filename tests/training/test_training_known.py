"""Known answers of constants of training, each beside what another constant would give."""

import pytest
import torch
from planted import batches

from saelab.saes.architectures.batch_topk import BatchTopKConfig, BatchTopKRule
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, Weights
from saelab.saes.catalogue import training_config
from saelab.saes.sparse_ops import top_k
from saelab.training.dead import silence
from saelab.training.objective import fitted_length
from saelab.training.step import Trainee
from saelab.training.sweep import train


def plain(decoder: torch.Tensor) -> Weights:
    """Weights whose encoder is the decoder."""
    return Weights(decoder.clone(), decoder.clone(), torch.zeros(len(decoder)), torch.zeros(decoder.shape[1]))


def test_one_firing_ends_a_silence() -> None:
    found = silence(torch.tensor([5, 5, 5]), torch.tensor([0.0, 1.0, 2.0]), 10)
    assert found.tolist() == [15, 0, 0]


def test_a_batch_topk_threshold_keeps_nine_tenths_of_the_former() -> None:
    """θ <- m θ + (1 - m) smallest, m = 0.9: from 1 and 2 it becomes 1.1; reversed it would be 1.9."""
    assert BatchTopKConfig(d_in=2, d_sae=4, k=1).threshold_momentum == 0.9
    rule, weights = BatchTopKRule(1, 0.9), plain(torch.eye(2))
    weights.tracked = {"threshold": torch.tensor(-1.0), "smallest": torch.tensor(0.0)}
    for value, theta in ((1.0, 1.0), (2.0, 1.1), (1.1, 1.1)):
        rule.track(top_k(torch.tensor([[value, 0.0]]), 1), weights)
        assert float(weights.tracked["threshold"]) == pytest.approx(theta, rel=1e-6)


def test_the_fitted_start_is_least_squares() -> None:
    """x̂ = 2 x overshoots by two: the length is 0.5, and x̂ times it is x."""
    weights, x = plain(torch.eye(2)), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    weights.encoder *= 2
    rule = training_config("topk", level=1, d_in=2, d_sae=2).rule(torch.float32)
    assert fitted_length(weights, rule, x, torch.float32) == pytest.approx(0.5)
    weights.encoder /= 2
    assert fitted_length(weights, rule, x, torch.float32) == pytest.approx(1.0), "control"


def test_the_start_is_as_long_as_was_fitted() -> None:
    """The encoder that a trainee begins with fits: fitted once more, its length is 1 (halved again it would be 2)."""
    sample = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    own = {"level": 4, "d_in": 8, "d_sae": 32}
    begun = [
        Trainee(training_config("topk", **own, fitted_start=fitted), sample, steps=10, seed=0, dtype=torch.float32)
        for fitted in (True, False)
    ]
    lengths = [fitted_length(t.weights, t.rule, sample, torch.float32) for t in begun]
    assert lengths[1] < 0.95, "control: unfitted, x̂ overshoots"
    assert lengths[0] == pytest.approx(1.0, abs=1e-4)


def test_adam_has_the_second_moment_of_its_paper() -> None:
    """Kingma and Ba 2015: β2 = 0.999, from the state that a step leaves: v = (1 - β2) g² after the first."""
    sample = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    trainee = Trainee(training_config("topk", level=2, d_in=8, d_sae=16), sample, steps=10, seed=0, dtype=torch.float32)
    trainee.step(sample)
    state = trainee.adam.state[trainee.parameters["b_dec"]]
    gradient = state["exp_avg"] / (1 - 0.9)
    used = gradient.abs() > 1e-9
    assert used.any()
    share = (state["exp_avg_sq"][used] / gradient[used] ** 2).median()
    assert float(share) == pytest.approx(0.001, rel=1e-3)


def test_k_falls_from_its_start_and_then_rests() -> None:
    """From 12 to 4 over the first half: 12, 8 half way, 4 from there on; every step has that many active."""
    data = torch.randn(8, 64, 16, generator=torch.Generator().manual_seed(0)).unbind()
    for architecture in ("topk", "batchtopk", "matryoshka", "aligned"):
        own = {"level": 4, "d_in": 16, "d_sae": 64}
        cfg = training_config(architecture, **own, k_start=12, fitted_start=False)
        trainee = Trainee(cfg, data[0], steps=8, seed=0, dtype=torch.float32)
        assert [trainee.step(x).l0 for x in data] == [12, 10, 8, 6, 4, 4, 4, 4], architecture
        plain_one = training_config(architecture, **own)
        assert not {"k_start", "k_anneal"} & set(plain_one.model_dump(mode="json")), "seeds of the others stay"


def test_an_aligned_encoder_meets_its_decoder_with_one() -> None:
    """In raw units, to rounding, after training with annealed k and dead latents; a plain TopK's does not (control)."""
    data, products = batches(10), {}
    for architecture in ("aligned", "topk"):
        cfg = training_config(architecture, level=4, d_in=32, d_sae=128, dead_tokens=512, aux_coefficient=1 / 32)
        (sae,) = train([cfg], data, steps=60)
        products[architecture] = (sae.W_enc.T * sae.W_dec).sum(1)
    assert torch.allclose(products["aligned"], torch.ones(128), atol=1e-5)
    assert (products["topk"] - 1).abs().median() > 0.01


def test_one_hierarchical_sae_serves_all_its_levels() -> None:
    """Read at 2 of 8 it rebuilds better than a TopK that was trained at 8 and is read at 2 (control)."""
    data, own = batches(40, active=8), {"d_in": 32, "d_sae": 128}
    configs = [training_config(name, level=8, **own) for name in ("hierarchicaltopk", "topk")]
    nested, plain_one = train(configs, data[:30], steps=300)
    x = torch.cat(data[30:])

    def fvu(sae: Sae, k: int) -> float:
        assert isinstance(sae, TopKSae)
        read = sae.keeping(k)
        assert read.cfg.k == k and ((read.encode(x) > 0).sum(1) <= k).all()
        return float((read(x) - x).square().sum() / (x - x.mean(0)).square().sum())

    assert fvu(nested, 2) < 0.95 * fvu(plain_one, 2)
    assert fvu(nested, 8) < fvu(nested, 4) < fvu(nested, 2)
    assert fvu(nested, 8) < 1.25 * fvu(plain_one, 8)
