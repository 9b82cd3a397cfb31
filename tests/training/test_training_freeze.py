"""Hard baselines: what is frozen stays, what is near its start stays near, and what training finds they do not."""

from pathlib import Path

import pytest
import torch
from planted import batches, directions

from saelab.core.errors import UserError
from saelab.saes.base import Freeze
from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.saes.formats import load_sae, save_sae
from saelab.training.freeze import COSINE, principal, within
from saelab.training.start import start_misfit
from saelab.training.step import Trainee
from saelab.training.sweep import train

KEPT: dict[Freeze, set[str]] = {"none": set(), "decoder": {"decoder"}, "encoder": {"encoder"}, "soft": set(),
                                "principal": {"encoder", "decoder"}}  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("freeze", KEPT)
def test_what_is_frozen_keeps_its_bytes(architecture: str, freeze: Freeze) -> None:
    """The rest learns around it, after a resume too; what is not frozen moves."""
    rows = torch.randn(8, 256, 8, generator=torch.Generator().manual_seed(0))
    cfg = training_config(architecture, level=4, d_in=8, d_sae=24, dead_tokens=256, freeze=freeze)
    whole, torn = (Trainee(cfg, rows[0], steps=8, seed=0, dtype=torch.float32) for _ in range(2))
    before = {name: t.clone() for name, t in whole.weights.trained().items()}
    for i, x in enumerate(rows):
        if i == 4:
            torn = Trainee(cfg, rows[4], steps=8, seed=0, dtype=torch.float32)  # begins on another batch, as a resume
            torn.load(*whole.state())
        whole.step(x)
        if i >= 4:
            torn.step(x)
    same = {name for name, t in whole.weights.trained().items() if torch.equal(t, before[name])}
    assert same & {"encoder", "decoder"} == KEPT[freeze]
    assert "b_dec" not in same
    for name, t in whole.weights.trained().items():
        assert torch.equal(t, torn.weights.trained()[name]), name


def test_the_projection_is_the_nearest_point_of_the_cap() -> None:
    """Unit rows of cosine at least 0.8 are left, others go to its edge, and no point of the cap is nearer."""
    rows, start = directions(200, 3, seed=3), directions(200, 3, seed=4)
    rows[0], rows[1] = start[0], -start[1]
    found = within(rows, start)
    cosine, before = ((r * start).sum(1) for r in (found, rows))
    assert (before < COSINE).sum() > 100, "control: many were outside"
    assert torch.allclose(found.norm(dim=1), torch.ones(200), atol=1e-6) and (cosine >= COSINE - 1e-6).all()
    assert torch.equal(found[before >= COSINE], rows[before >= COSINE])
    assert torch.allclose(cosine[2:][before[2:] < COSINE], torch.tensor(COSINE), atol=1e-6)
    cap = directions(20000, 3, seed=5)
    for i in range(2, 60):
        inside = cap[cap @ start[i] >= COSINE]
        assert float((inside @ rows[i]).max()) <= float(found[i] @ rows[i]) + 1e-6
    assert torch.equal(found[1], start[1]), "a row opposite to its start has no nearest point: the start"


def test_soft_rows_stay_near_their_start_while_free_ones_leave() -> None:
    data = batches(30)
    nearest: dict[str, float] = {}
    for freeze in ("soft", "none"):
        cfg = training_config("topk", level=4, d_in=32, d_sae=96, lr=0.03, freeze=freeze)
        x = torch.cat(data)
        rows = ((x - x.mean(0)) / (x - x.mean(0)).square().sum(1).mean().sqrt()).split(256)
        trainee = Trainee(cfg, rows[0], steps=60, seed=0, dtype=torch.float32)
        start = trainee.weights.decoder.clone()
        for i in range(60):
            trainee.step(rows[i % 30])
            least = float((trainee.weights.decoder * start).sum(1).min())
            nearest[freeze] = min(least, nearest.get(freeze, 1.0))
    assert nearest["soft"] >= COSINE - 1e-5 and nearest["none"] < COSINE - 0.1


def test_principal_directions_are_those_that_were_planted() -> None:
    """Orthogonal directions of falling spread come back in order; of data without any, as a control, they do not."""
    axes = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0))).Q
    spread = torch.tensor([32.0, 16.0, 8.0, 4.0, 2.0, 1.0])
    drawn = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1))
    found = principal(drawn * spread @ axes + 5.0)
    assert (found * axes).sum(1).abs().min() > 0.99
    assert (principal(drawn @ axes) * axes).sum(1).abs().min() < 0.9, "control: all directions alike"


