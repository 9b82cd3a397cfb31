"""A stream's rows are a harvest's, each once in a pass; batch i is a function of (seed, i); one LM pass serves all."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pretended import PLACE, Pretended
from saelab.activations.harvest import HarvestConfig, harvest
from saelab.activations.live import WINDOW, LiveActivations
from saelab.activations.shards import ActivationShards
from saelab.core.errors import UserError
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.text.corpora import Document
from saelab.text.pack import PackedText, pack_for

SITES = ["resid_post.0", "resid_post.1"]
CONFIG = HarvestConfig(batch_contexts=2, shard_contexts=8, dtype="float32", sink_ratio=1.2)
BATCH, SAMPLE = 13, 8


class Counted:
    """An LM that notes which contexts it has read."""

    def __init__(self, lm: LanguageModel):
        self.lm, self.read = lm, 0
        self.reference, self.dtype, self.device = lm.reference, lm.dtype, lm.device

    def run_to(self, tokens: Int[Tensor, "B T"], sites: Sequence[str]) -> Mapping[str, Float[Tensor, "B T D"]]:
        self.read += len(tokens)
        return self.lm.run_to(tokens, sites)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_lm(n_layers=2, d_model=16)


@pytest.fixture(scope="module")
def packed(lm: LanguageModel) -> PackedText:
    documents = [Document(f"d/{i}", f"The {i}th text tells of {i * i} things and of {i + 7}. " * 3) for i in range(40)]
    return pack_for(lm, documents, context=16, n_contexts=31, separator_id=257)


@pytest.fixture(scope="module")
def stored(lm: LanguageModel, packed: PackedText, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return harvest(lm, packed, SITES, tmp_path_factory.mktemp("whole"), config=CONFIG)


@pytest.fixture(scope="module")
def sample(lm: LanguageModel, packed: PackedText, tmp_path_factory: pytest.TempPathFactory) -> dict:
    return harvest(lm, packed.first(SAMPLE), SITES, tmp_path_factory.mktemp("sample"), config=CONFIG)


def opened(lm: LanguageModel | Counted, packed: PackedText, sample: dict, buffer_rows: int = 100) -> LiveActivations:
    return LiveActivations(lm, packed, sample, config=CONFIG, buffer_rows=buffer_rows)


def all_rows(shards: ActivationShards) -> Tensor:
    return torch.cat([shards.read(k).rows for k in range(len(shards.manifest.shards))])


def ordered(rows: Tensor) -> list[list[float]]:
    return sorted(rows.tolist())


@pytest.mark.parametrize("buffer_rows", [100, 10_000])
def test_a_pass_has_the_rows_of_a_harvest(
    lm: LanguageModel, packed: PackedText, stored: dict, sample: dict, buffer_rows: int
) -> None:
    whole = all_rows(stored[SITES[0]])
    assert 0 < len(whole) < int(packed.counts.sum()), "control: some positions are sinks"
    live = opened(lm, packed, sample, buffer_rows)
    steps = -(-2 * len(whole) // BATCH)
    batches = list(live.at(SITES[0]).batches(BATCH, steps=steps, seed=3))
    assert all(b.shape == (BATCH, 16) and b.dtype == torch.float32 for b in batches)
    stream = torch.cat(batches)
    first, second = stream[: len(whole)], stream[len(whole) : 2 * len(whole)]
    assert ordered(first) == ordered(second) == ordered(whole)
    assert not torch.equal(first, second) and not torch.equal(first, whole), "control: the order is another one"


def test_any_start_gives_the_same_batches_and_another_seed_does_not(
    lm: LanguageModel, packed: PackedText, sample: dict
) -> None:
    whole = list(opened(lm, packed, sample).at(SITES[0]).batches(BATCH, steps=40, seed=3))
    for start in (1, 11, 30, 39):
        late = list(opened(lm, packed, sample).at(SITES[0]).batches(BATCH, steps=40, seed=3, start=start))
        assert len(late) == 40 - start
        assert all(torch.equal(a, b) for a, b in zip(late, whole[start:], strict=True)), start
    other = next(iter(opened(lm, packed, sample).at(SITES[0]).batches(BATCH, steps=1, seed=4)))
    assert not torch.equal(other, whole[0])


def test_what_was_seen_spares_reading_and_changes_nothing(lm: LanguageModel, packed: PackedText, sample: dict) -> None:
    begun = opened(lm, packed, sample).at(SITES[0])
    whole = list(begun.batches(BATCH, steps=60, seed=0))
    fresh, told = Counted(lm), Counted(lm)
    late = opened(fresh, packed, sample).at(SITES[0])
    knowing = opened(told, packed, sample).at(SITES[0])
    knowing.recall(begun.seen)
    for source in (late, knowing):
        assert torch.equal(next(iter(source.batches(BATCH, steps=60, seed=0, start=20))), whole[20])
    blocks = -(-100 // (2 * 16)) * 2  # contexts of one
    assert 2 * blocks <= told.read <= 3 * blocks < fresh.read


def test_two_sites_share_one_pass_and_each_is_as_alone(lm: LanguageModel, packed: PackedText, sample: dict) -> None:
    counted = Counted(lm)
    live = opened(counted, packed, sample)
    first, second = (live.at(site).batches(BATCH, steps=25, seed=1) for site in SITES)
    seen: tuple[list[Tensor], list[Tensor]] = ([], [])
    for _ in range(5):  # in step but for a few batches
        seen[0].extend(next(first) for _ in range(5))
        seen[1].extend(next(second) for _ in range(5))
    for site, rows in zip(SITES, seen, strict=True):
        single = Counted(lm)
        alone = opened(single, packed, sample).at(site).batches(BATCH, steps=25, seed=1)
        assert all(torch.equal(a, b) for a, b in zip(alone, rows, strict=True))
        assert single.read == counted.read, "both sites took as many passes as one"
    both = next(iter(opened(lm, packed, sample).at(*SITES).batches(BATCH, steps=1, seed=1)))
    assert torch.equal(both, torch.cat([seen[0][0], seen[1][0]], 1)), "row i is the same token at both"


def test_a_reader_far_behind_is_served_by_reading_again(lm: LanguageModel, packed: PackedText, sample: dict) -> None:
    live, steps = opened(lm, packed, sample), WINDOW + 9
    ahead, behind = (live.at(SITES[0]).batches(5, steps=steps, seed=0) for _ in range(2))
    whole = [next(behind), *(next(ahead) for _ in range(steps))]
    assert torch.equal(whole[0], whole[1])
    assert all(torch.equal(a, b) for a, b in zip(behind, whole[2:], strict=True))


def test_the_buffer_lies_where_the_model_computes(lm: LanguageModel, packed: PackedText, sample: dict) -> None:
    here = next(iter(opened(lm, packed, sample).at(SITES[0]).batches(BATCH, steps=1)))
    with Pretended():
        there = Counted(lm)
        there.device = PLACE
        there.run_to = lambda tokens, sites: {s: x.to(PLACE) for s, x in lm.run_to(tokens, sites).items()}
        found = next(iter(opened(there, packed, sample).at(SITES[0]).batches(BATCH, steps=1)))
        assert found.device == PLACE and torch.equal(found.to("cpu"), here)


def test_what_is_held_is_bounded(lm: LanguageModel, packed: PackedText, sample: dict) -> None:
    live, most = opened(lm, packed, sample, 64), 0
    pools = live._pools(0, 0)
    for _ in range(40):
        pool = next(pools)
        most = max(most, sum(len(x[SITES[0]]) for x in (pool.rest, pool.fresh) if x))
        assert len(pool.order) <= 2 * 64
    assert 32 < most <= 64 * 3 // 2


def test_what_cannot_be_streamed_is_a_sentence(lm: LanguageModel, packed: PackedText, sample: dict) -> None:
    live = opened(lm, packed, sample)
    with pytest.raises(UserError, match=r"reads resid_post.0, resid_post.1, not resid_post.7"):
        live.at("resid_post.7")
    empty = PackedText(packed.tokens[:2], torch.full_like(packed.document_ids[:2], -1), (), 256, packed.special_ids)
    with pytest.raises(UserError, match="No position"):
        next(iter(opened(lm, empty, sample).at(SITES[0]).batches(4, steps=1)))
