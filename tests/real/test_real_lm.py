"""The real SmolLM2-135M-Instruct: the laws of tests/lm on real weights. Fails where the weights cannot be had."""

import pytest
import torch

from saelab.lm.batching import pad_left
from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel

pytestmark = pytest.mark.real

TEXT = "When the 3 ships came home, in the winter of 1987, the harbour was full of people waiting for them."
PROMPTS = ["The capital of France is", "Water boils at", "Once upon a time, in a small village by the sea,"]


def test_what_was_loaded(smollm: LanguageModel) -> None:
    assert (smollm.family, smollm.n_layers, smollm.d_model, smollm.vocab_size) == ("llama", 30, 576, 49152)
    assert smollm.name == "smollm2-135m" and smollm.bos_id == 1 and smollm.special_ids == set(range(17))


@pytest.mark.parametrize("layer", [0, 14, 28])
def test_captures_are_hidden_states_bit_for_bit(smollm: LanguageModel, layer: int) -> None:
    tokens = torch.tensor(smollm.tokenize([TEXT]))
    theirs = smollm.model(tokens, output_hidden_states=True)
    ours = smollm.run_to(tokens, [f"resid_post.{layer}"])[f"resid_post.{layer}"]
    assert torch.equal(ours, theirs.hidden_states[layer + 1])
    assert torch.equal(smollm.run_from(ours, f"resid_post.{layer}"), theirs.logits)


def test_paris(smollm: LanguageModel) -> None:
    assert smollm.generate(PROMPTS[:1], sampling=Sampling(1)) == [" Paris"]


def test_left_padding_and_the_cache_change_nothing(smollm: LanguageModel) -> None:
    """Logits of a padded batch within 1e-5 of the logits' own size, and the text of single uncached rows."""
    rows = smollm.tokenize(PROMPTS)
    tokens, mask = pad_left(rows)
    batch = smollm.logits(tokens, mask=mask)[:, -1]
    together = smollm.generate_ids(rows, sampling=Sampling(4))
    for i, row in enumerate(rows):
        alone = smollm.logits(torch.tensor([row]))[0, -1]
        assert (batch[i] - alone).norm() < 1e-5 * alone.norm()
        for token in together[i]:
            assert token == int(smollm.logits(torch.tensor([row]))[0, -1].argmax())
            row = [*row, token]


def test_continuing_a_prefix_is_the_model(smollm: LanguageModel) -> None:
    row = smollm.tokenize([TEXT])[0]
    prefix = smollm.prefill(row, "resid_post.15")
    expected = smollm.logits(torch.tensor([row]))[0, -1]
    got = smollm.continue_from(prefix, prefix.hidden[None].repeat(3, 1))
    assert (got - expected).norm(dim=-1).max() < 1e-5 * expected.norm()


def test_edits_steer_and_zero_does_not(smollm: LanguageModel) -> None:
    vector = torch.randn(576, generator=torch.Generator().manual_seed(0))
    chat = [smollm.chat("Name an animal.")] * 3
    strengths = torch.tensor([0.0, 4.0, 40.0])
    got = smollm.generate_ids(chat, edits=[Add("resid_post.15", vector, strengths)], sampling=Sampling(8))
    assert got[0] == smollm.generate_ids(chat[:1], sampling=Sampling(8))[0]
    assert got[2] != got[0]
    tokens = torch.tensor(chat[:1])
    assert torch.equal(smollm.logits(tokens, edits=[Add("resid_post.15", vector, 0.0)]), smollm.logits(tokens))


def test_real_text_is_likelier_than_its_words_shuffled(smollm: LanguageModel) -> None:
    words = TEXT.split()
    shuffled = " ".join(words[i] for i in torch.randperm(len(words), generator=torch.Generator().manual_seed(0)))
    rows = smollm.tokenize([TEXT, shuffled], bos=False)
    real, other = smollm.nll([[1], [1]], rows)
    assert 2.0 < real.mean() < 4.5 and other.mean() > real.mean() + 1.5


def test_digits_and_spaces_are_split_as_smollm_splits_them(smollm: LanguageModel) -> None:
    """One token per digit, also after a run of spaces (a plain byte-level splitter cuts the run elsewhere)."""
    row = smollm.tokenize(["year   1987"], bos=False)[0]
    assert smollm.token_strings(row) == ["year", "   ", "1", "9", "8", "7"]


def test_chat_begins_with_one_bos(smollm: LanguageModel) -> None:
    row = smollm.chat("Hi")
    assert row[:2] == smollm.tokenize(["system"])[0] and row[-3:] == [520, 9531, 198]


def test_the_bfloat16_copy_is_close(smollm: LanguageModel) -> None:
    """docs/lm.md states the relative error of bf16 activations at site 15; the massive BOS position is left out."""
    low = smollm.to_dtype("bfloat16")
    exact, rounded = (m.capture([TEXT, *PROMPTS], ["resid_post.15"])["resid_post.15"] for m in (smollm, low))
    error = (rounded - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert 0.001 < error.median() < 0.03
