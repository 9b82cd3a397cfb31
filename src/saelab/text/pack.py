"""Documents packed into contexts of T tokens: BOS first in every context, document boundaries known.

The stream is document, separator, document, separator, ...; each context is BOS and the next T-1 tokens of the stream
(T where the model has no BOS), so a long document runs on into the next context and attention crosses documents inside
one. Every token of a document appears once and in order; only the tail that fills no context is left out. Tokenisers
are a callable here: nothing knows a language model.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int32
from torch import Tensor

from saelab.core.config import digest_of
from saelab.core.errors import ArtefactError, UserError
from saelab.core.progress import SILENT, Progress
from saelab.store.files import read_json, sha256_of, write_json
from saelab.store.folders import MANIFEST, TOKENS
from saelab.store.tensors import read_tensors, write_tensors
from saelab.text.corpora import Document, held_out

# Turns texts into token ids, without adding BOS or anything else.
Encode = Callable[[list[str]], list[list[int]]]

FORMAT = "saelab.packed_text/1"
NO_DOCUMENT = -1
ENCODED_TOGETHER = 64


@dataclass(frozen=True)
class PackedText:
    """Contexts of tokens with the document of each; `documents[i]` is the id of document number i.

    tokens [N, T]: token ids. document_ids [N, T]: document numbers, -1 at BOS and separators. special_ids: the ids that
    never count, wherever they stand.
    """

    tokens: Int32[Tensor, "N T"]
    document_ids: Int32[Tensor, "N T"]
    documents: tuple[str, ...]
    bos_id: int | None
    special_ids: frozenset[int]

    @property
    def n_contexts(self) -> int:
        return self.tokens.shape[0]

    @property
    def context(self) -> int:
        """T, tokens per context, BOS included."""
        return self.tokens.shape[1]

    @property
    def counts(self) -> Bool[Tensor, "N T"]:
        """The positions that count: those of documents, special tokens aside."""
        special = torch.tensor(sorted(self.special_ids), dtype=torch.int32)
        return (self.document_ids >= 0) & ~torch.isin(self.tokens, special)

    def digest(self) -> str:
        """sha256 (hex) of all that this text is."""
        return digest_of(_description(self) | {"tokens": _sha(self.tokens), "document_ids": _sha(self.document_ids)})

    def first(self, contexts: int) -> "PackedText":
        """The first contexts alone."""
        return self.part(slice(contexts))

    def part(self, contexts: slice) -> "PackedText":
        """Some of its contexts."""
        return replace(self, tokens=self.tokens[contexts], document_ids=self.document_ids[contexts])

    def save(self, folder: Path) -> None:
        """Write `tokens.safetensors`, then `manifest.json` that vouches for it; same text, same bytes."""
        write_tensors(folder / TOKENS, {"tokens": self.tokens, "document_ids": self.document_ids})
        write_json(folder / MANIFEST, _description(self) | {"sha256": sha256_of(folder / TOKENS)})

    @classmethod
    def load(cls, folder: Path) -> "PackedText":
        """Read what `save` wrote; anything missing or changed is an `ArtefactError` that names the file."""
        manifest = read_json(folder / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ArtefactError(f"{folder / MANIFEST} does not describe packed text.")
        if not (folder / TOKENS).exists() or sha256_of(folder / TOKENS) != manifest["sha256"]:
            raise ArtefactError(
                f"{folder / TOKENS} is not the file that was written: it is missing, truncated or has changed.",
                hint=f"Remove {folder} and run the same command again.",
            )
        tensors = read_tensors(folder / TOKENS)
        return cls(
            tokens=tensors["tokens"],
            document_ids=tensors["document_ids"],
            documents=tuple(manifest["documents"]),
            bos_id=manifest["bos_id"],
            special_ids=frozenset(manifest["special_ids"]),
        )


def pack(
    documents: Iterable[Document],
    encode: Encode,
    *,
    context: int,
    n_contexts: int | None = None,
    bos_id: int | None,
    separator_id: int | None = None,
    special_ids: frozenset[int] = frozenset(),
    progress: Progress = SILENT,
) -> PackedText:
    """Pack documents into `n_contexts` contexts of `context` tokens, or into as many as they fill (None).

    encode: texts to token ids, nothing added. bos_id: first token of every context (None: none). separator_id: token
    after each document (None: none; a model's end-of-text token is usual). special_ids: further ids that never count.
    Raises `UserError` where the documents do not fill the contexts asked for, or not even one.
    """
    packer = Packer(context=context, bos_id=bos_id, separator_id=separator_id)
    with progress.task("packing", n_contexts, "contexts") as task:
        for name, ids in _encoded(documents, encode, bos_id):
            task.advance(_wanted(packer, name, ids, n_contexts))
            if n_contexts is not None and packer.n_contexts >= n_contexts:
                break
    return packer.finish(n_contexts, special_ids)


@runtime_checkable
class Tokenising(Protocol):
    """The part of a language model that packing needs."""

    bos_id: int | None
    special_ids: frozenset[int]

    def tokenize(self, texts: Sequence[str], *, bos: bool = True) -> list[list[int]]: ...


def pack_for(
    lm: Tokenising,
    documents: Iterable[Document],
    *,
    context: int,
    n_contexts: int | None = None,
    separator_id: int | None = None,
    progress: Progress = SILENT,
) -> PackedText:
    """`pack` with a language model's own tokens."""
    return pack(
        documents,
        lambda texts: lm.tokenize(texts, bos=False),
        context=context,
        n_contexts=n_contexts,
        bos_id=lm.bos_id,
        separator_id=separator_id,
        special_ids=lm.special_ids,
        progress=progress,
    )


def pack_split(
    lm: Tokenising,
    documents: Iterable[Document],
    *,
    context: int,
    n_contexts: int,
    n_held_out: int,
    share: float = 0.1,
    separator_id: int | None = None,
    progress: Progress = SILENT,
) -> tuple[PackedText, PackedText]:
    """Pack a training text and a held-out text from one pass over the documents, each document into one of them.

    share: expected share of documents that are held out, decided by `corpora.held_out`. The rest as for `pack_for`.
    """
    made = [Packer(context=context, bos_id=lm.bos_id, separator_id=separator_id) for _ in range(2)]
    wanted = (n_contexts, n_held_out)
    with progress.task("packing", sum(wanted), "contexts") as task:
        for name, ids in _encoded(documents, lambda texts: lm.tokenize(texts, bos=False), lm.bos_id):
            which = int(held_out(name, share))
            if made[which].n_contexts < wanted[which]:
                task.advance(_wanted(made[which], name, ids, wanted[which]))
            if all(p.n_contexts >= w for p, w in zip(made, wanted, strict=True)):
                break
    kept_back = f"The {share:.0%} of the corpus that is held out"
    return made[0].finish(n_contexts, lm.special_ids), made[1].finish(n_held_out, lm.special_ids, what=kept_back)


def _wanted(packer: "Packer", name: str, ids: Sequence[int], most: int | None) -> int:
    """Add a document; how many contexts it gave of those that are asked for."""
    before = packer.n_contexts
    packer.add(name, ids)
    return (packer.n_contexts if most is None else min(packer.n_contexts, most)) - before


class Packer:
    """Takes encoded documents one by one and gives the packed text at the end."""

    def __init__(self, *, context: int, bos_id: int | None, separator_id: int | None):
        if context < 2:
            raise UserError(f"A context of {context} tokens is too short; give at least 2.")
        self.context, self.bos_id, self.separator_id = context, bos_id, separator_id
        self.payload = context - (bos_id is not None)
        self.documents: list[str] = []
        self.n_tokens = 0
        self._tokens: list[np.ndarray] = []
        self._owners: list[np.ndarray] = []

    @property
    def n_contexts(self) -> int:
        """Whole contexts so far."""
        return self.n_tokens // self.payload

    def add(self, name: str, ids: Sequence[int]) -> int:
        """Append a document (one without tokens is passed over); returns how many contexts it completed."""
        if not ids:
            return 0
        before = self.n_contexts
        end = [] if self.separator_id is None else [self.separator_id]
        self._tokens.append(np.asarray([*ids, *end], dtype=np.int32))
        owners = np.full(len(ids) + len(end), len(self.documents), dtype=np.int32)
        owners[len(ids) :] = NO_DOCUMENT
        self._owners.append(owners)
        self.documents.append(name)
        self.n_tokens += len(owners)
        return self.n_contexts - before

    def finish(self, n_contexts: int | None, special_ids: frozenset[int], what: str = "The corpus") -> PackedText:
        """The first `n_contexts` contexts (None: all whole ones), with the documents that stand in them."""
        made = self.n_contexts if n_contexts is None else n_contexts
        if not 0 < made <= self.n_contexts:
            needed = (n_contexts or 1) * self.payload
            more = f"about {needed / self.n_tokens:.1f} times as much" if self.n_tokens else "more"
            raise UserError(
                f"{what} fills {self.n_contexts} contexts of {self.context} tokens; {n_contexts or 1} are needed.",
                hint=f"It holds {self.n_tokens:,} tokens in {len(self.documents):,} documents, repeated ones left out. "
                f"Give {more} text, ask for fewer or shorter contexts, or say what a document of a text file is "
                "(`text.documents` in a study file).",
            )
        tokens, owners = (self._cut(parts, made) for parts in (self._tokens, self._owners))
        if self.bos_id is not None:
            tokens = np.pad(tokens, ((0, 0), (1, 0)), constant_values=self.bos_id)
            owners = np.pad(owners, ((0, 0), (1, 0)), constant_values=NO_DOCUMENT)
        own = {i for i in (self.bos_id, self.separator_id) if i is not None}
        return PackedText(
            tokens=torch.from_numpy(tokens),
            document_ids=torch.from_numpy(owners),
            documents=tuple(self.documents[: int(owners.max()) + 1]),
            bos_id=self.bos_id,
            special_ids=special_ids | own,
        )

    def _cut(self, parts: list[np.ndarray], contexts: int) -> np.ndarray:
        return np.concatenate(parts)[: contexts * self.payload].reshape(contexts, self.payload)


def _encoded(documents: Iterable[Document], encode: Encode, bos_id: int | None) -> Iterator[tuple[str, list[int]]]:
    """Documents with their tokens, tokenised a handful at a time."""
    source = iter(documents)
    while batch := list(islice(source, ENCODED_TOGETHER)):
        rows = encode([d.text for d in batch])
        if bos_id is not None and len(rows) > 1 and all(row and row[0] == bos_id for row in rows):
            raise UserError("The tokeniser puts BOS before every text, so contexts would hold it twice.")
        yield from ((document.id, row) for document, row in zip(batch, rows, strict=True))


def _description(packed: PackedText) -> dict[str, object]:
    return {
        "format": FORMAT,
        "contexts": packed.n_contexts,
        "context": packed.context,
        "bos_id": packed.bos_id,
        "special_ids": sorted(packed.special_ids),
        "documents": list(packed.documents),
    }


def _sha(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
