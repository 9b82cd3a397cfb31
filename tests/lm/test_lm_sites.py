"""Sites inside a block: what they are, that an edit there is seen by the rest of the block, and passes from there."""

from typing import Any

import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.sites import KINDS, Site
from saelab.lm.edit import Add, Replace
from saelab.lm.model import LanguageModel

CLOSE = {"atol": 2e-5, "rtol": 1e-5}
TEXT = "The ship came home and the sea was calm."
INSIDE = ("attn_out", "resid_mid", "mlp_in", "mlp_out", "z")


def ids(lm: LanguageModel) -> Tensor:
    return torch.tensor(lm.tokenize([TEXT]))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def has(lm: LanguageModel, kind: str) -> bool:
    return kind != "resid_mid" or lm.family != "gpt_neox"


def part(lm: LanguageModel, kind: Any) -> Any:
    return lm._decoder.part(kind, 2)


def read(lm: LanguageModel, *kinds: str, edits: tuple = ()) -> list[Tensor]:
    found = lm.run_to(ids(lm), [f"{kind}.2" for kind in kinds], edits=edits)
    return [found[f"{kind}.2"] for kind in kinds]


def test_the_sites_of_a_block_make_one_another(lm: LanguageModel) -> None:
    kinds = [kind for kind in KINDS if has(lm, kind)]
    found = dict(zip(kinds, read(lm, *kinds), strict=True))
    mixed = part(lm, "z")(found["z"])
    after = lm._decoder.part("attn_out", 2)
    attention = after(mixed) if "gemma" in lm.family else mixed  # Gemma's norm comes between
    torch.testing.assert_close(attention, found["attn_out"], **CLOSE)
    made = lm._decoder.blocks[2].mlp(found["mlp_in"])
    made = part(lm, "mlp_out")(made) if "gemma" in lm.family else made
    torch.testing.assert_close(made, found["mlp_out"], **CLOSE)
    if has(lm, "resid_mid"):
        torch.testing.assert_close(found["resid_pre"] + found["attn_out"], found["resid_mid"], **CLOSE)
        torch.testing.assert_close(found["resid_mid"] + found["mlp_out"], found["resid_post"], **CLOSE)
        assert (found["resid_pre"] - found["resid_mid"]).abs().max() > 1e-2  # control: attention did something


@pytest.mark.parametrize("kind", INSIDE)
def test_strength_zero_changes_nothing_and_others_do(lm: LanguageModel, kind: str) -> None:
    if not has(lm, kind):
        return
    plain, vector = lm.logits(ids(lm)), draw(lm.width(f"{kind}.2"))
    assert torch.equal(lm.logits(ids(lm), edits=[Add(f"{kind}.2", vector, 0.0)]), plain)
    assert not torch.allclose(lm.logits(ids(lm), edits=[Add(f"{kind}.2", vector, 1.0)]), plain, atol=1e-3)


def test_an_edit_of_the_middle_is_one_of_what_attention_adds(lm: LanguageModel) -> None:
    if not has(lm, "resid_mid"):
        return
    vector = draw(lm.d_model)
    middle, added = (lm.logits(ids(lm), edits=[Add(f"{kind}.2", vector)]) for kind in ("resid_mid", "attn_out"))
    torch.testing.assert_close(middle, added, atol=1e-4, rtol=1e-4)
    only_read = lm.logits(ids(lm), edits=[Add("resid_post.2", vector)])  # control: the MLP does not see that one
    assert (only_read - added).abs().max() > 1e-3
    mid, post, out = read(lm, "resid_mid", "resid_post", "mlp_out", edits=(Add("resid_mid.2", vector),))
    torch.testing.assert_close(mid + out, post, **CLOSE)


def test_heads_are_edited_before_they_are_mixed(lm: LanguageModel) -> None:
    vector, plain = draw(lm.width("z.2")), read(lm, "z")[0]
    project = part(lm, "z")
    z, out = read(lm, "z", "attn_out", edits=(Add("z.2", vector),))
    torch.testing.assert_close(z, plain + vector, **CLOSE)
    if "gemma" not in lm.family:
        torch.testing.assert_close(out, project(plain + vector), **CLOSE)
    assert (out - read(lm, "attn_out")[0]).abs().max() > 1e-2  # control


