"""Packing: the stream of documents is kept whole and in order, BOS stands first, held-out documents stay apart."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saelab.core.errors import ArtefactError, UserError
from saelab.store.folders import TOKENS
from saelab.text.corpora import Document, held_out
from saelab.text.pack import NO_DOCUMENT, PackedText, pack, pack_split

BOS, END, SPECIAL = 1000, 1001, 1002

lengths = st.lists(st.integers(0, 40), min_size=1, max_size=60)


def corpus(sizes: list[int]) -> list[Document]:
    return [Document(f"doc/{i}", chr(65 + i % 26) * n) for i, n in enumerate(sizes)]


def encode(texts: list[str]) -> list[list[int]]:
    """One token a character, numbered by its place too, so that order shows."""
    return [[ord(c) * 7 % 500 + k % 400 for k, c in enumerate(t)] for t in texts]


@given(lengths, st.integers(2, 12), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_every_token_appears_once_and_in_order(sizes: list[int], context: int, bos: bool, separator: bool) -> None:
    documents = corpus(sizes)
    end = [END] if separator else []
    stream = [t for ids in encode([d.text for d in documents]) if ids for t in [*ids, *end]]
    payload = context - bos
    if len(stream) < payload:
        with pytest.raises(UserError, match="fills 0 contexts"):
            pack(
                documents, encode, context=context, bos_id=BOS if bos else None, separator_id=END if separator else None
            )
        return
    packed = pack(
        documents, encode, context=context, bos_id=BOS if bos else None, separator_id=END if separator else None
    )
    body = packed.tokens[:, 1:] if bos else packed.tokens
    assert body.flatten().tolist() == stream[: len(stream) // payload * payload]
    if bos:
        assert (packed.tokens[:, 0] == BOS).all()
        assert (packed.document_ids[:, 0] == NO_DOCUMENT).all()
    # Every document's tokens, gathered by its number, are its own tokens in order (the last one may be cut off).
    for number, name in enumerate(packed.documents):
        own = packed.tokens[packed.document_ids == number].tolist()
        whole = encode([documents[int(name.split("/")[1])].text])[0]
        assert own == whole[: len(own)]
        assert own == whole or number >= len(packed.documents) - 1
    assert (packed.counts == (packed.document_ids != NO_DOCUMENT)).all()


@given(lengths, st.integers(2, 12))
@settings(deadline=None, max_examples=50)
def test_a_shorter_packing_is_a_prefix(sizes: list[int], context: int) -> None:
    """Asking for fewer contexts, and reading in other handfuls, gives the first contexts of the longer packing."""
    documents = corpus([*sizes, 40, 40])
    full = pack(documents, encode, context=context, bos_id=BOS, separator_id=END)
    part = pack(documents, encode, context=context, n_contexts=(full.n_contexts + 1) // 2, bos_id=BOS, separator_id=END)
    assert torch.equal(part.tokens, full.tokens[: part.n_contexts])
    assert torch.equal(part.document_ids, full.document_ids[: part.n_contexts])
    assert part.documents == full.documents[: len(part.documents)]
    assert set(range(len(part.documents))) >= set(part.document_ids.flatten().tolist()) - {NO_DOCUMENT}


@given(st.integers(0, 10_000), st.floats(0.1, 0.6))
@settings(deadline=None, max_examples=30)
def test_no_context_crosses_into_the_held_out_split(offset: int, share: float) -> None:
    documents = [Document(f"doc/{offset + i}", chr(65 + i % 26) * (5 + i % 17)) for i in range(600)]
    lm = SimpleNamespace(bos_id=BOS, special_ids=frozenset(), tokenize=lambda texts, bos: encode(texts))
    train, held = pack_split(lm, documents, context=16, n_contexts=20, n_held_out=10, share=share, separator_id=END)
    assert not set(train.documents) & set(held.documents)
    assert not any(held_out(name, share) for name in train.documents)
    assert all(held_out(name, share) for name in held.documents)
    assert (train.n_contexts, held.n_contexts) == (20, 10)
    # Control: without the split, contexts do hold documents of both kinds (few of them may by chance hold one).
    mixed = pack(documents, encode, context=16, n_contexts=300, bos_id=BOS)
    kinds = {held_out(name, share) for name in mixed.documents}
    assert kinds == {True, False}


def test_special_tokens_never_count_wherever_they_stand() -> None:
    documents = [Document("a", "hello"), Document("b", "world")]

    def with_special(texts: list[str]) -> list[list[int]]:
        return [[1, 2, SPECIAL, 3, 4] for _ in texts]

    packed = pack(documents, with_special, context=5, bos_id=BOS, separator_id=END, special_ids=frozenset({SPECIAL}))
    assert packed.tokens.tolist() == [[BOS, 1, 2, SPECIAL, 3], [BOS, 4, END, 1, 2], [BOS, SPECIAL, 3, 4, END]]
    assert packed.counts.tolist() == [
        [False, True, True, False, True],
        [False, True, False, True, True],
        [False, False, True, True, False],
    ]
    assert packed.special_ids == {BOS, END, SPECIAL}


def test_bos_is_not_put_twice() -> None:
    documents = [Document(str(i), "text") for i in range(5)]
    with pytest.raises(UserError, match="twice"):
        pack(documents, lambda texts: [[BOS, 1, 2] for _ in texts], context=4, bos_id=BOS)
    pack(documents, lambda texts: [[1, 2] for _ in texts], context=4, bos_id=BOS)


def test_too_little_text_says_how_much_there_was() -> None:
    with pytest.raises(UserError, match=r"fills 12 contexts of 5 tokens; 13 are needed"):
        pack(corpus([48]), encode, context=5, n_contexts=13, bos_id=BOS)
    with pytest.raises(UserError, match="at least 2"):
        pack(corpus([48]), encode, context=1, bos_id=BOS)


def test_packing_reads_no_more_than_it_needs() -> None:
    def endless():
        i = 0
        while True:
            yield Document(f"d/{i}", "abcdefgh")
            i += 1

    assert pack(endless(), encode, context=8, n_contexts=30, bos_id=BOS).n_contexts == 30


def test_saved_text_is_the_same_text_and_the_same_bytes(tmp_path: Path) -> None:
    made = [pack(corpus([9, 30, 25]), encode, context=7, bos_id=BOS, separator_id=END) for _ in range(2)]
    for name, packed in zip("ab", made, strict=True):
        packed.save(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    loaded = PackedText.load(tmp_path / "a")
    assert torch.equal(loaded.tokens, made[0].tokens)
    assert torch.equal(loaded.document_ids, made[0].document_ids)
    assert loaded.digest() == made[0].digest()
    assert (loaded.documents, loaded.bos_id, loaded.special_ids) == (("doc/0", "doc/1", "doc/2"), BOS, {BOS, END})
    other = pack(corpus([9, 30, 25]), encode, context=7, bos_id=BOS)
    assert other.digest() != loaded.digest()


def test_damaged_packed_text_is_refused(tmp_path: Path) -> None:
    pack(corpus([9, 30, 25]), encode, context=7, bos_id=BOS).save(tmp_path)
    path = tmp_path / TOKENS
    whole = path.read_bytes()
    for broken in (whole[:-1], whole[:40], whole[:100] + bytes([whole[100] ^ 4]) + whole[101:]):
        path.write_bytes(broken)
        with pytest.raises(ArtefactError, match=TOKENS):
            PackedText.load(tmp_path)
    path.unlink()
    with pytest.raises(ArtefactError, match=TOKENS):
        PackedText.load(tmp_path)
    with pytest.raises(ArtefactError, match="missing"):
        PackedText.load(tmp_path / "nowhere")
