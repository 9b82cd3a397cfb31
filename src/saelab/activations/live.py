"""Activations drawn from a running language model through a shuffle buffer; nothing of them is kept.

A pass reads all contexts of a text, `batch_contexts` at a time, in a seeded order. As many of these chunks as hold
`buffer_rows` positions are a block H_j; half of its rows, drawn at random, wait for the next block:

    shuffle(A_0), shuffle(B_0 + A_1), ..., shuffle(B_{n-2} + H_{n-1}),    H_j = A_j + B_j

Every row comes once in a pass, and one pass of the LM serves all sites: row i is the same token at each. Batch i
depends on (seed, i) alone; to begin at it, the LM reads two blocks again once the chunks before have been counted
(`sizes`, which a checkpoint keeps). What counts and what is a sink is as in a harvest, whose first part gives the
bounds and moments. This file must never know SAEs.
"""

import hashlib
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Int32
from torch import Tensor

from saelab.activations.harvest import HarvestConfig, harvest
from saelab.activations.moments import Moments
from saelab.activations.pairs import PairMoments
from saelab.activations.passes import ReadsSites, norms, passes, place_of
from saelab.activations.shards import ActivationShards
from saelab.core.errors import UserError
from saelab.core.seeds import seed_of
from saelab.text.corpora import CorpusConfig, iter_documents
from saelab.text.pack import PackedText, Tokenising, pack_for

BUFFER_ROWS = 1 << 18  # positions shuffled together
GROUP = 16  # chunks read side by side
WINDOW = 32  # batches that stay at hand for other sites


@dataclass(frozen=True)
class SiteFacts:
    """What has to be known of a site before its first batch: the norm above which a position is a sink, and moments."""

    bound: float
    moments: Moments


