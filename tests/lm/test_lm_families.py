"""Any causal language model: families that differ in kind, each against transformers' own forward; models broken on
purpose are refused with the block at which they part; all families in the sweep.
"""

import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from saelab.core.errors import UserError
from saelab.lm import parity
from saelab.lm.blocks import Decoder
from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.lm.parity import prove
from saelab.lm.shrink import lively_model, small_config
from saelab.lm.tiny import tiny_lm, tiny_tokenizer

tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "lm_families.py"))
CLOSE = {"atol": 1e-4, "rtol": 1e-4}
# What each is here for.
KINDS = {
    "mistral": "a sliding window without layer types",
    "mixtral": "experts",
    "gemma": "a multiplied embedding",
    "granite": "multipliers of embedding, residuals and logits",
    "olmo2": "norms after attention and MLP",
    "phi": "attention beside the MLP, biases, half-turned positions",
    "cohere2": "windows by layer type, a scaled head",
    "bloom": "positions as biases on attention",
    "opt": "learned positions with an offset",
    "gpt_oss": "experts, windows and sinks",
    "deepseek_v3": "latent attention, shared experts",
    "gemma3": "text and images",
}
RECURRENT = {"qwen3_next": "linear attention", "mamba": "no attention at all"}


@cache
def lm_of(family: str) -> LanguageModel:
    return LanguageModel(tool["build"](family), tiny_tokenizer(384), reference=family, name=family)


def some(lm: LanguageModel, length: int = 11, rows: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(8, min(lm.vocab_size, 90), (rows, length), generator=generator)


@pytest.mark.parametrize("family", [*KINDS, *RECURRENT])
def test_a_family_equals_transformers(family: str) -> None:
    """Hidden states of every block and logits, as transformers returns them, longer than any window."""
    lm = lm_of(family)
    assert not lm._decoder.listed  # these are walked
    tokens = some(lm)
    theirs = lm.model(input_ids=tokens, output_hidden_states=True)
    kind = "resid_post" if family == "mamba" else "resid_pre"  # Mamba's list begins after the first block
    sites = [f"{kind}.{i}" for i in range(lm.n_layers - (family == "mamba"))]
    ours = lm.run_to(tokens, sites)
    for site, expected in zip(sites, theirs.hidden_states, strict=False):
        torch.testing.assert_close(ours[site], expected, **CLOSE)
    torch.testing.assert_close(lm.logits(tokens), theirs.logits.float(), **CLOSE)
    first, second = ours[sites[0]], ours[sites[1]]
    assert (first - second).norm() > 1e-2 * first.norm()  # control: no block is near the identity


@pytest.mark.parametrize("family", KINDS)
def test_a_family_is_changed_continued_and_generates(family: str) -> None:
    """Edits, restarts, effects from kept keys and generation with a cache equal whole passes."""
    lm, middle = lm_of(family), lm_of(family).n_layers // 2
    site, tokens = f"resid_post.{middle - 1}", some(lm_of(family))
    hidden = lm.run_to(tokens, [site])[site]
    vector = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(2))
    whole = lm.logits(tokens)
    changed = lm.logits(tokens, edits=[Add(site, vector, 2.0)])
    torch.testing.assert_close(lm.run_from(hidden, site), whole, **CLOSE)
    torch.testing.assert_close(lm.run_from(hidden + 2.0 * vector, site), changed, **CLOSE)
    assert (changed - whole).abs().max() > 1e-2
    prefix = lm.prefill(tokens[0].tolist(), site)
    after = lm.continue_from(prefix, torch.stack([prefix.hidden, prefix.hidden + 2.0 * vector]))
    last = hidden.clone()
    last[:, -1] += 2.0 * vector
    torch.testing.assert_close(after[:1], whole[:, -1], **CLOSE)
    torch.testing.assert_close(after[1:], lm.run_from(last, site)[:, -1], **CLOSE)
    prompts = [tokens[0].tolist(), tokens[0, :6].tolist()]
    written = lm.generate_ids(prompts, Sampling(4), edits=[Add(site, vector, 2.0)])
    for prompt, ids in zip(prompts, written, strict=True):
        row = torch.tensor([prompt + ids])
        expected = lm.logits(row, edits=[Add(site, vector, 2.0)])[0, len(prompt) - 1 :].argmax(-1)
        assert ids == expected[: len(ids)].tolist()


@pytest.mark.parametrize("family", RECURRENT)
def test_what_a_recurrent_model_cannot_do_is_refused_by_name(family: str) -> None:
    """Whole passes and restarts work; what needs kept keys and values is one sentence."""
    lm = lm_of(family)
    tokens = some(lm)
    hidden = lm.run_to(tokens, ["resid_post.1"])["resid_post.1"]
    torch.testing.assert_close(lm.run_from(hidden, "resid_post.1"), lm.logits(tokens), **CLOSE)
    with pytest.raises(UserError, match=rf"keep and go on from keys and values of a {family} model: .*docs/lm\.md"):
        lm.generate_ids([tokens[0].tolist()])
    assert lm.nll([tokens[0].tolist()], [[9, 10]])[0].shape == (2,)


