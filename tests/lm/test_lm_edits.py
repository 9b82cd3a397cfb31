"""Edits: what they do to an activation, to which positions, and to which row."""

import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.lm.edit import Ablate, Add, Clamp, Edit, Replace, Splice
from saelab.lm.model import LanguageModel

TEXT = "The ship came home."
SITES = ["resid_post.1", "resid_pre.2", "mlp_out.1", "attn_out.2", "mlp_in.1"]


def ids(lm: LanguageModel, rows: int = 1) -> Tensor:
    return torch.tensor(lm.tokenize([TEXT] * rows))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def at(lm: LanguageModel, site: str, *edits: Edit, rows: int = 1) -> Tensor:
    return lm.run_to(ids(lm, rows), [site], edits=edits)[site]


@pytest.mark.parametrize("site", SITES)
def test_strength_zero_changes_nothing_bit_for_bit(lm: LanguageModel, site: str) -> None:
    plain = lm.logits(ids(lm))
    assert torch.equal(lm.logits(ids(lm), edits=[Add(site, draw(lm.d_model), 0.0)]), plain)
    assert not torch.equal(lm.logits(ids(lm), edits=[Add(site, draw(lm.d_model), 1.0)]), plain)  # control


def test_strength_zero_keeps_negative_zero_and_survives_infinite_vectors() -> None:
    x = torch.tensor([[[-0.0, 1.0]]])
    got = Add("resid_post.0", torch.tensor([float("inf"), 1.0]), 0.0).apply(x, torch.tensor([0]))
    assert torch.equal(got, x) and bool(torch.signbit(got[0, 0, 0]))


