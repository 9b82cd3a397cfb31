"""Parity with transformers: the same bits unpadded, the same values padded, in part or in whole."""

import copy

import pytest
import torch

from saelab.core.errors import UserError
from saelab.lm.batching import pad_left
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm

LONG = "The ship came home and the sea was calm again."
TEXTS = [LONG, "A short one.", "Then the harbour was full."]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def ids(lm: LanguageModel, text: str = LONG) -> torch.Tensor:
    return torch.tensor(lm.tokenize([text]))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_captures_are_hidden_states_bit_for_bit(lm: LanguageModel, layer: int) -> None:
    """resid_post.L is hidden_states[L+1], resid_pre.L is hidden_states[L], at early, middle and late blocks."""
    theirs = lm.model(ids(lm), output_hidden_states=True).hidden_states
    ours = lm.run_to(ids(lm), [f"resid_post.{layer}", f"resid_pre.{layer}"])
    assert torch.equal(ours[f"resid_post.{layer}"], theirs[layer + 1])
    assert torch.equal(ours[f"resid_pre.{layer}"], theirs[layer])
    assert not torch.equal(ours[f"resid_post.{layer}"], theirs[layer])  # control: an off-by-one would show


def test_the_last_block_is_read_before_the_final_norm(lm: LanguageModel) -> None:
    """transformers' last hidden state is after the final norm; ours is before, and unembed() of it gives the logits."""
    theirs = lm.model(ids(lm), output_hidden_states=True)
    last = lm.run_to(ids(lm), ["resid_post.3"])["resid_post.3"]
    assert not torch.equal(last, theirs.hidden_states[-1])
    assert torch.equal(lm.unembed(last), theirs.logits)
    assert torch.equal(lm.logits(ids(lm)), theirs.logits)


def test_parts_of_a_block_add_up(lm: LanguageModel) -> None:
    """resid_pre + attn_out + mlp_out = resid_post, also where norms come after (Gemma) or branches run side by side."""
    hooks = sum(len(m._forward_hooks) for m in lm.model.modules())
    got = lm.run_to(ids(lm), ["resid_pre.2", "attn_out.2", "mlp_out.2", "resid_post.2"])
    total = got["resid_pre.2"] + got["attn_out.2"] + got["mlp_out.2"]
    torch.testing.assert_close(total, got["resid_post.2"], **CLOSE)
    assert sum(len(m._forward_hooks) for m in lm.model.modules()) == hooks  # ours are gone again


def test_nothing_above_the_last_site_runs(lm: LanguageModel) -> None:
    broken = LanguageModel(copy.deepcopy(lm.model), lm.tokenizer, reference="broken", name="broken")
    for block in broken._decoder.blocks[2:]:
        for weight in block.parameters():
            weight.data.fill_(float("nan"))
    got = broken.run_to(ids(lm), ["resid_post.1"])
    assert torch.equal(got["resid_post.1"], lm.run_to(ids(lm), ["resid_post.1"])["resid_post.1"])
    assert broken.logits(ids(lm)).isnan().all()  # control


def test_a_left_padded_batch_is_its_rows(lm: LanguageModel) -> None:
    """Rows longer and shorter than the sliding window, padded together, equal themselves alone."""
    rows = lm.tokenize(TEXTS)
    tokens, mask = pad_left(rows)
    assert mask is not None
    got = lm.run_to(tokens, ["resid_post.1", "resid_post.3"], mask=mask)
    logits = lm.logits(tokens, mask=mask)
    for i, row in enumerate(rows):
        alone = lm.run_to(torch.tensor([row]), ["resid_post.1", "resid_post.3"])
        for site, values in alone.items():
            torch.testing.assert_close(got[site][i, mask[i]], values[0], **CLOSE)
        torch.testing.assert_close(logits[i, mask[i]], lm.logits(torch.tensor([row]))[0], **CLOSE)
    unmasked = lm.logits(tokens)
    assert (unmasked[1, -1] - logits[1, -1]).abs().max() > 1e-3  # control: the mask matters


