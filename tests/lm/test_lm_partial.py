"""Passes that start in the middle: run_from, and prefixes continued one position at a time."""

import copy

import pytest
import torch

from saelab.core.errors import UserError
from saelab.lm.batching import pad_left
from saelab.lm.edit import Replace
from saelab.lm.model import LanguageModel

LONG = "The ship came home and the sea was calm again."
CLOSE = {"atol": 2e-5, "rtol": 1e-5}
SITES = ["resid_post.0", "resid_post.2", "resid_post.3", "resid_pre.0", "resid_pre.2"]


@pytest.mark.parametrize("site", SITES)
def test_run_from_what_run_to_gave_is_the_model(lm: LanguageModel, site: str) -> None:
    tokens = torch.tensor(lm.tokenize([LONG]))
    hidden = lm.run_to(tokens, [site])[site]
    assert torch.equal(lm.run_from(hidden, site), lm.logits(tokens))


def test_run_from_under_left_padding(lm: LanguageModel) -> None:
    tokens, mask = pad_left(lm.tokenize([LONG, "A short one."]))
    assert mask is not None
    hidden = lm.run_to(tokens, ["resid_post.1"], mask=mask)["resid_post.1"]
    torch.testing.assert_close(lm.run_from(hidden, "resid_post.1", mask=mask), lm.logits(tokens, mask=mask), **CLOSE)


@pytest.mark.parametrize("site", SITES)
def test_the_last_position_alone_is_the_last_of_all(lm: LanguageModel, site: str) -> None:
    """With and without padding; the last block's MLP is spared the other positions (where it is above the site)."""
    widths: list[int] = []
    part = lm._decoder.part("mlp_out", lm.n_layers - 1)
    handle = part.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))
    try:
        for texts in ([LONG], [LONG, "A short one."], ["A"]):
            tokens, mask = pad_left(lm.tokenize(texts))
            hidden = lm.run_to(tokens, [site], mask=mask)[site]
            expected = lm.run_from(hidden, site, mask=mask)[:, -1:]
            widths.clear()
            torch.testing.assert_close(lm.run_from(hidden, site, mask=mask, last=True), expected, **CLOSE)
            assert widths == ([] if site == "resid_post.3" else [1])
            other = lm.run_from(hidden.flip(-1), site, mask=mask, last=True)
            assert (other - expected).abs().max() > 1e-4, "control"
    finally:
        handle.remove()


def test_run_from_does_not_run_the_blocks_below(lm: LanguageModel) -> None:
    tokens = torch.tensor(lm.tokenize([LONG]))
    broken = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, reference="broken", name="broken")
    for block in broken._decoder.blocks[:2]:
        for weight in block.parameters():
            weight.data.fill_(float("nan"))
    hidden = lm.run_to(tokens, ["resid_post.1"])["resid_post.1"]
    assert torch.equal(broken.run_from(hidden, "resid_post.1"), lm.logits(tokens))
    assert broken.logits(tokens).isnan().all()  # control


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("text", [LONG, "A", ""])
def test_continuing_unedited_is_the_model(lm: LanguageModel, site: str, text: str) -> None:
    """For prompts longer than the sliding window, short ones, and BOS alone."""
    row = lm.tokenize([text])[0]
    prefix = lm.prefill(row, site)
    expected = lm.logits(torch.tensor([row]))[:, -1]
    got = lm.continue_from(prefix, prefix.hidden[None].repeat(5, 1))
    torch.testing.assert_close(got, expected.expand(5, -1), **CLOSE)


def test_continuing_is_replacing_the_last_position(lm: LanguageModel) -> None:
    """Each row of a continued batch equals a whole run with the site's last activation replaced."""
    row = lm.tokenize([LONG])[0]
    prefix = lm.prefill(row, "resid_post.1")
    hidden = prefix.hidden + torch.randn(4, lm.d_model, generator=torch.Generator().manual_seed(0))
    got = lm.continue_from(prefix, hidden)
    edit = Replace("resid_post.1", hidden, positions="last")
    expected = lm.logits(torch.tensor([row] * 4), edits=[edit])[:, -1]
    torch.testing.assert_close(got, expected, **CLOSE)
    assert (got - lm.continue_from(prefix, prefix.hidden[None])).abs().max() > 1e-2  # control


def test_a_prefix_is_not_changed_by_use(llama: LanguageModel) -> None:
    prefix = llama.prefill(llama.tokenize([LONG])[0], "resid_post.1")
    first = llama.continue_from(prefix, prefix.hidden[None])
    llama.continue_from(prefix, torch.zeros(3, llama.d_model))
    assert torch.equal(llama.continue_from(prefix, prefix.hidden[None]), first)


def test_gradients_reach_the_activations(llama: LanguageModel) -> None:
    """Frozen weights, but run_from can be differentiated by what it is given."""
    hidden = torch.zeros(1, 3, llama.d_model, requires_grad=True)
    llama.run_from(hidden, "resid_post.1").logsumexp(-1).sum().backward()
    assert hidden.grad is not None and hidden.grad.abs().sum() > 0


def test_what_cannot_be_started_from_is_refused(llama: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"cannot start at mlp_out\.1.*stream before its block"):
        llama.run_from(torch.zeros(1, 3, llama.d_model), "mlp_out.1")
    with pytest.raises(UserError, match="at least one token"):
        llama.prefill([], "resid_post.1")
    with pytest.raises(UserError, match=r"16 wide, but resid_post\.1 is 32 wide"):
        llama.run_from(torch.zeros(1, 3, 16), "resid_post.1")
    with pytest.raises(UserError, match="nothing to run"):
        llama.logits(torch.zeros(0, 3, dtype=torch.long))