@pytest.mark.parametrize("kind", INSIDE)
def test_a_pass_from_inside_a_block_is_the_whole_pass_with_the_site_replaced(lm: LanguageModel, kind: str) -> None:
    """With the clean activations it is the clean pass; with others, at all positions or the last, the edited one."""
    if not has(lm, kind):
        return
    site, tokens = f"{kind}.2", ids(lm)
    found = lm.run_to(tokens, [site, "resid_pre.2"])
    stream, x = found["resid_pre.2"], found[site]
    torch.testing.assert_close(lm.run_from(x, site, stream=stream), lm.logits(tokens), **CLOSE)
    moved = x + draw(*x.shape)
    edited = lm.logits(tokens, edits=[Replace(site, lambda _: moved)])
    torch.testing.assert_close(lm.run_from(moved, site, stream=stream), edited, **CLOSE)
    torch.testing.assert_close(lm.run_from(moved, site, stream=stream, last=True), edited[:, -1:], **CLOSE)
    prefix = lm.prefill(tokens[0].tolist(), site)
    torch.testing.assert_close(prefix.hidden, x[0, -1], **CLOSE)
    rows = draw(3, x.shape[-1], seed=1)
    for row, logits in zip(rows, lm.continue_from(prefix, rows), strict=True):
        whole = lm.logits(tokens, edits=[Replace(site, row, "last")])[0, -1]
        torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)
    assert (lm.continue_from(prefix, rows)[0] - lm.logits(tokens)[0, -1]).abs().max() > 1e-3  # control


def test_generation_with_the_cache_sees_edits_inside_a_block(lm: LanguageModel) -> None:
    """One token at a time is one whole pass a token."""
    kinds = [kind for kind in INSIDE if has(lm, kind)]
    edits = [Add(f"{kind}.1", 0.3 * draw(lm.width(f"{kind}.1"), seed=i)) for i, kind in enumerate(kinds)]
    row = ids(lm)[0].tolist()
    got = lm.generate_ids([row], edits=edits)[0][:6]
    for token in got:
        assert int(lm.logits(torch.tensor([row]), edits=edits)[0, -1].argmax()) == token
        row.append(token)


def test_widths_and_the_lens_go_by_the_site(lm: LanguageModel) -> None:
    wide = part(lm, "z").weight.shape[0 if lm.family == "gpt2" else 1]
    assert lm.width("z.2") == wide and lm.width("mlp_in.2") == lm.width("resid_post.2") == lm.d_model
    rows = draw(2, wide)
    project = part(lm, "z")
    torch.testing.assert_close(lm.lens(rows, "z.2"), lm.unembed(project(rows) - project(0 * rows)), **CLOSE)
    assert torch.equal(lm.lens(draw(2, lm.d_model), "attn_out.2"), lm.unembed(draw(2, lm.d_model)))
    with pytest.raises(UserError, match=r"mlp_in\.2 is none of the stream"):
        lm.lens(draw(2, lm.d_model), "mlp_in.2")
    with pytest.raises(UserError, match=rf"7 wide|{wide} wide"):
        lm.logits(ids(lm), edits=[Add("z.2", draw(7))])


def test_a_block_without_a_middle_says_so(lm: LanguageModel) -> None:
    if has(lm, "resid_mid"):
        assert lm.site("resid_mid.2") == Site("resid_mid", 2)
        return
    with pytest.raises(UserError, match=r"gpt_neox has no resid_mid\.2: attention and MLP read the same stream"):
        lm.run_to(ids(lm), ["resid_mid.2"])
    with pytest.raises(UserError, match=r"has no resid_mid\.2"):
        lm.logits(ids(lm), edits=[Add("resid_mid.2", draw(lm.d_model))])
