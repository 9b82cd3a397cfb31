"""What a text's numbers may depend on: the text, never its batch mates, what ran before, or what a block does later."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from saelab.core.errors import UserError
from saelab.lm.blocks import positions_of
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.lm.shrink import lively_model, small_config
from saelab.lm.tiny import tiny_tokenizer

REACH = 16
ROPES: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic": ("llama", {"factor": 4.0}),
    "longrope": ("phi3", {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4}),
}


def opened(family: str, **changes: Any) -> LanguageModel:
    config = small_config(AutoConfig.for_model(family))
    for name, value in (changes | {"vocab_size": 384}).items():
        setattr(config, name, value)
    return LanguageModel(lively_model(config), tiny_tokenizer(384), reference=family, name=family)


@pytest.mark.parametrize("kind", ROPES)
def test_a_table_that_depends_on_length_is_not_gone_beyond(kind: str) -> None:
    family, more = ROPES[kind]
    rope = {"rope_type": kind, "rope_theta": 10000.0, "original_max_position_embeddings": REACH} | more
    most = REACH if kind == "dynamic" else 4 * REACH
    lm = opened(family, rope_parameters=rope, max_position_embeddings=most, original_max_position_embeddings=REACH)
    ids = torch.randint(4, 90, (1, 2 * REACH), generator=torch.Generator().manual_seed(0))
    before, short = lm.logits(ids[:, :REACH]), ids[0, :4].tolist()
    asked = [lambda: lm.logits(ids), lambda: lm.nll([short, short], [ids[0].tolist()] * 2)]
    asked += [
        lambda: lm.capture([short, ids[0].tolist()], ["resid_post.0"]),
        lambda: lm.prefill(ids[0].tolist(), "resid_post.0"),
    ]
    asked += [lambda: lm.generate_ids([short], Sampling(4 * REACH))]
    for ask in asked:
        with pytest.raises(UserError, match=rf"longer than the {REACH} .* depends on the longest text"):
            ask()
        assert torch.equal(lm.logits(ids[:, :REACH]), before)
    theirs = lm.model(ids).logits[:, :REACH]  # control: in a longer row their beginning is another
    assert (theirs - before).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["gptj", "codegen", "mpt", "gpt2", "opt"])
def test_a_text_longer_than_the_table_of_positions_is_refused(family: str) -> None:
    """Whether the table stands before the blocks or in each of them. Control: a text as long as the table."""
    lm = opened(family)
    most = positions_of(lm.model.config)
    assert most is not None
    assert lm.logits(torch.full((1, most), 9)).isfinite().all()
    with pytest.raises(UserError, match=rf"{most}|no embedding for") as refused:
        lm.logits(torch.full((1, most + 1), 9))
    assert "horter texts" in str(refused.value.hint) or f"at most {most} tokens" in str(refused.value.hint)


@pytest.mark.parametrize("family", ["qwen3_next", "granitemoehybrid"])
def test_without_kept_keys_whole_rows_run(family: str) -> None:
    """Likelihoods after a shared prefix, and the last position of a pass from a site, where nothing can be kept."""
    lm = opened(family)
    assert lm._decoder.limits.cached is not None
    ids = torch.arange(10, 22)[None]
    stream = lm.run_to(ids, ["resid_post.0"])["resid_post.0"]
    torch.testing.assert_close(lm.run_from(stream, "resid_post.0", last=True)[:, 0], lm.logits(ids)[:, -1])
    together = lm.nll([[5, 6], [5, 6]], [[8, 9], [7]])
    torch.testing.assert_close(together[0], lm.nll([[5, 6]], [[8, 9]])[0])
    with pytest.raises(UserError, match="keep and go on from keys and values"):  # control
        lm.prefill(ids[0].tolist(), "resid_post.0")


def test_what_is_captured_inside_a_block_stays() -> None:
    """Falcon adds the attention's output to the very tensor that its MLP gave."""
    lm = opened("falcon")
    ids = torch.arange(10, 22)[None]
    kept: dict[str, torch.Tensor] = {}
    part = lm._decoder.part("mlp_out", 1)
    assert part is not None

    def keep(module: object, args: object, out: Any) -> None:
        kept.update(copy=out.clone(), itself=out)

    hook = part.register_forward_hook(keep)
    lm.model(ids)
    hook.remove()
    got = lm.run_to(ids, [f"{kind}.1" for kind in ("resid_pre", "attn_out", "mlp_out", "resid_post")])
    assert torch.equal(got["mlp_out.1"], kept["copy"])
    assert not torch.equal(kept["itself"], kept["copy"])  # control
    total = got["resid_pre.1"] + got["attn_out.1"] + got["mlp_out.1"]
    torch.testing.assert_close(total, got["resid_post.1"], atol=1e-5, rtol=1e-5)