class LiveActivations:
    """The stream of the sites of one language model over one text.

    sizes: rows of each chunk, -1 where it was not read yet. They decide nothing; with them a late batch is found
    without reading what comes before it. The buffer lies where the LM computes, one and a half times `buffer_rows`.
    """

    def __init__(
        self,
        lm: ReadsSites,
        packed: PackedText,
        sample: Mapping[str, ActivationShards],
        *,
        config: HarvestConfig | None = None,
        buffer_rows: int = BUFFER_ROWS,
    ):
        """sample: what was harvested at each site, of the first contexts of the text.

        Raises `UserError` for a buffer of no rows.
        """
        if buffer_rows < 1:
            raise UserError(f"A buffer holds at least one row, not {buffer_rows}.")
        self.lm, self.packed, self.config = lm, packed, config or HarvestConfig()
        self.facts = {site: SiteFacts(s.manifest.sink_threshold, s.moments) for site, s in sample.items()}
        self.buffer_rows = buffer_rows
        n, size = packed.n_contexts, self.config.batch_contexts
        self.chunks = [slice(at, min(at + size, n)) for at in range(0, n, size)]
        self.per_block = max(1, -(-buffer_rows // (size * packed.context)))
        self.sizes = torch.full((len(self.chunks),), -1, dtype=torch.int32)
        self._latest: weakref.ref[_Recent] | None = None

    def at(self, site: str, written: str | None = None) -> "LiveSite":
        """The stream of one site, or of two side by side: what transcoders read and rebuild."""
        for name in (site, *([written] if written else [])):
            if name not in self.facts:
                raise UserError(f"The stream reads {', '.join(self.facts)}, not {name}.")
        return LiveSite(self, (site,) if written is None else (site, written))

    def recent(self, batch_size: int, seed: int, start: int) -> "_Recent":
        """A stream at batch `start`: the one that another site is at, where there is one, else a new one."""
        found = None if self._latest is None else self._latest()
        if found is None or found.asked != (batch_size, seed) or not found.reaches(start):
            found = _Recent(self, batch_size, seed, start)
            self._latest = weakref.ref(found)
        return found

    def batches(self, batch_size: int, seed: int, start: int) -> Iterator[dict[str, Float[Tensor, "B D"]]]:
        """From batch `start` on, for ever: the rows of every site."""
        parts: list[dict[str, Tensor]] = []
        missing = batch_size
        for pool in self._pools(seed, start * batch_size):
            order = pool.order
            while len(order):
                taken, order = order[:missing], order[missing:]
                parts.append(pool.take(taken))
                missing -= len(taken)
                if not missing:
                    yield {site: torch.cat([part[site] for part in parts]) for site in self.facts}
                    parts, missing = [], batch_size

    def _pools(self, seed: int, skip: int) -> Iterator["_Pool"]:
        """From row `skip` of the stream on, for ever: the rows that are shuffled together."""
        number = 0
        if bool((self.sizes >= 0).all()) and (rows := int(self.sizes.sum())):
            number, skip = divmod(skip, rows)
        while True:
            for pool in self._pass(seed, number, skip):
                skip = 0
                yield pool
            if not (rows := int(self.sizes.sum())):
                raise UserError("No position of the text gives a row.", hint="Give more text.")
            skip, number = max(0, skip - rows), number + 1

    def _pass(self, seed: int, number: int, skip: int) -> Iterator["_Pool"]:
        """The pools of one pass, from its row `skip` on."""
        order = iter(_shuffled(len(self.chunks), seed, "chunks", number).tolist())
        blocks = list(iter(lambda: list(islice(order, self.per_block)), []))
        carried, rest = 0, None
        for j, chunks in enumerate(blocks):
            fresh = None if bool((self.sizes[chunks] >= 0).all()) else self._read(chunks)
            ends, rows = j == len(blocks) - 1, int(self.sizes[chunks].sum())
            kept = 0 if ends else rows // 2
            if skip and skip >= carried + rows - kept:
                skip, carried, rest = skip - (carried + rows - kept), kept, None
                continue
            if rest is None and carried:
                rest = _some(self._read(blocks[j - 1]), _half(self.sizes[blocks[j - 1]], seed, number, j - 1)[0])
            carried = 0 if rest is None else len(next(iter(rest.values())))
            fresh = self._read(chunks) if fresh is None else fresh
            waiting, now = _half(self.sizes[chunks], seed, number, j, whole=ends)
            pooled = torch.cat([torch.arange(carried), carried + now])
            mixed = pooled[_shuffled(len(pooled), seed, "rows", number, j)][skip:]
            yield _Pool(rest or {}, fresh, carried, mixed)
            skip, carried, rest = 0, len(waiting), _some(fresh, waiting)

    def _read(self, chunks: Sequence[int]) -> dict[str, Tensor]:
        """The rows of some chunks at every site, in order, sinks left out; notes how many each gave."""
        sites, dtype, place = list(self.facts), self.config.torch_dtype, place_of(self.lm)
        most = sum(self.chunks[k].stop - self.chunks[k].start for k in chunks) * self.packed.context
        found: dict[str, Tensor] = {}
        at = 0
        for first in range(0, len(chunks), GROUP):
            group = chunks[first : first + GROUP]
            made = passes(self.lm, self.packed, [self.chunks[k] for k in group], sites, dtype, place)
            for k, (_, rows) in zip(group, made, strict=True):
                over = torch.stack([norms(rows[site]) > self.facts[site].bound for site in sites]).any(dim=0)
                for site in sites:
                    kept = rows[site][~over]
                    if site not in found:
                        found[site] = torch.empty(most, kept.shape[1], dtype=dtype, device=place)
                    found[site][at : at + len(kept)] = kept
                self.sizes[k] = int((~over).sum())
                at += int(self.sizes[k])
        return {site: x[:at] for site, x in found.items()}


class LiveSite:
    """The stream of one site, or of two side by side, as training asks for it (`training.inputs.ActivationSource`)."""

    def __init__(self, live: LiveActivations, sites: tuple[str, ...]):
        self.live, self.sites = live, sites

    @property
    def moments(self) -> Moments | PairMoments:
        """Moments of the sample: of the site, or of both."""
        first, *more = (self.live.facts[site].moments for site in self.sites)
        return PairMoments((first, more[0])) if more else first

    @property
    def order(self) -> dict[str, int | str]:
        """What decides, beside seed and batch, which rows come when: buffer, contexts of a chunk, the text."""
        live = self.live
        text = hashlib.sha256(live.packed.tokens.numpy().tobytes()).hexdigest()
        return {"buffer_rows": live.buffer_rows, "batch_contexts": live.config.batch_contexts, "text": text}

    @property
    def seen(self) -> dict[str, Tensor]:
        """What makes a late batch quick to find, for a checkpoint."""
        return {"sizes": self.live.sizes}

    def recall(self, seen: Mapping[str, Tensor]) -> None:
        """Take over what an earlier run has seen of the same text."""
        sizes, own = seen["sizes"], self.live.sizes
        if sizes.shape == own.shape:
            self.live.sizes = torch.where(own < 0, sizes, own)

    def batches(self, batch_size: int, /, *, steps: int, seed: int = 0, start: int = 0) -> Iterator[Tensor]:
        """Batches `start` up to `steps` of float32 rows. Sites that are read in step share one pass of the LM.

        Raises `UserError` for a batch of no rows.
        """
        if batch_size < 1:
            raise UserError(f"A batch has at least one row, not {batch_size}.")
        recent = self.live.recent(batch_size, seed, start)
        for i in range(start, steps):
            if not recent.reaches(i):
                recent = self.live.recent(batch_size, seed, i)
            rows = recent.get(i)
            yield torch.cat([rows[site].float() for site in self.sites], 1)


@runtime_checkable
class ReadsTexts(ReadsSites, Tokenising, Protocol):
    """A language model with its tokenizer."""


def open_stream(
    lm: ReadsTexts,
    *sites: str,
    text: PackedText | str | None = None,
    tokens: int = 1_000_000,
    context: int = 128,
    sample_contexts: int = 512,
    buffer_rows: int = BUFFER_ROWS,
) -> LiveActivations:
    """The stream of some sites of a language model; `.at(site)` is what `train` takes.

    text: packed text, a reference (path:, hf:), or None for the embedded corpus, of which the first `tokens` are packed
    into contexts of `context`. sample_contexts: of which the moments are taken. Raises `UserError` for sizes that leave
    nothing to read, and what reading the text raises.
    """
    if sample_contexts < 1:
        raise UserError(f"A sample has at least one context, not {sample_contexts}.")
    if not isinstance(text, PackedText):
        if not 1 < context <= tokens:
            raise UserError(f"{tokens} tokens hold no context of {context}.", hint="A context has at least 2 tokens.")
        corpus = CorpusConfig() if text is None else CorpusConfig(source=text)
        text = pack_for(lm, iter_documents(corpus), context=context, n_contexts=tokens // context)
    with tempfile.TemporaryDirectory() as folder:
        sample = harvest(lm, text.first(sample_contexts), sites, folder)
        return LiveActivations(lm, text, sample, buffer_rows=buffer_rows)


@dataclass(frozen=True)
class _Pool:
    """Rows shuffled together: those that waited, the block's own, and the order in which they come, in which numbers
    below `carried` are those that waited.
    """

    rest: Mapping[str, Tensor]
    fresh: Mapping[str, Tensor]
    carried: int
    order: Int[Tensor, " N"]

    def take(self, taken: Int[Tensor, " K"]) -> dict[str, Float[Tensor, "K D"]]:
        """These rows of every site."""
        waited = taken < self.carried
        made: dict[str, Tensor] = {}
        for site, fresh in self.fresh.items():
            place = fresh.device
            rows = torch.empty(len(taken), fresh.shape[1], dtype=fresh.dtype, device=place)
            rows[(~waited).nonzero().squeeze(1).to(place)] = fresh[(taken[~waited] - self.carried).to(place)]
            if self.rest:
                rows[waited.nonzero().squeeze(1).to(place)] = self.rest[site][taken[waited].to(place)]
            made[site] = rows
        return made


class _Recent:
    """One stream and its last batches, for readers that are nearly in step."""

    def __init__(self, live: LiveActivations, batch_size: int, seed: int, start: int):
        self.asked = (batch_size, seed)
        self._next, self._batches = start, live.batches(batch_size, seed, start)
        self._kept: deque[dict[str, Tensor]] = deque(maxlen=WINDOW)

    def reaches(self, i: int) -> bool:
        """Whether batch i is at hand or the next."""
        return self._next - len(self._kept) <= i <= self._next

    def get(self, i: int) -> dict[str, Tensor]:
        """Batch i, which is reached."""
        if i == self._next:
            self._kept.append(next(self._batches))
            self._next += 1
        return self._kept[i - self._next]


def _shuffled(n: int, *names: str | int) -> Int[Tensor, " N"]:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed_of(*names)))


def _half(
    sizes: Int32[Tensor, " C"], seed: int, number: int, block: int, *, whole: bool = False
) -> tuple[Int[Tensor, " W"], Int[Tensor, " N"]]:
    """Which rows of a block wait for the next one, and which do not; of the last block of a pass none waits."""
    rows = int(sizes.sum())
    order, kept = _shuffled(rows, seed, "halves", number, block), 0 if whole else rows // 2
    return order[:kept], order[kept:]


def _some(rows: Mapping[str, Tensor], which: Int[Tensor, " K"]) -> dict[str, Tensor]:
    return {site: x[which.to(x.device)] for site, x in rows.items()}
