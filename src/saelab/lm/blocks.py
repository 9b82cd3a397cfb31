"""The decoder as a loop over its blocks, so that it can stop early, start late and be changed between blocks.

The blocks are transformers' own modules; only the loop and the key/value caches are ours. What comes before, between
and after the blocks is a family's (`families.py`) or, for every other model, its own forward's (`walk.py`); that the
loop then gives what the model gives is proved when it is loaded (`parity.py`). This module knows nothing of texts,
edits or SAEs.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saelab.core.errors import UserError
from saelab.core.sites import Kind
from saelab.lm.families import Listed, check_below, family_of
from saelab.lm.parts import BlockParts, find_parts
from saelab.lm.walk import Walk


class KVCache:
    """Keys and values of the blocks seen so far, in buffers of `capacity` positions, filled from the left."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._store: dict[int, tuple[Tensor, Tensor]] = {}
        self._filled: dict[int, int] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append `[B, H, T, d]` to a block's buffers and return all of its keys and values (called by attention)."""
        if layer not in self._store:
            self._store[layer] = (self._buffer(key), self._buffer(value))
        start = self._filled.get(layer, 0)
        end = start + key.shape[2]
        self._filled[layer] = end
        keys, values = self._store[layer]
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        return keys[:, :, :end], values[:, :, :end]

    @property
    def length(self) -> int:
        """Filled positions."""
        return max(self._filled.values(), default=0)

    def get_seq_length(self, layer: int = 0) -> int:
        """Filled positions of a block (asked by some attentions)."""
        return self._filled.get(layer, 0)

    def select(self, rows: Int[Tensor, " B"]) -> None:
        """Keep (or repeat) the given batch rows of every block."""
        self._store = {i: (k.index_select(0, rows), v.index_select(0, rows)) for i, (k, v) in self._store.items()}

    def put(self, rows: Int[Tensor, " b"], other: "KVCache") -> None:
        """Another batch's keys and values in place of the given rows', ending where the filled positions end."""
        for i, new in other.items().items():
            end = self._filled[i]
            for mine, theirs in zip(self._store[i], new, strict=True):
                mine[rows, :, end - theirs.shape[2] : end] = theirs

    def drop(self, positions: int) -> None:
        """Forget the first positions of every row."""
        for i, pair in self._store.items():
            for t in pair:
                t[:, :, : self._filled[i] - positions] = t[:, :, positions : self._filled[i]].clone()
            self._filled[i] -= positions

    def items(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Filled keys and values `[B, H, T, d]` by block."""
        return {i: (k[:, :, : self._filled[i]], v[:, :, : self._filled[i]]) for i, (k, v) in self._store.items()}

    def _buffer(self, like: Tensor) -> Tensor:
        return like.new_empty(like.shape[0], like.shape[1], self.capacity, like.shape[3])


class SharedCache:
    """One prompt's keys and values, read by every row of a batch; what the rows append is not kept."""

    def __init__(self, items: dict[int, tuple[Tensor, Tensor]]):
        self._items = items

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The shared `[1, H, T, d]` expanded over the batch, followed by each row's own."""
        if layer not in self._items:
            return key, value
        keys, values = (t.expand(key.shape[0], -1, -1, -1) for t in self._items[layer])
        return torch.cat([keys, key], dim=2), torch.cat([values, value], dim=2)

    def get_seq_length(self, layer: int = 0) -> int:
        """Shared positions of a block (asked by some attentions)."""
        return self._items[layer][0].shape[2] if layer in self._items else 0


class _Enough(Exception):
    """Raised inside a block whose keys and values were all that was wanted."""


class _KeysOnly:
    """Takes the keys and values that a block's attention computes, and stops the block there."""

    def __init__(self):
        self.items: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep them and go no further."""
        self.items[layer] = (key, value)
        raise _Enough

    def get_seq_length(self, layer: int = 0) -> int:
        """None are kept yet (asked by some attentions)."""
        return 0


@dataclass
class Frame:
    """What every block of one forward pass shares, as its model makes it. A frame serves one pass.

    position_ids: `[B, T]`; shared: masks, rotary tables and whatever else the blocks are called with; done: how many
    blocks have run on it.
    """

    position_ids: Tensor
    shared: Any
    done: int = 0


@dataclass(frozen=True)
class Limits:
    """What cannot be done with a model, each with its reason; None where it can.

    padded: left-padded batches; cached: going on from kept keys and values; restart: starting above the first block.
    """

    padded: str | None = None
    cached: str | None = None
    restart: str | None = None


@runtime_checkable
class Visitor(Protocol):
    """Something shown the stream at each residual site; what it returns goes on."""

    def visit(self, kind: Kind, layer: int, hidden: Tensor) -> Tensor:
        """Look at (and perhaps change) the stream `[B, T, D]` at a residual site."""
        ...


class Decoder:
    """A transformers causal model taken apart into embed, frame, blocks and head.

    limits: what it cannot do; `parity.py` finds out.
    """

    def __init__(self, model: nn.Module, *, listed: bool = True):
        """listed: run a family's own embedding, masks and head where it has them, else always walk."""
        self.model: Any = model.eval().requires_grad_(False)
        family = family_of(model) if listed else None
        self._way: Listed | Walk = Walk(self.model) if family is None else Listed(model, family)
        self.listed = family is not None
        self.name: str = self._way.name
        self.blocks: list[nn.Module] = self._way.blocks
        self.config: Any = self.model.config.get_text_config(decoder=True)
        self.limits = Limits()
        self._reach = reach_of(self.config)
        self._parts: dict[int, BlockParts] = {}

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the stream."""
        return self.model.dtype

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        head = self.model.get_output_embeddings()
        return int(self.config.vocab_size if head is None else head.weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def embed(self, tokens: Int[Tensor, "B T"], position_ids: Int[Tensor, "b T"]) -> Float[Tensor, "B T D"]:
        """The stream before block 0, with whatever the model does to it on the way there."""
        self._check_reach(position_ids)
        rows = self.model.get_input_embeddings().weight.shape[0]
        check_below(tokens, rows, "token", "Use the tokenizer as it came with the model.")
        return self._way.embed(tokens, position_ids)

    def frame(
        self, position_ids: Int[Tensor, "b T"], *, past: int = 0, mask: Bool[Tensor, "B S"] | None = None
    ) -> Frame:
        """The frame of a pass over T positions after `past` cached ones.

        mask: which of the S = past + T positions are real tokens (left padding); None when all are.
        """
        self._check_reach(position_ids)
        if mask is not None:
            self._refuse("pad batches", self.limits.padded)
        return Frame(position_ids, self._way.frame(position_ids, past=past, mask=mask))

    def run(
        self, hidden: Tensor, frame: Frame, *, start: int, stop: int, cache: Any = None, visitor: Visitor | None = None
    ) -> Float[Tensor, "B T D"]:
        """The stream after blocks start..stop-1, given the stream `[B, T, D]` before block `start`."""
        if cache is not None:
            self._refuse("keep and go on from keys and values", self.limits.cached)
        if start != frame.done:
            self._refuse(f"start a pass at block {start}", self.limits.restart)
        for i in range(start, stop):
            if visitor is not None:
                hidden = visitor.visit("resid_pre", i, hidden)
            hidden = self._block(i, hidden, frame, cache)
            if visitor is not None:
                hidden = visitor.visit("resid_post", i, hidden)
        frame.done = stop
        return hidden

    def keys(self, i: int, hidden: Float[Tensor, "B T D"], frame: Frame) -> dict[int, tuple[Tensor, Tensor]]:
        """What block i's attention keeps of these positions; the rest of the block does not run."""
        cache = _KeysOnly()
        with suppress(_Enough):
            self._block(i, hidden, frame, cache)
        return cache.items

    def unembed(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Final norm, head and whatever the model does to its logits: next-token logits in float32."""
        return self._way.unembed(hidden).float()

    def parts(self, layer: int) -> BlockParts:
        """The modules of a block that sites are read and changed at, found when first asked for."""
        if layer not in self._parts:
            places = torch.arange(_PROBE, device=self.device)[None]
            x = self.embed(places % self.vocab_size, places)
            frame = self.frame(places)
            self._parts[layer] = find_parts(
                self.blocks[layer], x, lambda h: self._way.call(layer, h, frame.shared, None)
            )
        return self._parts[layer]

    def part(self, kind: Kind, layer: int) -> nn.Module | None:
        """The module at which a site inside a block is: `attn_out` and `mlp_out` are its output, the others its input.

        None where the block has no such place.
        """
        parts = self.parts(layer)
        found = {
            "attn_out": parts.attn_out,
            "mlp_out": parts.mlp_out,
            "resid_mid": parts.mlp_norm,
            "mlp_in": parts.mlp,
            "z": parts.heads,
        }
        return found[kind]

    def width(self, kind: Kind, layer: int) -> int:
        """How wide the activations of a site are: `d_model`, but for the heads' outputs."""
        if kind != "z" or (part := self.part(kind, layer)) is None:
            return self.config.hidden_size
        project: Any = part
        read = getattr(project, "in_features", None)  # GPT-2's Conv1D says none, and keeps its matrices turned
        return read if isinstance(read, int) else project.weight.shape[0]

    def mixed(self, z: Float[Tensor, "... H"], layer: int) -> Float[Tensor, "... D"]:
        """What a block's attention makes of heads' outputs before the norm that may follow it, without its bias."""
        project: Any = self.part("z", layer)
        return project(z) - project(torch.zeros_like(z))

    def _block(self, i: int, hidden: Tensor, frame: Frame, cache: Any) -> Tensor:
        try:
            return self._way.call(i, hidden, frame.shared, cache)
        except (IndexError, RuntimeError) as error:  # a table of positions inside the block ends
            most, length = positions_of(self.config), int(frame.position_ids.max()) + 1
            if most is None or length <= most:
                raise
            raise UserError(
                f"A text of {length} tokens is longer than the {most} that this {self.name} model has positions for.",
                hint=_SHORTER.format(most),
            ) from error

    def _check_reach(self, position_ids: Tensor) -> None:
        if self._reach is not None and (length := int(position_ids.max()) + 1) > self._reach:
            raise UserError(
                f"A text of {length} tokens is longer than the {self._reach} that this {self.name} model reads one way:"
                " beyond them its rotary table depends on the longest text of a batch.",
                hint=_SHORTER.format(self._reach),
            )

    def _refuse(self, what: str, reason: str | None) -> None:
        if reason is not None:
            raise UserError(f"saelab cannot {what} of a {self.name} model: {reason}.", hint=_LIMITS)


def positions_of(config: Any) -> int | None:
    """How many positions a config says that its model has; None where it says none."""
    said = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return next((n for n in said if isinstance(n, int)), None)


def reach_of(config: Any) -> int | None:
    """How many positions a model's rotary table is the same for; None where it never depends on a batch's length."""
    said = getattr(config, "rope_parameters", None) or {}
    reaches = []
    for rope in (said, *(r for r in said.values() if isinstance(r, dict))):
        kind = str(rope.get("rope_type", ""))
        if "dynamic" in kind:
            reaches.append(config.max_position_embeddings)
        elif kind == "longrope":
            reaches.append(rope.get("original_max_position_embeddings") or config.max_position_embeddings)
    return min(reaches, default=None)


_SHORTER = "Give texts (and answers) of at most {} tokens."
_PROBE = 8  # positions that a block's parts are found with
_LIMITS = "docs/lm.md says for every family what can be done."