def test_padding_agrees_with_transformers(lm: LanguageModel) -> None:
    tokens, mask = pad_left(lm.tokenize(TEXTS))
    assert mask is not None
    places = (mask.long().cumsum(1) - 1).clamp_min(0)
    theirs = lm.model(tokens, attention_mask=mask.long(), position_ids=places).logits
    torch.testing.assert_close(lm.logits(tokens, mask=mask)[mask], theirs[mask], **CLOSE)


def test_capture_is_run_to_without_special_positions(lm: LanguageModel) -> None:
    """Text by text, position by position, whatever the batch; BOS dropped."""
    got = lm.capture(TEXTS, ["layers.1", "mlp_out.2"], batch_size=2)
    for site in ("resid_post.1", "mlp_out.2"):
        alone = [lm.run_to(torch.tensor([row]), [site])[site][0, 1:] for row in lm.tokenize(TEXTS)]
        torch.testing.assert_close(got[site], torch.cat(alone), **CLOSE)


def test_nll_is_cross_entropy_of_the_logits(lm: LanguageModel) -> None:
    """In any batch, with and without neighbours; an empty continuation has no losses."""
    prefixes = lm.tokenize(TEXTS)
    continuations = lm.tokenize([" and so on", " then", ""], bos=False)
    got = lm.nll(prefixes, continuations)
    for prefix, continuation, values in zip(prefixes, continuations, got, strict=True):
        logits = lm.logits(torch.tensor([prefix + continuation]))[0].log_softmax(-1)
        places = torch.arange(len(prefix) - 1, len(prefix) + len(continuation) - 1)
        expected = -logits[places, torch.tensor(continuation, dtype=torch.long)]
        torch.testing.assert_close(values, expected, **CLOSE)


def test_nll_after_a_shared_prefix_equals_each_row_alone(lm: LanguageModel) -> None:
    prefix, other = lm.tokenize(["A common start", "Something else"])
    texts = [*lm.tokenize([" goes on", " ends here, after a while", "."], bos=False), []]
    together = lm.nll([prefix] * 4 + [other] * 4, texts * 2)
    for prefixes, part in ((prefix, together[:4]), (other, together[4:])):
        for text, got in zip(texts, part, strict=True):
            assert torch.allclose(got, lm.nll([prefixes], [text])[0], atol=1e-4)
    assert not torch.allclose(together[0], together[4], atol=1e-4), "control: the prefix matters"


def test_a_bfloat16_copy_keeps_its_buffers_and_its_original(lm: LanguageModel) -> None:
    before = lm.logits(ids(lm))
    low = lm.to_dtype("bfloat16")
    assert low.run_to(ids(lm), ["resid_post.1"])["resid_post.1"].dtype == torch.bfloat16 == low.dtype
    assert low.capture([LONG], ["resid_post.1"])["resid_post.1"].dtype == torch.float32
    error = (low.logits(ids(lm)) - before).norm() / before.norm()
    assert 0 < error < 0.1
    assert torch.equal(lm.logits(ids(lm)), before)
    pairs = zip(low.model.named_buffers(), lm.model.named_buffers(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def test_a_site_beyond_the_last_block_is_refused(llama: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"resid_post\.4 is beyond .* has 4.*resid_post\.0, resid_post\.3"):
        llama.run_to(ids(llama), ["resid_post.4"])
    with pytest.raises(UserError, match=r"not a site"):
        llama.capture([LONG], ["resid_pots.1"])


def test_only_left_padding_is_accepted(llama: LanguageModel) -> None:
    for row in ([True, True, False], [True, False, True]):
        with pytest.raises(UserError, match="left padding"):
            llama.logits(ids(llama)[:, :3], mask=torch.tensor([row]))


def test_tiny_models_are_the_same_every_time() -> None:
    a, b, c = tiny_lm("llama", seed=1), tiny_lm("llama", seed=1), tiny_lm("llama", seed=2)
    assert torch.equal(a.logits(ids(a)), b.logits(ids(b)))
    assert not torch.equal(a.logits(ids(a)), c.logits(ids(c)))
    with pytest.raises(UserError, match="Did you mean llama"):
        tiny_lm("lama")
