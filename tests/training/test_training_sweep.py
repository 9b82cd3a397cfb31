"""Training as a whole on small planted data: every architecture learns, meets its L0, and comes back in raw units."""

import pytest
import torch
from planted import batches

from saelab.core.errors import UserError
from saelab.saes.architectures import batch_topk
from saelab.saes.architectures.batch_topk import BatchTopKRule
from saelab.saes.base import Sae
from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.saes.ranks import Ranks
from saelab.saes.sparse_ops import SparseEntries
from saelab.training import sparsity
from saelab.training.objective import fitted_length
from saelab.training.step import Trainee
from saelab.training.sweep import train


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_learns_and_meets_its_l0(architecture: str) -> None:
    data = batches()
    cfg = training_config(architecture, level=4, d_in=32, d_sae=128)
    (sae,) = train([cfg], data[:50], steps=600)
    (untrained,) = train([cfg], data[:50], steps=1)
    x = torch.cat(data[50:])
    codes = sae.encode(x)
    l0 = float((codes > 0).sum(1).float().mean())
    assert fvu(sae, x) < 0.65 * fvu(untrained, x)
    assert abs(l0 / 4 - 1) < 0.1
    assert (codes >= 0).all()
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(128), atol=1e-5)


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a not in ("topk", "hierarchicaltopk", "aligned")])
def test_l0_is_on_target_on_held_out_tokens(architecture: str) -> None:
    """Within 5 % at an L0 of 24; right after the start, as a control, it is far off for those that search for it."""
    data = batches(60, active=12)
    cfg = training_config(architecture, level=24, d_in=32, d_sae=192)
    held = torch.cat(data[50:])
    (sae,) = train([cfg], data[:50], steps=400)
    assert abs(float((sae.encode(held) > 0).sum(1).float().mean()) / 24 - 1) < 0.05
    if "target_l0" in type(cfg).model_fields:
        (early,) = train([cfg], data[:50], steps=5)
        assert abs(float((early.encode(held) > 0).sum(1).float().mean()) / 24 - 1) > 0.2


@pytest.mark.parametrize("architecture", ["relu", "gated", "jumprelu"])
def test_a_short_run_ends_on_its_l0_too(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 3 % after a hundred steps; with timid steps in the last ten, as a control, it is not."""
    data = batches(60, active=12)
    cfg = training_config(architecture, level=16, d_in=32, d_sae=192, lr=6e-3)
    held = torch.cat(data[50:])

    def off() -> float:
        (sae,) = train([cfg], data[:50], steps=100)
        return abs(float((sae.encode(held) > 0).sum(1).float().mean()) / 16 - 1)

    assert off() < 0.03
    monkeypatch.setattr(sparsity, "DAMPING", 0.1)
    assert off() > 0.05


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka"])
def test_the_first_reconstruction_does_not_overshoot(architecture: str) -> None:
    """No shorter multiple of it fits better; with an encoder of full length, as a control, one half as long does."""
    x = batches(1, active=12)[0]

    def length(**start: bool) -> float:
        cfg = training_config(architecture, level=48, d_in=32, d_sae=192, **start)
        trainee = Trainee(cfg, x - x.mean(0), steps=10, seed=0, dtype=torch.float32)
        return fitted_length(trainee.weights, trainee.rule, x - x.mean(0), torch.float32)

    assert length() > 1 - 1e-4
    assert length(fitted_start=False) < 0.6


def fvu(sae: Sae, x: torch.Tensor) -> float:
    """FVU of the best multiple of the reconstruction: an L1 penalty shrinks codes, which is not what is asked here."""
    y, r = x - sae.b_dec, sae(x) - sae.b_dec
    gain = (y * r).sum() / (r * r).sum()
    return float((gain * r - y).square().sum() / (x - x.mean(0)).square().sum())


def test_same_seed_same_bytes_and_batched_equals_alone() -> None:
    data = batches(8)
    configs = [training_config(a, level=4, d_in=32, d_sae=64) for a in ARCHITECTURES]
    together = train(configs, data, steps=12)
    for cfg, sae in zip(configs, together, strict=True):
        (alone,) = train([cfg], data, steps=12)
        for name, tensor in sae.weights().items():
            assert torch.equal(tensor, alone.weights()[name]), (cfg.architecture, name)


def test_bad_input_is_a_sentence() -> None:
    cfg = training_config("topk", level=4, d_in=32, d_sae=64)
    with pytest.raises(UserError, match="empty"):
        train([cfg], [], steps=3)
    with pytest.raises(UserError, match="width 8"):
        train([cfg], [torch.randn(4, 8)], steps=1)
    with pytest.raises(UserError, match="ended after 2"):
        train([cfg], iter(batches(2)), steps=5)
    bad = batches(3)
    bad[1][7, 3] = float("nan")
    with pytest.raises(UserError, match="row 7"):
        train([cfg], bad, steps=3)
    for other in (batches(2)[1][:0], batches(2)[1][:, :5]):
        with pytest.raises(UserError, match="Batch 1 is of shape"):
            train([cfg], [batches(2)[0], other], steps=3)
    broken = train([cfg], batches(2), steps=2)[0]
    with pytest.raises(UserError, match="one each"):
        train([cfg], batches(3), steps=3, starts=[broken, broken])
    broken.W_dec[0] = float("nan")
    with pytest.raises(UserError, match="W_dec holds values that are NaN"):
        train([cfg], batches(3), steps=3, starts=[broken])
    with pytest.raises(UserError, match="topk"):
        training_config("topkk", level=4, d_in=32, d_sae=64)


def test_batchtopk_lists_enough_at_the_first_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second go takes the encoder's product again. The bound follows the last step, also while the weights race."""
    goes: list[float] = []
    settle = BatchTopKRule.settle

    def counted(self: BatchTopKRule, entries: SparseEntries, n_rows: int, reach: float, ranks: Ranks) -> object:
        goes.append(reach)
        return settle(self, entries, n_rows, reach, ranks)

    monkeypatch.setattr(BatchTopKRule, "settle", counted)
    data = batches(40, 256)
    config = training_config("batchtopk", level=4, d_in=32, d_sae=128, lr=0.01)
    train([config], data, steps=40)
    first = len(goes)
    monkeypatch.setattr(batch_topk, "MARGIN", 1.2)
    train([config], data, steps=40)
    assert first <= 42
    assert len(goes) - first > 60, "control: a bound above the last threshold lists too few"
