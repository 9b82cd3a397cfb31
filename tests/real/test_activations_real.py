"""The embedded corpus and a harvest of the real SmolLM2-135M: real prose and code, sinks found and masked."""

from pathlib import Path

import pytest
import torch

from saelab.activations.harvest import HarvestConfig, harvest
from saelab.lm.model import LanguageModel
from saelab.text.corpora import CorpusConfig, iter_documents
from saelab.text.embedded import CODE_CHARACTERS, CUT, PROSE_CHARACTERS, SETS, SHORTEST
from saelab.text.pack import PackedText, pack_split

pytestmark = pytest.mark.real

SITES = ["resid_post.14", "resid_post.15", "resid_post.16"]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load("smollm2-135m")


@pytest.fixture(scope="module")
def texts(lm: LanguageModel) -> tuple[PackedText, PackedText]:
    return pack_split(
        lm,
        iter_documents(CorpusConfig()),
        context=128,
        n_contexts=96,
        n_held_out=8,
        separator_id=lm.tokenizer.eos_token_id,
    )


def test_the_embedded_corpus_is_millions_of_words_of_prose_and_code() -> None:
    documents = list(iter_documents(CorpusConfig()))
    assert len({d.id for d in documents}) == len(documents) > 20_000
    assert all(SHORTEST <= len(d.text) <= CUT for d in documents)
    sizes = {name: sum(len(d.text) for d in documents if d.id.startswith(f"{name}/")) for name in SETS}
    assert 20e6 < sum(sizes.values()) < 25e6
    assert all(200_000 < sizes[name] <= limit for name, limit in SETS.items())
    code = sum(size for name, size in sizes.items() if SETS[name] == CODE_CHARACTERS)
    assert 0.15 < code / sum(sizes.values()) < 0.25
    assert max(sizes.values()) <= PROSE_CHARACTERS
    leftovers = sum(d.text.count("&lt;") + d.text.count("#39;") for d in documents if d.id.startswith("97_"))
    assert leftovers == 0


def test_packed_real_text_reads_back(lm: LanguageModel, texts: tuple[PackedText, PackedText]) -> None:
    train, held = texts
    assert not set(train.documents) & set(held.documents)
    assert (train.tokens[:, 0] == lm.bos_id).all()
    sources = {d.id: d.text for d in iter_documents(CorpusConfig())}
    for number, name in enumerate(train.documents[:20]):
        assert lm.decode(train.tokens[train.document_ids == number].tolist()).strip() == sources[name].strip()


def test_sinks_are_few_huge_and_left_out(
    lm: LanguageModel, texts: tuple[PackedText, PackedText], tmp_path: Path
) -> None:
    train, _ = texts
    found = harvest(lm, train, SITES, tmp_path, config=HarvestConfig(shard_contexts=48))
    for site, shards in found.items():
        counts = shards.counts
        assert counts.rows + counts.special + counts.sinks == counts.positions == train.tokens.numel()
        assert 0 < counts.sinks < 20, "a few per 10,000 positions"
        assert counts.largest_norm > 40, "far above ten times the median"
        rows = torch.cat(list(shards.batches(shards.n, passes=1)))
        norms = rows.norm(dim=1)
        assert float(norms.max()) < 10.1 * float(norms.median())
        assert shards.moments.mean_norm == pytest.approx(float(norms.mean()), rel=1e-4)
        assert 0.2 < shards.moments.variance / shards.moments.mean_square < 0.9
        direct = lm.run_to(train.tokens[:1].long(), [site])[site][0]
        shard = shards.read(0)
        first = shard.context == 0
        torch.testing.assert_close(
            shard.rows[first].float(), direct[shard.position[first].long()], rtol=1e-2, atol=0.02 * float(norms.mean())
        )