def test_a_pca_dictionary_rebuilds_by_the_largest_projections() -> None:
    """TopK on signed pairs of orthonormal directions is the projection on the k largest, before anything is learnt;
    of more latents than directions the rest never fires.
    """
    x = batches(1)[0]
    x = (x - x.mean(0)) / 30
    cfg = training_config("topk", level=3, d_in=32, d_sae=80, freeze="principal")
    trainee = Trainee(cfg, x, steps=10, seed=0, dtype=torch.float32)
    weights, axes = trainee.weights, principal(x)
    codes = x @ axes.T
    keep = codes.abs().topk(3, dim=1).indices
    best = torch.zeros_like(codes).scatter_(1, keep, codes.gather(1, keep)) @ axes
    pre = x @ weights.encoder.T
    top = pre.topk(3, dim=1)
    assert torch.allclose(torch.zeros_like(pre).scatter_(1, top.indices, top.values) @ weights.decoder, best, atol=1e-4)
    assert (pre[:, 64:] == 0).all() and torch.allclose(weights.decoder.norm(dim=1), torch.ones(80), atol=1e-5)


def test_training_finds_planted_features_and_the_baselines_do_not() -> None:
    """Found: planted directions that a decoder row has a cosine of 0.9 with. Shuffled entries, as a control, leave
    nothing to be found.
    """
    planted, data = directions(64, 32), batches(20, rows=128)

    def found(kinds: list[Freeze], rows: list[torch.Tensor]) -> list[float]:
        configs = [training_config("topk", level=4, d_in=32, d_sae=96, lr=0.02, freeze=kind) for kind in kinds]
        saes = train(configs, rows, steps=150)
        return [float(((planted @ sae.W_dec.T).max(1).values > 0.9).float().mean()) for sae in saes]

    g = torch.Generator().manual_seed(0)
    shuffled = [x[torch.rand(x.shape, generator=g).argsort(0), torch.arange(32)] for x in data]
    learnt, *kept = found(["none", "decoder", "encoder", "soft", "principal"], data)
    assert learnt > 0.8 and max(kept) < learnt - 0.3, kept
    assert found(["none"], shuffled)[0] < 0.1


def test_a_former_key_is_refused_with_the_new_one() -> None:
    with pytest.raises(UserError, match="`frozen_decoder: true` is now said by `freeze: decoder`"):
        training_config("topk", level=4, d_in=8, d_sae=64, frozen_decoder=True)
    with pytest.raises(UserError, match="principal directions of one site rebuild no other"):
        training_config("topk", level=4, d_in=8, d_out=8, d_sae=64, freeze="principal")


def test_a_finished_sae_with_the_former_key_still_opens(tmp_path: Path) -> None:
    (sae,) = train([training_config("topk", level=4, d_in=32, d_sae=64, freeze="decoder")], batches(4), steps=4)
    kept = dict(sae.cfg.metadata["training"])
    assert kept.pop("freeze") == "decoder"
    sae.cfg.metadata["training"] = kept | {"frozen_decoder": True}
    save_sae(sae, tmp_path / "sae")
    again = load_sae(str(tmp_path / "sae"))
    assert torch.equal(again.W_dec, sae.W_dec)


def test_what_is_not_frozen_is_not_mentioned() -> None:
    """A config's digest seeds its first weights: those of all other SAEs are what they were."""
    free, frozen = (training_config("topk", level=4, d_in=8, d_sae=64, freeze=f) for f in ("none", "decoder"))
    assert "freeze" not in free.model_dump(mode="json") and frozen.model_dump(mode="json")["freeze"] == "decoder"
    assert free.digest() != frozen.digest()
    assert type(frozen).parse(frozen.model_dump(mode="json")) == frozen


def test_principal_directions_begin_nowhere_else() -> None:
    (sae,) = train([training_config("topk", level=4, d_in=32, d_sae=64)], batches(4), steps=4)
    misfits = [
        start_misfit(sae, training_config("topk", level=4, d_in=32, d_sae=64, freeze=f)) for f in ("soft", "principal")
    ]
    assert misfits[0] is None and misfits[1] is not None and "principal directions" in misfits[1]
