"""Corpora: every file format gives the same texts, order is seeded, duplicates go, and bad input gets a sentence."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard

from saelab.core.errors import ArtefactError, FetchError, UserError
from saelab.store.wheels import seal
from saelab.study.spec import TextConfig
from saelab.text import corpora, embedded, hub
from saelab.text.corpora import CorpusConfig, DocumentCounts, held_out, iter_documents
from saelab.text.local import PASSAGE, read_rows

TEXTS = [
    f"Document number {i}: grüße, 'quotes', \"more\", a\ttab, a comma, and\na second line. 漢字" for i in range(30)
]
KINDS = ["jsonl", "csv", "parquet"]
PACKINGS = {"": lambda b: b, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}


def as_bytes(texts: list[str], kind: str, column: str = "text") -> bytes:
    if kind == "jsonl":
        return "".join(json.dumps({column: t, "n": 1}) + "\n" for t in texts).encode()
    frame = pl.DataFrame({"n": [1] * len(texts), column: texts})
    if kind == "csv":
        return frame.write_csv().encode()
    out = io.BytesIO()
    frame.write_parquet(out)
    return out.getvalue()


def texts_of(source: Path, **settings: object) -> list[str]:
    return [d.text for d in iter_documents(CorpusConfig.parse({"source": f"path:{source}", **settings}))]


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda p: p or "plain")
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_texts(tmp_path: Path, kind: str, packing: str) -> None:
    path = tmp_path / f"data.{kind}{packing}"
    path.write_bytes(PACKINGS[packing](as_bytes(TEXTS, kind)))
    assert [text for _, text in read_rows(path)] == TEXTS
    assert sorted(texts_of(path)) == sorted(TEXTS)


@pytest.mark.parametrize("suffix", [".txt", ".md", ".txt.zst"])
def test_plain_text_is_read_as_passages(tmp_path: Path, suffix: str) -> None:
    paragraphs = [f"Paragraph {i} " + "word " * 60 for i in range(40)]
    path = tmp_path / f"book{suffix}"
    path.write_bytes(PACKINGS[".zst" if suffix.endswith("zst") else ""]("\n\n \n".join(paragraphs).encode()))
    passages = [text for _, text in read_rows(path)]
    assert len(passages) > 3
    assert all(len(p) >= PASSAGE for p in passages[:-1])
    assert "\n\n".join(passages) == "\n\n".join(paragraphs)


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_a_truncated_file_is_never_a_shorter_corpus(tmp_path: Path, packing: str) -> None:
    whole = PACKINGS[packing](as_bytes([f"{t} {hash_like}" for t in TEXTS for hash_like in range(40)], "jsonl"))
    path = tmp_path / f"data.jsonl{packing}"
    path.write_bytes(whole)
    assert len(list(read_rows(path))) == 1200  # control: the whole file reads
    for cut in range(1, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArtefactError, match=path.name):
            list(read_rows(path))


def test_zstd_files_of_several_frames_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl.zst"
    path.write_bytes(b"".join(PACKINGS[".zst"](as_bytes([t], "jsonl")) for t in TEXTS))
    assert [text for _, text in read_rows(path)] == TEXTS


def test_large_parquet_is_read_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saelab.text.local.SLICE", 7)
    path = tmp_path / "data.parquet"
    path.write_bytes(as_bytes(TEXTS, "parquet"))
    assert list(read_rows(path)) == [(str(i), t) for i, t in enumerate(TEXTS)]


def test_order_is_seeded_and_ids_name_file_and_row(tmp_path: Path) -> None:
    for name, part in {"a": TEXTS[:20], "deep/b": TEXTS[20:]}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_bytes(as_bytes(part, "jsonl"))
    (tmp_path / "notes.pdf").write_bytes(b"passed over")
    config = CorpusConfig(source=f"path:{tmp_path}", seed=3)
    first, second = list(iter_documents(config)), list(iter_documents(config))
    other = list(iter_documents(CorpusConfig(source=f"path:{tmp_path}", seed=4)))
    assert first == second
    assert first != other
    assert sorted(d.id for d in first) == sorted(d.id for d in other)
    assert {d.id: d.text for d in first} == {f"a/{i}": t for i, t in enumerate(TEXTS[:20])} | {
        f"deep/b/{i}": t for i, t in enumerate(TEXTS[20:])
    }
    assert [d.text for d in first] != TEXTS, "shuffled"


def test_the_buffered_shuffle_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "SHUFFLE_DOCUMENTS", 8)
    path = tmp_path / "data.jsonl"
    path.write_bytes(as_bytes([f"text {i}" for i in range(500)], "jsonl"))
    found = texts_of(path)
    assert sorted(found) == sorted(f"text {i}" for i in range(500))
    assert found != [f"text {i}" for i in range(500)]


def test_duplicates_and_short_documents_go_and_long_ones_are_cut(tmp_path: Path) -> None:
    passage = "The same long passage, told again and again. " * 20
    rows = [passage + f"Question {i}?" for i in range(5)] + ["UPPER  case", "upper case", "no", "   ", "distinct text"]
    path = tmp_path / "data.jsonl"
    path.write_bytes(as_bytes(rows, "jsonl"))
    found = texts_of(path, min_chars=5, max_chars=100)
    assert sorted(found) == sorted([passage[:100], "UPPER  case", "distinct text"])


def test_bad_input_gets_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(as_bytes(TEXTS, "jsonl", column="body"))
    with pytest.raises(UserError, match="column"):
        texts_of(path)
    with pytest.raises(UserError, match="body"):
        texts_of(path, column="bodi")
    with pytest.raises(UserError, match="not text"):
        texts_of(path, column="n")
    with pytest.raises(UserError, match="holds no document"):
        texts_of(path, column="body", min_chars=10_000)
    with pytest.raises(UserError, match="nothing at"):
        texts_of(tmp_path / "absent")
    with pytest.raises(UserError, match="not a reference"):
        list(iter_documents(CorpusConfig(source="nonsense")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"\.jsonl"):
        texts_of(tmp_path / "empty")
    path.write_text('{"text": "fine"}\n{"text": broken\n')
    with pytest.raises(ArtefactError, match="line 2"):
        texts_of(path)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(ArtefactError, match=r"bad\.parquet"):
        texts_of(tmp_path / "bad.parquet")
    (tmp_path / "latin.txt").write_bytes("grüße".encode("latin-1"))
    with pytest.raises(ArtefactError, match=r"latin\.txt"):
        texts_of(tmp_path / "latin.txt")


def test_held_out_is_a_fixed_share_of_documents() -> None:
    names = [f"set/{i}" for i in range(20_000)]
    for share in (0.05, 0.3):
        chosen = [held_out(n, share) for n in names]
        assert abs(sum(chosen) / len(names) - share) < 0.015
    assert {n for n in names if held_out(n, 0.05)} < {n for n in names if held_out(n, 0.3)}
    assert not any(held_out(n, 0.0) for n in names)
    assert all(held_out(n, 1.0) for n in names)


@pytest.fixture
def cached_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds a small stand-in for the wheel's sets."""
    folder = tmp_path / "cache" / "pypi" / "sae-probes-0.4.2"
    data = folder / "sae_probes" / "data" / "cleaned_data"
    data.mkdir(parents=True)
    for k, name in enumerate(embedded.SETS):
        texts = [f"{name} row {i}. " + "long enough to be kept " * (10 + 3 * k) for i in range(30 + 30 * k)]
        (data / f"{name}.csv.zst").write_bytes(PACKINGS[".zst"](as_bytes(texts, "csv", column="prompt")))
    seal(folder, embedded.EMBEDDED.split("#")[1])
    monkeypatch.setenv("SAELAB_CACHE", str(tmp_path / "cache"))
    return data


