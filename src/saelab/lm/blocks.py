"""The decoder as a loop over its blocks, so that it can stop early, start late and be changed between blocks.

The blocks, norms and rotary tables are transformers' own modules; only the loop, the masks and the key/value caches are
ours. The masks say what transformers' say (causal, sliding window, padding), so activations equal `hidden_states` bit
for bit when nothing is padded. This module knows nothing of texts, edits or SAEs.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saelab.core.errors import UserError
from saelab.core.sites import Kind
from saelab.lm.families import BlockParts, Family, family_of, parts_of

FULL = "full_attention"


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


@dataclass(frozen=True)
class Frame:
    """What every block of one forward pass shares: position ids `[B, T]`, rotary tables and masks by layer type."""

    position_ids: Tensor
    rotary: dict[str, Any]
    masks: dict[str, Tensor | None]


@runtime_checkable
class Visitor(Protocol):
    """Something shown the stream at each residual site; what it returns goes on."""

    def visit(self, kind: Kind, layer: int, hidden: Tensor) -> Tensor:
        """Look at (and perhaps change) the stream `[B, T, D]` at a residual site."""
        ...


class Decoder:
    """A transformers causal model taken apart into embed, frame, blocks and head."""

    def __init__(self, model: nn.Module):
        self.model = model.eval().requires_grad_(False)
        self.family: Family = family_of(model)
        self.config: Any = model.config
        base: Any = getattr(model, self.family.base)
        self.blocks: list[nn.Module] = list(getattr(base, self.family.blocks))
        self._embed: Any = getattr(base, self.family.embed)
        self._norm: Any = getattr(base, self.family.norm)
        self._head: Any = model.lm_head
        self._base = base
        self._softcap = getattr(self.config, "final_logit_softcapping", None)
        self._window = getattr(self.config, "sliding_window", None)
        types = getattr(self.config, "layer_types", None)
        self._types: list[str] = list(types) if types else [FULL] * len(self.blocks)
        self._eager = self.config._attn_implementation == "eager"

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self._head.weight.dtype

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        return self._head.weight.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._head.weight.device

    def embed(self, tokens: Int[Tensor, "B T"], position_ids: Int[Tensor, "b T"]) -> Float[Tensor, "B T D"]:
        """The stream before block 0 (learned positions included, where the family has them)."""
        _check_below(tokens, self._embed.num_embeddings, "token", "Use the tokenizer as it came with the model.")
        hidden = self._embed(tokens)
        if self.family.positions != "learned":
            return hidden
        _check_below(position_ids, self._base.wpe.num_embeddings, "position", "Give shorter texts or contexts.")
        return hidden + self._base.wpe(position_ids)

    def frame(
        self, position_ids: Int[Tensor, "b T"], *, past: int = 0, mask: Bool[Tensor, "B S"] | None = None
    ) -> Frame:
        """The frame of a pass over T positions after `past` cached ones.

        mask: which of the S = past + T positions are real tokens (left padding); None when all are.
        """
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        rotary: dict[str, Any] = {}
        for layer_type in set(self._types):
            if self.family.positions == "rotary":
                rotary[layer_type] = next(iter(rotary.values()), None) or self._base.rotary_emb(like, position_ids)
            elif self.family.positions == "rotary_by_type":
                rotary[layer_type] = self._base.rotary_emb(like, position_ids, layer_type)
        length = position_ids.shape[1]
        masks = {t: self._mask(length, past, mask, None if t == FULL else self._window) for t in set(self._types)}
        return Frame(position_ids, rotary, masks)

    def run(
        self, hidden: Tensor, frame: Frame, *, start: int, stop: int, cache: Any = None, visitor: Visitor | None = None
    ) -> Float[Tensor, "B T D"]:
        """The stream after blocks start..stop-1, given the stream `[B, T, D]` before block `start`."""
        for i in range(start, stop):
            if visitor is not None:
                hidden = visitor.visit("resid_pre", i, hidden)
            hidden = self._block(i, hidden, frame, cache)
            if visitor is not None:
                hidden = visitor.visit("resid_post", i, hidden)
        return hidden

    def keys(self, i: int, hidden: Float[Tensor, "B T D"], frame: Frame) -> dict[int, tuple[Tensor, Tensor]]:
        """What block i's attention keeps of these positions; the rest of the block does not run."""
        cache = _KeysOnly()
        with suppress(_Enough):
            self._block(i, hidden, frame, cache)
        return cache.items

    def unembed(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Final norm, head and (Gemma) the soft cap on logits: next-token logits in float32."""
        logits = self._head(self._norm(hidden))
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits.float()

    def parts(self, layer: int) -> BlockParts:
        """The modules of a block that sites are read and changed at."""
        return parts_of(self.family, self.blocks[layer])

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
        weight: Any = part.weight
        return weight.shape[0 if type(part).__name__ == "Conv1D" else 1]  # GPT-2 keeps its matrices turned

    def mixed(self, z: Float[Tensor, "... H"], layer: int) -> Float[Tensor, "... D"]:
        """What a block's attention makes of heads' outputs before the norm that may follow it, without its bias."""
        project: Any = self.part("z", layer)
        return project(z) - project(torch.zeros_like(z))

    def _block(self, i: int, hidden: Tensor, frame: Frame, cache: Any) -> Tensor:
        layer_type = self._types[i]
        arguments = {"attention_mask": frame.masks[layer_type], "position_ids": frame.position_ids}
        if frame.rotary:
            arguments["position_embeddings"] = frame.rotary[layer_type]
        out = self.blocks[i](hidden, **arguments, **{self.family.cache: cache})
        return out[0] if isinstance(out, tuple) else out  # older transformers return tuples

    def _mask(self, length: int, past: int, mask: Tensor | None, window: int | None) -> Tensor | None:
        """Which keys each query may see, `[B or 1, 1, T, S]`; None where plain causal attention says the same."""
        total = past + length
        slides = window is not None and total > window  # below that, nothing is out of the window
        if mask is None and not slides and (length == 1 or (past == 0 and not self._eager)):
            return None
        keys = torch.arange(total, device=self.device)
        queries = keys[past:, None]
        allowed = keys <= queries
        if window is not None and slides:
            allowed = allowed & (queries - keys < window)
        if mask is not None:
            # A padding query sees itself, so that no softmax runs over nothing; nobody reads what it gives.
            allowed = (allowed & mask[:, None, :]) | (keys == queries)
        allowed = allowed.view(-1, 1, length, total)
        if not self._eager:
            return allowed
        zero = torch.zeros((), dtype=self.dtype, device=self.device)
        return torch.where(allowed, zero, torch.finfo(self.dtype).min)


def _check_below(numbers: Tensor, rows: int, what: str, hint: str) -> None:
    """Refuse what no embedding holds; an accelerator would not survive the look-up."""
    most = int(numbers.max()) if numbers.numel() else 0
    if most >= rows:
        raise UserError(f"There is a {what} {most}, and the model has embeddings of {rows}, from 0 on.", hint=hint)
