"""Every architecture against every law: shapes, decode(0), folding, saving, batching, gradients, scale, L0."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from saelab.saes import sparse_ops
from saelab.saes.base import Rule, Sae, SaeConfig, TrainConfig, Weights
from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.saes.formats import load_sae, save_sae
from saelab.saes.sparse_ops import DenseEntries, SparseEntries
from saelab.training.inputs import Scaling
from saelab.training.objective import gradients, select
from saelab.training.step import initial_weights
from saelab.training.sweep import train

D, F, L0 = 12, 40, 5
PER_TOKEN = ("topk", "hierarchicaltopk", "aligned")
every = pytest.mark.parametrize("name", ARCHITECTURES)


def data(rows: int = 64, seed: int = 0, d: int = D) -> Tensor:
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(seed))


def config(name: str) -> TrainConfig:
    extra = {"widths": (8, 20)} if name == "matryoshka" else {}
    return training_config(name, level=L0, d_in=D, d_sae=F, **extra)


def state(name: str, seed: int = 0) -> tuple[TrainConfig, Rule, Weights, Tensor]:
    """Weights in the middle of nowhere: everything nonzero, latents of unequal size."""
    cfg = config(name)
    rule, weights, x = cfg.rule(torch.float32), initial_weights(cfg, seed), data(seed=seed + 1)
    g = torch.Generator().manual_seed(seed + 2)
    weights.encoder += 0.3 * torch.randn(F, D, generator=g)
    weights.b_dec += 0.3 * torch.randn(D, generator=g)
    rule.initial(weights, x)
    weights.b_enc += 0.2 * torch.randn(F, generator=g)
    for vector in weights.extra.values():
        vector += 0.1 * torch.randn(F, generator=g).abs()
    if "threshold" in weights.tracked:
        weights.tracked["threshold"].fill_(0.3)
    return cfg, rule, weights, x


def finished(name: str, scale: float = 3.0) -> tuple[Sae, Rule, Weights, Scaling]:
    _, rule, weights, _ = state(name)
    scaling = Scaling(10 * data(1)[0], scale)
    about = SaeConfig(architecture=name, d_in=D, d_sae=F, k=config(name).kept, site="resid_post.3", lm="tiny")
    return rule.module(weights, scaling.scale, scaling.mean, about), rule, weights, scaling


def dense_codes(name: str, weights: Weights, x: Tensor) -> Tensor:
    """Codes by the plain formulas, differentiable; straight-through where the papers say so."""
    pre = (x - weights.b_dec) @ weights.encoder.T + weights.b_enc
    if name == "relu":
        return pre.relu()
    if name == "gated":
        linear = pre - weights.b_enc
        magnitude = (linear * weights.extra["r_mag"].exp() + weights.extra["b_mag"]).relu()
        return magnitude * (pre > 0)
    if name == "jumprelu":
        return JumpRelu.apply(pre, weights.extra["threshold"])
    if name == "aligned":
        pre = (x - weights.b_dec) @ aligned(weights).T + weights.b_enc
    if name in PER_TOKEN:
        values, columns = pre.relu().topk(L0, dim=1)
        return torch.zeros_like(pre).scatter(1, columns, values)
    if name not in ("batchtopk", "matryoshka"):
        raise NotImplementedError(f"{name} has no oracle yet: write its codes by the formulas of its paper")
    flat = pre.relu().flatten()
    values, places = flat.topk(L0 * len(x))
    return torch.zeros_like(flat).scatter(0, places, values).view_as(pre)


def aligned(weights: Weights) -> Tensor:
    """Encoder rows moved along their decoder rows to where their product is one."""
    return weights.encoder + (1 - (weights.encoder * weights.decoder).sum(1, keepdim=True)) * weights.decoder


BANDWIDTH = 0.1


class JumpRelu(torch.autograd.Function):
    """z = pre 1[pre > θ] with the rectangle estimator for θ."""

    @staticmethod
    def forward(ctx, pre, theta):
        ctx.save_for_backward(pre, theta)
        return pre * (pre > theta)

    @staticmethod
    def backward(ctx, grad):
        pre, theta = ctx.saved_tensors
        band = ((pre - theta).abs() < BANDWIDTH / 2).float()
        return grad * (pre > theta), (-(theta / BANDWIDTH) * band * grad).sum(0)


class Step(torch.autograd.Function):
    """1[pre > θ] with the rectangle estimator for θ."""

    @staticmethod
    def forward(ctx, pre, theta):
        ctx.save_for_backward(pre, theta)
        return (pre > theta).float()

    @staticmethod
    def backward(ctx, grad):
        pre, theta = ctx.saved_tensors
        band = ((pre - theta).abs() < BANDWIDTH / 2).float()
        return None, (-band / BANDWIDTH * grad).sum(0)


def dense_loss(name: str, cfg: TrainConfig, weights: Weights, x: Tensor, c: float, dead: Tensor | None) -> Tensor:
    """The whole loss by the papers' formulas."""
    z = dense_codes(name, weights, x)
    encoder = aligned(weights) if name == "aligned" else weights.encoder
    pre = (x - weights.b_dec) @ encoder.T + weights.b_enc
    widths = getattr(cfg, "widths", ()) or (F,)
    parts = [z[:, :m] @ weights.decoder[:m] + weights.b_dec for m in widths]
    if name == "hierarchicaltopk":
        order = z.argsort(dim=1, descending=True)
        kept = [torch.zeros_like(z).scatter(1, order[:, :k], 1.0) for k in cfg.model_dump()["ks"]]
        parts = [(z * mask) @ weights.decoder + weights.b_dec for mask in kept]
    loss = torch.stack([(x - p).square().sum(1).mean() for p in parts]).mean()
    if name == "relu":
        loss = loss + c * z.sum(1).mean()
    if name == "gated":
        gate = pre.relu()
        frozen = gate @ weights.decoder.detach() + weights.b_dec.detach()
        loss = loss + c * gate.sum(1).mean() + (x - frozen).square().sum(1).mean()
    if name == "jumprelu":
        loss = loss + c * Step.apply(pre, weights.extra["threshold"]).sum(1).mean()
    if dead is not None:
        residual = (x - parts[-1]).detach()
        codes = ((x - weights.b_dec.detach()) @ encoder.T + weights.b_enc)[:, dead].relu()
        values, columns = codes.topk(min(len(dead), D // 2), dim=1)
        codes = torch.zeros_like(codes).scatter(1, columns, values)
        error = residual - codes @ weights.decoder[dead]
        loss = loss + 1 / 32 * error.square().sum() / (residual - residual.mean(0)).square().sum()
    return loss


@pytest.mark.parametrize("dead", [None, [0, 3, 17], list(range(0, 39, 2))], ids=["none dead", "few dead", "many dead"])
@pytest.mark.parametrize(
    ("name", "dense"),
    [(n, False) for n in ARCHITECTURES] + [(n, True) for n in ("relu", "gated", "jumprelu")],
)
def test_gradients_equal_dense_autograd(
    name: str, dead: list[int] | None, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-5 relative, in both layouts, with and without AuxK."""
    cfg, rule, weights, x = state(name)
    monkeypatch.setitem(sparse_ops.SPARSE_DENSITY, torch.float32, -1.0 if dense else 1.0)
    kind = type(select(weights, rule, x, torch.float32)[0])
    assert kind is (DenseEntries if dense else SparseEntries)
    which = None if dead is None else torch.tensor(dead)
    found, outcome = gradients(weights, rule, x, 0.07, torch.float32, dead=which, aux_coefficient=1 / 32)
    for tensor in weights.trained().values():
        tensor.requires_grad_()
    loss = dense_loss(name, cfg, weights, x, 0.07, which)
    names = list(weights.trained())
    expected = torch.autograd.grad(loss, [weights.trained()[n] for n in names])
    assert outcome.loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for n, e in zip(names, expected, strict=True):
        assert (found[n] - e).norm() <= 1e-5 * e.norm(), n
        assert e.norm() > 0, n


def test_the_gradient_oracle_can_fail() -> None:
    """Control: another coefficient gives another gradient."""
    cfg, rule, weights, x = state("relu")
    found, _ = gradients(weights, rule, x, 0.08, torch.float32)
    weights.encoder.requires_grad_()
    (expected,) = torch.autograd.grad(dense_loss("relu", cfg, weights, x, 0.07, None), [weights.encoder])
    assert (found["encoder"] - expected).norm() > 1e-3 * expected.norm()


def test_auxk_reaches_exactly_the_dead_encoder_rows() -> None:
    dead = torch.tensor([1, 5, 30])
    _, rule, weights, x = state("topk")
    without, _ = gradients(weights, rule, x, 0.0, torch.float32, dead=dead, aux_coefficient=0.0)
    with_aux, _ = gradients(weights, rule, x, 0.0, torch.float32, dead=dead, aux_coefficient=1.0)
    moved = {n: with_aux[n] - without[n] for n in ("encoder", "decoder", "b_enc")}
    for change in moved.values():
        rows = change.reshape(F, -1).abs().sum(1).nonzero().squeeze(1)
        assert rows.tolist() == dead.tolist()
    assert torch.equal(with_aux["b_dec"], without["b_dec"])


@every
def test_shapes_over_any_leading_dimensions(name: str) -> None:
    sae = finished(name)[0]
    x = data(24)
    flat = sae.encode(x)
    assert flat.shape == (24, F)
    for shape in ((2, 3, 4), (24, 1), (1, 24)):
        codes = sae.encode(x.view(*shape, D))
        assert codes.shape == (*shape, F)
        assert torch.allclose(codes.view(24, F), flat, atol=1e-6)
        assert sae(x.view(*shape, D)).shape == (*shape, D)
    assert sae.encode(x[0]).shape == (F,)


@every
def test_decode_of_nothing_is_b_dec(name: str) -> None:
    sae = finished(name)[0]
    assert torch.equal(sae.decode(torch.zeros(3, F)), sae.b_dec.expand(3, D))


@every
def test_folding_changes_units_and_nothing_else(name: str) -> None:
    """Codes of the finished SAE are the scale times the codes on scaled inputs; so are the reconstructions."""
    sae, _, weights, scaling = finished(name)
    raw = 40 * data(50, seed=9) + scaling.mean
    x = scaling(raw)
    if name in ("batchtopk", "matryoshka"):
        pre = (x - weights.b_dec) @ weights.encoder.T + weights.b_enc
        codes = pre * (pre > weights.tracked["threshold"])
    else:
        codes = dense_codes(name, weights, x)
    assert torch.allclose(sae.encode(raw), scaling.scale * codes, rtol=1e-4, atol=1e-4)
    expected = scaling.mean + scaling.scale * (codes @ weights.decoder + weights.b_dec)
    assert torch.allclose(sae(raw), expected, rtol=1e-4, atol=1e-3)


@every
def test_saved_and_loaded_is_the_same(name: str, tmp_path: Path) -> None:
    sae = finished(name)[0]
    save_sae(sae, tmp_path / "sae")
    again = load_sae(tmp_path / "sae")
    assert type(again) is type(sae)
    assert (again.cfg.architecture, again.cfg.site, again.cfg.lm, again.cfg.k) == (
        name,
        "resid_post.3",
        "tiny",
        sae.cfg.k,
    )
    x = 5 * data(20) + sae.b_dec
    assert torch.equal(again.encode(x), sae.encode(x))
    assert torch.equal(again(x), sae(x))


@every
def test_batched_equals_alone(name: str) -> None:
    sae = finished(name)[0]
    x = 5 * data(20) + sae.b_dec
    together = sae.encode(x)
    assert any(row.any() for row in together)
    for row, codes in zip(x, together, strict=True):
        assert torch.allclose(sae.encode(row), codes, atol=1e-5)


@every
@pytest.mark.parametrize("scale", [4.0, 1 / 64])
def test_training_does_not_see_the_scale(name: str, scale: float) -> None:
    """Trained on s x, s a power of two, the same weights come out; biases and thresholds are multiplied by s."""
    cfg = config(name)
    batches = [data(64, seed=i) + 2 for i in range(6)]
    (plain,) = train([cfg], batches, steps=12, precision="float32")
    (scaled,) = train([cfg], [b * scale for b in batches], steps=12, precision="float32")
    for n, tensor in plain.weights().items():
        factor = 1.0 if n in ("W_enc", "W_dec", "r_mag") else scale
        assert torch.allclose(scaled.weights()[n], factor * tensor, rtol=1e-4, atol=1e-6 * factor), n


@every
def test_l0_is_what_was_asked_for(name: str) -> None:
    """TopK exactly on every token; the batch rules exactly on the training batch."""
    _, rule, weights, x = state(name)
    entries, _ = select(weights, rule, x, torch.float32)
    active = entries.per_latent((rule.codes(entries, weights) > 0).float()).sum()
    if name in PER_TOKEN:
        sae = finished(name)[0]
        assert ((sae.encode(5 * data(20) + sae.b_dec) > 0).sum(1) == L0).all()
    if name in (*PER_TOKEN, "batchtopk", "matryoshka"):
        assert int(active) == L0 * len(x)
    else:
        dense = (dense_codes(name, weights, x) > 0).sum()
        assert int(active) == int(dense)


@every
def test_the_paper_preset(name: str) -> None:
    cfg = training_config(name, level=80, d_in=2304, d_sae=16384, preset="paper")
    assert (cfg.lr, cfg.lr_warmup, cfg.sparsity_warmup, cfg.lr_decay) == (3e-4, 1000, 5000, 0.2)
    assert cfg.level == 80
    assert training_config(name, level=80, d_in=8, d_sae=99, preset="paper", lr=1e-2).lr == 1e-2
    assert training_config(name, level=80, d_in=8, d_sae=99).lr != 3e-4