def test_the_embedded_corpus_is_mixed_and_capped(cached_wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set keeps to its cap, and each half of the order holds its share of every set, the capped ones too."""
    for name in embedded.SETS:
        monkeypatch.setitem(embedded.SETS, name, 30_000)
    documents = list(iter_documents(CorpusConfig()))
    sets = [d.id.split("/")[0] for d in documents]
    assert set(sets) == set(embedded.SETS)
    capped = 0
    for name in embedded.SETS:
        characters = sum(len(d.text) for d in documents if d.id.startswith(f"{name}/"))
        assert characters <= 30_000
        capped += characters > 28_000
        early = sets[: len(sets) // 2].count(name) / sets.count(name)
        assert 0.2 < early < 0.8, f"{name}: {early:.2f} of it in the first half"
    assert capped > 8
    assert documents == list(iter_documents(CorpusConfig()))
    other = list(iter_documents(CorpusConfig(seed=1)))
    assert documents != other
    assert set(documents) == set(other), "a seed changes the order, not the corpus"


def test_a_broken_set_of_the_embedded_corpus_is_named(cached_wheel: Path) -> None:
    broken = list(embedded.SETS)[3]
    path = cached_wheel / f"{broken}.csv.zst"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArtefactError, match=broken):
        list(iter_documents(CorpusConfig()))


def test_hub_data_sets_stream_at_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads a local folder of that name the same way as one on the hub."""
    folder = tmp_path / "org" / "name" / "part"
    folder.mkdir(parents=True)
    (folder / "train-0.jsonl").write_bytes(as_bytes(TEXTS[:20], "jsonl"))
    (folder / "train-1.jsonl").write_bytes(as_bytes(TEXTS[20:], "jsonl"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hub, "lies_here", lambda name: False)  # the folder plays the hub
    config = CorpusConfig(source="hf:org/name@abc123/part")
    documents = list(iter_documents(config))
    assert sorted(d.text for d in documents) == sorted(TEXTS)
    assert {d.id for d in documents} == {f"org/name/{i}" for i in range(30)}
    assert documents == list(iter_documents(config))
    with pytest.raises(UserError, match="names no revision"):
        list(iter_documents(CorpusConfig(source="hf:org/name")))
    with pytest.raises(FetchError, match="could not be streamed"):
        list(iter_documents(CorpusConfig(source="hf:org/name@abc123/part", split="tset")))
    with pytest.raises(UserError, match="column"):
        list(iter_documents(CorpusConfig(source="hf:org/name@abc123/part", column="txt")))


def test_documents_are_told_apart_by_the_whole_text_and_counted(tmp_path: Path) -> None:
    licence = "".join(f"# Line {i} of a licence that stands at the head of every file.\n" for i in range(12))
    texts = [licence + f"def f{i}(x):\n    return x + {i}\n" * 20 for i in range(50)]
    rows = [*texts, texts[0].upper(), " ".join(texts[1].split()), "", "   "]
    (tmp_path / "code.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in rows))
    counts = DocumentCounts()
    assert len(list(iter_documents(CorpusConfig(source=f"path:{tmp_path}"), counts))) == 50
    assert counts == DocumentCounts(kept=50, short=2, duplicates=2)
    assert "2 repeat another" in str(counts)


def test_what_a_document_is_is_said(tmp_path: Path) -> None:
    lines = [f"This is sentence number {i} of the corpus." for i in range(3000)]
    (tmp_path / "t.txt").write_text("\n".join(lines))

    def found(**settings: Any) -> list[str]:
        return [d.text for d in iter_documents(CorpusConfig(source=f"path:{tmp_path}", **settings))]

    assert sorted(found(documents="lines")) == sorted(lines)
    assert found(documents="file") == ["\n".join(lines)]
    passages = found()
    assert len(passages) > 40 and sorted("\n".join(passages).split("\n")) == sorted(lines), "parted at line ends"


@pytest.mark.parametrize("mark", [". ", "。", " ", ""])
def test_one_long_line_is_many_documents_and_none_of_it_is_lost(tmp_path: Path, mark: str) -> None:
    text = mark.join(f"{i:05}" + "字" * 20 for i in range(2000))
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    pieces = [text for _, text in read_rows(tmp_path / "t.txt")]
    assert len(pieces) > 10 and max(map(len, pieces)) <= 2 * PASSAGE
    assert "".join("".join(pieces).split()) == "".join(text.split())
    if mark.strip():
        assert all(p.endswith(mark.strip()) for p in pieces[:-1])


@pytest.mark.parametrize("name", ["t.txt", "t.csv", "t.jsonl"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    body = {"t.txt": "Пчела летит.", "t.csv": "text\nПчела летит.\n", "t.jsonl": '{"text": "\\ufeffПчела летит."}'}[
        name
    ]
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + body.encode())
    assert [d.text for d in iter_documents(CorpusConfig(source=f"path:{tmp_path}"))] == ["Пчела летит."]


def test_a_study_says_what_a_document_is_beside_its_corpus() -> None:
    text = {"corpus": {"source": "path:x"}, "documents": "lines", "train_contexts": 1, "held_out_contexts": 1}
    assert TextConfig.parse(text).corpus.documents == "lines"
    with pytest.raises(UserError, match="documents"):
        TextConfig.parse(text | {"documents": "pages"})