@pytest.mark.parametrize("site", SITES)
def test_doubling_the_strength_doubles_the_change(lm: LanguageModel, site: str) -> None:
    vector, plain = draw(lm.d_model), at(lm, site)
    once = at(lm, site, Add(site, vector, 1.5)) - plain
    twice = at(lm, site, Add(site, vector, 3.0)) - plain
    torch.testing.assert_close(once, (1.5 * vector).expand_as(once), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(twice, 2 * once, atol=1e-5, rtol=1e-5)


def test_clamp_sets_the_coordinate(lm: LanguageModel) -> None:
    vector = draw(lm.d_model)
    got = at(lm, "resid_post.1", Clamp("resid_post.1", vector, 2.5))
    torch.testing.assert_close(got @ vector / vector.square().sum(), torch.full(got.shape[:2], 2.5))
    across = torch.linalg.qr(torch.stack([vector, draw(lm.d_model, seed=1)], dim=1)).Q[:, 1]
    torch.testing.assert_close(got @ across, at(lm, "resid_post.1") @ across, atol=1e-5, rtol=1e-5)


def test_clamp_with_a_reader_moves_by_what_is_missing(llama: LanguageModel) -> None:
    """h + (a - z) w, z read by any function: AxBench's clamp of one SAE latent."""
    encode, decode, plain = draw(llama.d_model), draw(llama.d_model, seed=1), at(llama, "resid_post.1")

    def read(x: Tensor, rows: Tensor) -> Tensor:
        return torch.relu(x @ encode - 0.5)

    z = read(plain, torch.tensor([0]))[..., None]
    got = at(llama, "resid_post.1", Clamp("resid_post.1", decode, 3.0, read))
    torch.testing.assert_close(got, plain + (3.0 - z) * decode)
    raised = at(llama, "resid_post.1", Clamp("resid_post.1", decode, 1.0, read, at_least=True))
    torch.testing.assert_close(raised, plain + (1.0 - z).clamp_min(0) * decode)
    assert bool((z > 1).any()) and bool((z < 1).any())


def test_ablate_takes_the_direction_out_or_to_the_mean(lm: LanguageModel) -> None:
    vector, mean = draw(lm.d_model), draw(lm.d_model, seed=1)
    out = at(lm, "resid_post.1", Ablate("resid_post.1", vector))
    torch.testing.assert_close(out @ vector, torch.zeros(out.shape[:2]), atol=1e-4, rtol=0)
    to_mean = at(lm, "resid_post.1", Ablate("resid_post.1", vector, mean))
    torch.testing.assert_close(to_mean @ vector, (mean @ vector).expand(out.shape[:2]), atol=1e-4, rtol=1e-5)
    assert torch.equal(at(lm, "resid_post.1", Ablate("resid_post.1", mean=mean))[0, 3], mean)
    assert not at(lm, "resid_post.1", Ablate("resid_post.1")).any()


def test_replace_and_splice_put_new_values_in_place(lm: LanguageModel) -> None:
    vector = draw(lm.d_model)
    assert torch.equal(at(lm, "resid_post.1", Replace("resid_post.1", vector))[0, 2], vector)
    halved = at(lm, "resid_post.1", Splice("resid_post.1", lambda x: x / 2))
    assert torch.equal(halved, at(lm, "resid_post.1") / 2)
    assert torch.equal(at(lm, "resid_post.1", Replace("resid_post.1", lambda x: x / 2)), halved)
    same = lm.logits(ids(lm), edits=[Splice("resid_post.1", lambda x: x)])
    assert torch.equal(same, lm.logits(ids(lm)))


@pytest.mark.parametrize(
    ("positions", "touched"),
    [("all", slice(None)), ("prompt", slice(None)), ("last", slice(-1, None)), ("generated", slice(0, 0))],
)
def test_only_the_named_positions_of_a_prompt_change(lm: LanguageModel, positions: str, touched: slice) -> None:
    vector = draw(lm.d_model)
    for edit in (
        Add("resid_post.1", vector, 2.0, positions),  # pyright: ignore[reportArgumentType]
        Clamp("resid_post.1", vector, 9.0, positions=positions),  # pyright: ignore[reportArgumentType]
        Replace("resid_post.1", vector, positions),  # pyright: ignore[reportArgumentType]
        Ablate("resid_post.1", vector, positions=positions),  # pyright: ignore[reportArgumentType]
        Splice("resid_post.1", lambda x: 2 * x, positions),  # pyright: ignore[reportArgumentType]
    ):
        changed = (at(lm, "resid_post.1", edit) != at(lm, "resid_post.1")).any(-1)[0]
        expected = torch.zeros_like(changed)
        expected[touched] = True
        assert torch.equal(changed, expected), edit


def per_row(d: int) -> list[Edit]:
    encode = draw(4, d, seed=5)

    def read(x: Tensor, rows: Tensor) -> Tensor:
        return torch.relu((x * encode[rows][:, None]).sum(-1))

    strength = torch.tensor([0.0, 1.0, -2.0, 4.0])
    return [
        Add("resid_post.1", draw(4, d), strength),
        Add("resid_post.1", draw(d), strength),
        Add("mlp_out.1", draw(4, d), strength),
        Clamp("resid_post.1", draw(4, d), strength, read),
        Clamp("resid_post.2", draw(d), strength),
        Replace("resid_post.1", draw(4, d), positions="last"),
        Ablate("resid_post.1", draw(4, d)),
    ]


@pytest.mark.parametrize("which", range(7))
def test_a_mixed_batch_is_its_rows(lm: LanguageModel, which: int) -> None:
    """Every row gets its own vector, strength and reader: the trap of shared clamp factors (spec A3)."""
    edit = per_row(lm.d_model)[which]
    batch = lm.logits(ids(lm, 4), edits=[edit])
    for i in range(4):
        x = at(lm, str(edit.site))
        alone = edit.apply(x[:, -1:] if edit.positions == "last" else x, torch.tensor([i]))
        whole = torch.cat([x[:, :-1], alone], dim=1) if edit.positions == "last" else alone
        expected = lm.logits(ids(lm), edits=[Replace(edit.site, lambda _, whole=whole: whole)])
        torch.testing.assert_close(batch[i], expected[0], atol=2e-5, rtol=1e-4)
    assert (batch[1] - batch[3]).abs().max() > 1e-2  # control: rows differ


def test_edits_at_one_site_apply_in_order(llama: LanguageModel) -> None:
    vector = draw(llama.d_model)
    add, double = Add("resid_post.1", vector, 1.0), Splice("resid_post.1", lambda x: 2 * x)
    plain = at(llama, "resid_post.1")
    assert torch.equal(at(llama, "resid_post.1", add, double), 2 * (plain + vector))
    assert torch.equal(at(llama, "resid_post.1", double, add), 2 * plain + vector)


def test_wrong_sizes_are_sentences(llama: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"16.*32 wide"):
        llama.logits(ids(llama), edits=[Add("resid_post.1", draw(16))])
    with pytest.raises(UserError, match=r"strength has shape .3.*2 rows"):
        llama.logits(ids(llama, 2), edits=[Add("resid_post.1", draw(32), draw(3))])
    with pytest.raises(UserError, match=r"vector has shape .3, 32.*2 rows"):
        llama.logits(ids(llama, 2), edits=[Add("resid_post.1", draw(3, 32))])
    with pytest.raises(UserError, match="beyond the last block"):
        llama.logits(ids(llama), edits=[Add("resid_post.9", draw(32))])
    with pytest.raises(UserError, match="keep the shape"):
        llama.logits(ids(llama), edits=[Splice("resid_post.1", lambda x: x[:, 1:])])
