"""Generation: our cached, batched, padded loop against the slow obvious one, plain and under edits."""

import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.lm import generate
from saelab.lm.edit import Add, Edit, Splice
from saelab.lm.generate import Sampling, choose
from saelab.lm.model import LanguageModel

TWICE = "The ship came home and the sea was quiet."
PROMPTS = [TWICE, "A cat", TWICE, "On Monday,"]
NEW = 8
POSITIONS = ["all", "prompt", "generated", "last"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slowly(lm: LanguageModel, prompt: list[int], vector: Tensor, strength: float, positions: str) -> list[int]:
    """Greedy text by whole uncached runs of one row, the edit written out by hand."""
    row = list(prompt)

    def edit(x: Tensor) -> Tensor:
        n = len(prompt)
        where = {"all": slice(None), "prompt": slice(0, n), "generated": slice(n, None), "last": slice(n - 1, n)}
        x = x.clone()
        x[:, where[positions]] += strength * vector
        return x

    for _ in range(NEW):
        token = int(lm.logits(torch.tensor([row]), edits=[Splice("resid_post.1", edit)])[0, -1].argmax())
        if token in lm.stop_ids:
            break
        row.append(token)
    return row[len(prompt) :]


@pytest.mark.parametrize("positions", POSITIONS)
def test_generation_is_the_slow_loop(lm: LanguageModel, positions: str) -> None:
    """Cache on = cache off, batch = single rows, own edit per row, and each position rule touches what it says."""
    rows, vectors, strengths = lm.tokenize(PROMPTS), draw(4, lm.d_model), torch.tensor([0.0, 3.0, -3.0, 6.0])
    expected = [slowly(lm, r, v, float(s), positions) for r, v, s in zip(rows, vectors, strengths, strict=True)]
    edit = Add("resid_post.1", vectors, strengths, positions)  # pyright: ignore[reportArgumentType]
    for batch_size in (2, 4):
        got = lm.generate_ids(rows, edits=[edit], batch_size=batch_size, sampling=Sampling(NEW))
        assert got == expected, batch_size
    plain = [slowly(lm, r, vectors[0], 0.0, positions) for r in rows]
    assert expected[0] == plain[0] and expected != plain  # control: the edits matter


def test_position_rules_differ(lm: LanguageModel) -> None:
    """Control of the above: at this strength no two rules give the same text."""
    edits = [Add("resid_post.1", draw(lm.d_model), 6.0, p) for p in POSITIONS]  # pyright: ignore[reportArgumentType]
    texts = [tuple(lm.generate_ids(PROMPTS[:1], edits=[e], sampling=Sampling(NEW))[0]) for e in edits]
    assert len(set(texts)) > 2


def test_edits_inside_blocks_hold_while_generating(lm: LanguageModel) -> None:
    """mlp_out and attn_out edits, with prompts shared by rows: a batch is its rows; the hooks are gone afterwards."""
    hooks = sum(len(m._forward_hooks) for m in lm.model.modules())
    vectors = draw(4, lm.d_model)
    for site in ("mlp_out.2", "attn_out.1", "resid_pre.0"):
        edits: list[Edit] = [Add(site, vectors, 2.0)]
        together = lm.generate_ids(PROMPTS, edits=edits, sampling=Sampling(NEW))
        for i, prompt in enumerate(PROMPTS):
            alone: list[Edit] = [Add(site, vectors[i], 2.0)]
            assert lm.generate_ids([prompt], edits=alone, sampling=Sampling(NEW))[0] == together[i]
    assert sum(len(m._forward_hooks) for m in lm.model.modules()) == hooks


def test_a_zero_edit_generates_the_unedited_text(lm: LanguageModel) -> None:
    plain = lm.generate_ids(PROMPTS, sampling=Sampling(NEW))
    assert lm.generate_ids(PROMPTS, edits=[Add("resid_post.1", draw(lm.d_model), 0.0)], sampling=Sampling(NEW)) == plain
    assert plain[0] == plain[2]


def test_samples_do_not_depend_on_the_batch(lm: LanguageModel) -> None:
    """A row's sample comes from its own stream: alone (by its seed), in any batch size, run again."""
    seeds = (11, 12, 13, 14)
    ways = [lm.generate_ids(PROMPTS, batch_size=b, sampling=Sampling(NEW, 1.0, seeds)) for b in (1, 3)]
    assert ways[0] == ways[1]
    alone = lm.generate_ids(PROMPTS[3:], sampling=Sampling(NEW, 1.0, (14,)))
    assert alone[0] == ways[0][3]
    assert ways[0][0] != ways[0][2]  # the same prompt, another stream
    one, two = (lm.generate(PROMPTS, sampling=Sampling(NEW, 1.0, s)) for s in (1, 2))
    assert one == lm.generate(PROMPTS, sampling=Sampling(NEW, 1.0, 1)) != two


def test_sampling_follows_the_distribution() -> None:
    """Frequencies over evenly spread u are the softmax at the temperature; greedy is the largest."""
    logits = torch.tensor([1.0, -2.0, 0.5, 3.0])
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    for temperature in (0.5, 1.0, 2.0):
        tokens = choose(logits.expand(20_000, 4), temperature, uniform)
        share = torch.bincount(tokens, minlength=4) / 20_000
        torch.testing.assert_close(share, (logits / temperature).softmax(-1), atol=2e-4, rtol=0)
    assert choose(logits[None], 1.0, torch.tensor([1.0])).item() == 3  # rounding never leaves the vocabulary
    assert choose(logits[None], 0.0, None).item() == 3


def test_generation_stops_at_eos_row_by_row(llama: LanguageModel) -> None:
    """A stop id ends its row, is not part of it, and changes no other row."""
    plain = llama.generate_ids(PROMPTS, sampling=Sampling(NEW))
    stop = plain[1][4]
    rows = [row[: row.index(stop)] if stop in row else row for row in plain]
    kept = llama.model.generation_config.eos_token_id
    llama.model.generation_config.eos_token_id = [stop, 257]
    try:
        assert llama.stop_ids == {stop, 257}
        assert llama.generate_ids(PROMPTS, sampling=Sampling(NEW)) == rows
        assert llama.generate_ids(PROMPTS, batch_size=1, sampling=Sampling(NEW)) == rows
    finally:
        llama.model.generation_config.eos_token_id = kept
    assert len({len(r) for r in rows}) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_enter_the_slots_of_ended_ones_and_change_nothing(
    lm: LanguageModel, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts of many lengths that end at many times: a small batch with its comings and goings is its rows alone."""
    prompts = [[1 + (7 * i + j) % 250 for j in range(2 + i % 5)] for i in range(17)]
    vectors, strengths = draw(17, lm.d_model), torch.linspace(-4, 4, 17)

    def written(rows: list[int], batch_size: int) -> list[list[int]]:
        edit = Add("resid_post.1", vectors[rows], strengths[rows])
        return lm.generate_ids(
            [prompts[i] for i in rows],
            Sampling(16, temperature, tuple(90 + i for i in rows)),
            edits=[edit],
            batch_size=batch_size,
        )

    plain = [written([i], 1)[0] for i in range(17)]
    ends = frozenset({row[5] for row in plain[::5]} | lm.stop_ids)
    monkeypatch.setattr(LanguageModel, "stop_ids", property(lambda self: ends))
    expected = [row[: next((j for j, t in enumerate(row) if t in ends), 16)] for row in plain]
    assert len({len(row) for row in expected}) > 2, "control: rows do end at different times"
    calls: list[str] = []
    for name in ("put", "keep", "make_room"):
        own = getattr(generate._Rows, name)
        monkeypatch.setattr(generate._Rows, name, lambda self, *a, n=name, f=own: (calls.append(n), f(self, *a))[1])
    for batch_size in (1, 3, 8, 32):
        assert written(list(range(17)), batch_size) == expected, batch_size
    needed = {"put", "keep", "make_room"} if temperature else {"put", "keep"}  # greedy rows may end before it is full
    assert needed <= set(calls), "control: rows came, went, and the cache was cut"


def test_limits_and_order(llama: LanguageModel) -> None:
    assert llama.generate([], sampling=Sampling(3)) == []
    assert [len(r) for r in llama.generate_ids(["a", "b"], sampling=Sampling(1))] == [1, 1]
    assert llama.generate_ids(PROMPTS, sampling=Sampling(0)) == [[]] * 4
    backwards = llama.generate(PROMPTS[::-1], batch_size=2, sampling=Sampling(NEW))
    assert backwards[::-1] == llama.generate(PROMPTS, batch_size=2, sampling=Sampling(NEW))


def test_bad_input_is_a_sentence(llama: LanguageModel) -> None:
    with pytest.raises(UserError, match="Prompt 1 has no tokens"):
        llama.generate_ids([[1], []])
    with pytest.raises(UserError, match="2 seeds for 4 prompts"):
        llama.generate_ids(PROMPTS, sampling=Sampling(seed=(1, 2)))
    with pytest.raises(UserError, match=r"vector has shape \[3, 32\].*4 rows"):
        llama.generate_ids(PROMPTS, edits=[Add("resid_post.1", draw(3, 32))])
    with pytest.raises(UserError, match="temperature is 0"):
        llama.generate_ids(PROMPTS, sampling=Sampling(temperature=-1.0))
    with pytest.raises(UserError, match="batch_size"):
        llama.generate_ids(PROMPTS, batch_size=0)
    with pytest.raises(UserError, match="beyond the last block"):
        llama.generate_ids(PROMPTS, edits=[Add("resid_post.9", draw(32))])