# --- broken on purpose ---


def broken(decoder: Decoder, block: int, change: Any) -> None:
    """Put a change between a decoder and one of its blocks."""
    call = decoder._way.call

    def changed(i: int, hidden: torch.Tensor, frame: Any, cache: Any) -> torch.Tensor:
        return change(call, i, hidden, frame, cache) if i == block else call(i, hidden, frame, cache)

    decoder._way.call = changed


def test_a_wrong_mask_is_refused_with_its_block() -> None:
    """A window that our own masks do not know, as when a family was added in one line."""
    model = tool["build"]("mistral")
    model.config.model_type = "llama"
    decoder = Decoder(model)
    assert decoder.listed
    decoder._way._window = None  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"parts from its own forward after block 0"):
        prove(decoder)
    decoder = Decoder(model, listed=False)
    assert prove(decoder).cached is None  # control: walked, the same model agrees


def test_a_missing_multiplier_is_refused_before_the_first_block() -> None:
    decoder = Decoder(tool["build"]("granite"))
    embed = decoder._way.embed
    decoder._way.embed = lambda *a: embed(*a) / decoder.config.embedding_multiplier * 0.5
    with pytest.raises(UserError, match=r"granite model .* parts from its own forward before block 0"):
        prove(decoder)


def test_a_swapped_norm_is_refused_with_its_block() -> None:
    decoder = Decoder(tool["build"]("olmo2"))

    def change(call: Any, i: int, hidden: torch.Tensor, frame: Any, cache: Any) -> torch.Tensor:
        block: Any = decoder.blocks[i]
        one, other = block.post_attention_layernorm, block.post_feedforward_layernorm
        block.post_attention_layernorm, block.post_feedforward_layernorm = other, one
        try:
            return call(i, hidden, frame, cache)
        finally:
            block.post_attention_layernorm, block.post_feedforward_layernorm = one, other

    broken(decoder, 2, change)
    with pytest.raises(UserError, match=r"parts from its own forward after block 2"):
        prove(decoder)


def test_a_change_of_the_stream_between_blocks_is_refused_with_its_block() -> None:
    """A forward that does more than call its blocks, which no recorder sees."""
    model = tiny_lm("llama", n_layers=3).model
    forward = model.model.layers[1].forward
    model.model.layers[1].forward = lambda hidden, *a, **k: forward(hidden, *a, **k)
    inner, blocks = type(model.model).forward, model.model.layers

    def doubled(self: Any, *args: Any, **kwargs: Any) -> Any:
        handle = blocks[2].register_forward_pre_hook(lambda m, a: (a[0] * 2, *a[1:]))
        try:
            return inner(self, *args, **kwargs)
        finally:
            handle.remove()

    model.model.forward = doubled.__get__(model.model)
    with pytest.raises(UserError, match=r"parts from its own forward before block 2"):
        prove(Decoder(model))


def test_a_model_that_reads_ahead_is_refused() -> None:
    """BERT without `is_decoder` has the face of a causal model."""
    with pytest.raises(UserError, match=r"tokens read what comes after them|cannot be walked|parts from"):
        LanguageModel(tool["build"]("bert"), tiny_tokenizer(384), reference="bert", name="bert")


def test_a_long_window_is_proved_on_a_small_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of 4,096 is never reached by short batches; wrong, it is found all the same."""
    config = small_config(AutoConfig.for_model("mistral"))
    config.sliding_window = 4096
    decoder = Decoder(lively_model(config))
    assert prove(decoder).cached is None
    seen = []
    monkeypatch.setattr(parity, "_prove_small", lambda d: seen.append(d.config.sliding_window))
    prove(decoder)
    assert seen == [4096]


# --- all of them ---


@pytest.mark.sweep
@pytest.mark.parametrize("family", tool["families"]())
def test_every_family_that_transformers_ships(family: str) -> None:
    """Opens and equals transformers' own hidden states, or is refused with a reason; as docs/lm.md says."""
    kind, reason, decoder = tool["outcome"](family)
    page = " ".join((Path(__file__).parents[2] / "docs" / "lm.md").read_text(encoding="utf-8").split())
    title = page.index(tool["KINDS"][kind].split(":")[0])
    others = [page.index(t.split(":")[0]) for k, t in tool["KINDS"].items() if k != kind]
    place = page.index(f"`{family}`", title)
    assert not any(title < other < place for other in others), "docs/lm.md: run tools/lm_families.py --write docs/lm.md"
    assert reason or kind == "whole"
    if decoder is None:
        return
    lm = LanguageModel(decoder, tiny_tokenizer(384), reference=family, name=family)
    tokens = some(lm)
    torch.testing.assert_close(
        lm.logits(tokens), decoder.model(input_ids=tokens, use_cache=False).logits.float(), **CLOSE
    )
