"""A causal model walked with its own forward: what it hands its blocks, and what it does before and after them.

The model is copied without its blocks (weights are shared); in each block's place stands a recorder. transformers'
own forward then says all that a table of families would have to: the first recorder receives the embedded stream
(multipliers, learned positions, norms), every recorder the arguments of its block (masks by layer type, rotary tables,
whatever a family invents), and what the last one gives goes through norm, head and caps. Whether a model may be taken
apart so is not decided here but proved (`parity.py`). This module knows nothing of texts, edits or SAEs.
"""

import copy
import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saelab.core.errors import UserError

if TYPE_CHECKING:
    from saelab.lm.past import Past


def _past(length: int) -> "Past":
    from saelab.lm.past import Past  # with it comes transformers, which is not waited for where no model is opened

    return Past(length)


@dataclass
class Calls:
    """The arguments that each block is called with besides the stream, as one forward gave them."""

    past: "Past"
    args: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    kwargs: dict[int, dict[str, Any]] = field(default_factory=dict)

    def of(self, block: int, cache: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A block's arguments, with this cache where the forward handed on its own."""

        def own(value: Any) -> Any:
            return cache if value is self.past else value

        kwargs = {name: own(value) for name, value in self.kwargs[block].items()}
        if "use_cache" in kwargs:
            kwargs["use_cache"] = cache is not None
        return tuple(own(value) for value in self.args[block]), kwargs


class _Enough(Exception):
    """Raised by a recorder once what was wanted is there."""


@dataclass
class _Pass:
    """One forward over the recorders: how far it goes, what is put in at the end, and what was seen."""

    calls: Calls
    stop: int | None
    put: Tensor | None = None
    first: Tensor | None = None


_NOW: ContextVar[_Pass] = ContextVar("pass over recorders")


class _Recorder(nn.Module):
    """Stands in a block's place: keeps what it is called with and hands the stream on. It answers for the block's own
    attributes, which some forwards look at.
    """

    def __init__(self, number: int, last: int, block: nn.Module, answer: "_Answer"):
        super().__init__()
        self.number, self.last, self.answer = number, last, answer
        self.real = (block,)  # in a tuple: not a part of this module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.real[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        now = _NOW.get()
        hidden, args, kwargs = split_stream(args, kwargs)
        if now.first is None:
            now.first = hidden
        now.calls.args[self.number], now.calls.kwargs[self.number] = args, kwargs
        if now.stop == self.number:
            raise _Enough
        if self.number == self.last and now.put is not None:
            hidden = now.put
        return self.answer.like(hidden)


@dataclass
class _Answer:
    """What a block returns: the stream, or a tuple that begins with it."""

    length: int | None = None

    def like(self, hidden: Tensor) -> Any:
        return hidden if self.length is None else (hidden, *[None] * (self.length - 1))


def split_stream(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """The stream among a block's arguments, and the others."""
    if args:
        return args[0], args[1:], kwargs
    name = next(iter(kwargs))
    return kwargs[name], (), {k: v for k, v in kwargs.items() if k != name}


@dataclass
class Passage:
    """A pass over T positions after `past` cached ones; what its blocks are called with, by the rows of the batch."""

    position_ids: Tensor
    past: int
    mask: Tensor | None
    calls: dict[int, Calls] = field(default_factory=dict)


class Walk:
    """A model without its blocks: what happens before, between and after them. A `UserError` where none are found."""

    def __init__(self, model: Any):
        self.name = str(model.config.model_type)
        blocks = find_blocks(model)
        self.blocks: list[nn.Module] = list(blocks)
        self._answer, last = _Answer(), len(blocks) - 1
        shared = [*model.parameters(), *model.buffers(), model.config]
        memo: dict[int, Any] = {id(t): t for t in shared}
        memo |= {id(b): _Recorder(i, last, b, self._answer) for i, b in enumerate(blocks)}
        self._model = copy.deepcopy(model, memo)
        self._takes = inspect.signature(model.forward).parameters
        self._open = any(p.kind is p.VAR_KEYWORD for p in self._takes.values())
        self._answer.length = self._probe(model, blocks[0])

    def embed(self, tokens: Int[Tensor, "B T"], position_ids: Int[Tensor, "b T"]) -> Float[Tensor, "B T D"]:
        """The stream that block 0 receives."""
        now = _Pass(Calls(_past(0)), stop=0)
        try:
            self._forward(now, input_ids=tokens, position_ids=position_ids.expand(tokens.shape))
        except IndexError:
            most = f"{tokens.shape[1]} positions, the last of them {int(position_ids.max())}"
            raise UserError(f"The model has no embedding for {most}.", hint="Give shorter texts or contexts.") from None
        if now.first is None:
            raise UserError(f"The forward of this {self.name} model does not begin with its first block.")
        return now.first

    def frame(
        self, position_ids: Int[Tensor, "b T"], *, past: int = 0, mask: Bool[Tensor, "B S"] | None = None
    ) -> Passage:
        """A pass; what its blocks are called with is asked when the first one runs, since it may depend on the rows."""
        return Passage(position_ids, past, mask)

    def call(self, i: int, hidden: Float[Tensor, "B T D"], frame: Passage, cache: Any) -> Float[Tensor, "B T D"]:
        """The stream after block i."""
        if len(hidden) not in frame.calls:
            frame.calls[len(hidden)] = self._calls(hidden, frame)
        args, kwargs = frame.calls[len(hidden)].of(i, cache)
        out = self.blocks[i](hidden, *args, **kwargs)
        return out[0] if isinstance(out, tuple | list) else out

    def _calls(self, like: Float[Tensor, "B T D"], frame: Passage) -> Calls:
        rows = like.shape[0]
        now = _Pass(Calls(_past(frame.past)), stop=len(self.blocks) - 1)
        given = {} if frame.mask is None else {"attention_mask": frame.mask.long().expand(rows, -1)}
        places = frame.position_ids.expand(rows, -1)
        self._forward(now, inputs_embeds=torch.zeros_like(like), position_ids=places, **given)
        return now.calls

    def unembed(self, hidden: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Next-token logits of the stream after the last block."""
        put = hidden.reshape(-1, 1, hidden.shape[-1])
        now = _Pass(Calls(_past(0)), stop=None, put=put)
        places = torch.zeros(put.shape[:2], dtype=torch.long, device=put.device)
        out = self._forward(now, inputs_embeds=torch.zeros_like(put), position_ids=places)
        return out.logits.reshape(*hidden.shape[:-1], -1)

    def _forward(self, now: _Pass, **given: Any) -> Any:
        asked = given | {"past_key_values": now.calls.past, "use_cache": True, "return_dict": True}
        token = _NOW.set(now)
        try:
            return self._model(**{name: value for name, value in asked.items() if self._open or name in self._takes})
        except _Enough:
            return None
        finally:
            _NOW.reset(token)

    @torch.no_grad()
    def _probe(self, model: Any, block: nn.Module) -> int | None:
        """How many things a block returns in a tuple, None where it returns the stream itself."""
        device = next(model.parameters()).device
        tokens = torch.zeros(1, 2, dtype=torch.long, device=device)
        places = torch.arange(2, device=device)[None]
        hidden = self.embed(tokens, places)
        calls = Calls(_past(0))
        self._forward(_Pass(calls, stop=0), inputs_embeds=torch.zeros_like(hidden), position_ids=places)
        args, kwargs = calls.of(0, None)
        out = block(hidden, *args, **kwargs)
        return len(out) if isinstance(out, tuple | list) else None


def find_blocks(model: Any) -> nn.ModuleList:
    """The list of blocks: the outermost with as many modules as the text's config has layers.

    Lists inside vision towers and encoders are passed over. Raises `UserError` where there is none.
    """
    n_layers = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    text = [(name, m) for name, m in found if not any(part in name for part in _OTHER)] or found
    if not text:
        raise UserError(
            f"No list of {n_layers} blocks was found in this {model.config.model_type} model.",
            hint=_KINDS,
        )
    return min(text, key=lambda pair: pair[0].count("."))[1]


_OTHER = ("vision", "visual", "audio", "encoder.")
_KINDS = "saelab reads decoders: causal language models with one list of blocks."
