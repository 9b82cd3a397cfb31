"""The proof, at load, that saelab's loop computes what the model itself computes.

Short batches go through transformers' own forward, with its blocks watched, and through our loop: one plain, one
left-padded, one that goes on from kept keys and values; every block's output and the logits must agree. A model that
parts is refused by a sentence that names the block. What only the padded, cached or restarted passes get wrong becomes
a limit of the model (`blocks.Limits`). Attention windows longer than these batches are proved on a small copy of the
config. `proofs.py` keeps what was found. Knows nothing of texts or SAEs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from saelab.core.errors import ResourceError, SaelabError, UserError
from saelab.core.seeds import seed_of
from saelab.core.sites import Kind
from saelab.lm.batching import position_ids
from saelab.lm.blocks import Decoder, KVCache, Limits, SharedCache
from saelab.lm.shrink import WINDOW, WINDOWS, lively_model, small_config
from saelab.lm.walk import split_stream

LENGTH, SHORT = 11, 7  # tokens of the two rows; the small copies' windows are shorter than both
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
HINT = "Nothing was computed with it. docs/lm.md lists the families that agree; please report this one."


@dataclass
class _Streams:
    """The stream that each block received and gave, and the logits."""

    before: dict[int, Tensor] = field(default_factory=dict)
    after: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None

    def visit(self, kind: Kind, layer: int, hidden: Tensor) -> Tensor:
        """Keep what our loop shows at residual sites."""
        (self.before if kind == "resid_pre" else self.after)[layer] = hidden
        return hidden


@torch.no_grad()
def prove(decoder: Decoder) -> Limits:
    """What a decoder that has no limits yet cannot do. A `UserError` names where the two part."""
    if windows_of(decoder.config) > LENGTH - 3:
        _prove_small(decoder)
    generator = torch.Generator().manual_seed(seed_of(0, "parity"))
    allowed = torch.tensor(_plain_ids(decoder))
    row = allowed[torch.randint(0, len(allowed), (1, LENGTH), generator=generator)].to(decoder.device)
    try:
        plain = _theirs(decoder, row, None)
        # The strictest first: every block with a frame of its own, as a pass that starts there has.
        restart = _reason(lambda: _compare(decoder, plain, _ours(decoder, row, None, alone=True), ""))
        if restart is not None:
            _compare(decoder, plain, _ours(decoder, row, None), "")
        padded = _reason(lambda: _padded(decoder, row, plain))
        if padded is not None:
            _causal(decoder, plain, _ours(decoder, row[:, :SHORT], None))
    except SaelabError:
        raise
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"The memory of {decoder.device} is not enough for a pass of this {decoder.name} model.",
            hint="Take --device cpu, another device, or dtype bfloat16.",
        ) from error
    except Exception as error:  # a forward or a block stops, in whatever way
        raise UserError(f"A pass of this {decoder.name} model stops with {line_of(error)}.", hint=HINT) from error
    return Limits(padded, _reason(lambda: _cached(decoder, row, plain)), restart)


def _theirs(decoder: Decoder, tokens: Tensor, mask: Tensor | None) -> _Streams:
    found = _Streams()

    def hook(i: int) -> Callable[..., None]:
        def keep(module: object, args: tuple, kwargs: dict, output: Any) -> None:
            # Cloned: some forwards change the stream in place between blocks.
            found.before[i] = split_stream(args, kwargs)[0].clone()
            found.after[i] = (output[0] if isinstance(output, tuple | list) else output).clone()

        return keep

    given: dict[str, Any] = {}
    if mask is not None:
        given = {"attention_mask": mask.long(), "position_ids": position_ids(tokens, mask)}
    handles = [b.register_forward_hook(hook(i), with_kwargs=True) for i, b in enumerate(decoder.blocks)]
    try:
        found.logits = decoder.model(input_ids=tokens, use_cache=False, **given).logits.float()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _ours(decoder: Decoder, tokens: Tensor, mask: Tensor | None, *, alone: bool = False) -> _Streams:
    found, places = _Streams(), position_ids(tokens, mask)
    frame = decoder.frame(places, mask=mask)
    hidden = decoder.embed(tokens, places)
    for i in range(len(decoder.blocks)):
        frame = decoder.frame(places, mask=mask) if alone else frame
        hidden = decoder.run(hidden, frame, start=i, stop=i + 1, visitor=found)
    found.logits = decoder.unembed(hidden)
    return found


def _compare(decoder: Decoder, theirs: _Streams, ours: _Streams, where: str, keep: Tensor | None = None) -> None:
    """Raise a `UserError` that names the first place where two passes part; keep `[B, T]`: the positions that count."""
    if len(theirs.after) != len(decoder.blocks):
        raise UserError(
            f"A forward of this {decoder.name} model runs {len(theirs.after)} of its {len(decoder.blocks)} blocks.",
            hint=HINT,
        )
    width = theirs.before[0].shape[-1]
    if width != decoder.config.hidden_size:
        raise UserError(f"The stream is {width} wide and the config says {decoder.config.hidden_size}.", hint=HINT)
    places = [("before block 0", theirs.before[0], ours.before[0])]
    for i in range(len(decoder.blocks)):
        places.append((f"before block {i}", theirs.before[i], ours.before[i]))
        places.append((f"after block {i}", theirs.after[i], ours.after[i]))
    assert theirs.logits is not None and ours.logits is not None
    places.append(("at the logits (final norm and head)", theirs.logits, ours.logits))
    for name, a, b in places:
        off = _apart(a, b, keep)
        if not off <= TOLERANCE[decoder.dtype]:
            raise UserError(
                f"This {decoder.name} model run block by block parts from its own forward {name}{where}, by {off:.1g}.",
                hint=HINT,
            )


def _apart(a: Tensor, b: Tensor, keep: Tensor | None = None) -> float:
    """The largest difference of two streams at a position, relative to its norm; NaN where they are not finite."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.float(), b.float()
    off = (a - b).norm(dim=-1) / a.norm(dim=-1).clamp_min(1e-6)
    return float((off if keep is None else off[keep]).max())


def _causal(decoder: Decoder, whole: _Streams, short: _Streams) -> None:
    """The beginning of a row alone is the beginning of the row."""
    for i, hidden in short.after.items():
        if not _apart(whole.after[i][:, :SHORT], hidden) <= TOLERANCE[decoder.dtype]:
            raise UserError(
                f"In block {i} of this {decoder.name} model, tokens read what comes after them.",
                hint="saelab reads causal language models only.",
            )


def _padded(decoder: Decoder, row: Tensor, plain: _Streams) -> None:
    """Raise where a left-padded batch parts; its second row is the beginning of the first, which also stands alone."""
    n = LENGTH - SHORT
    mask = torch.ones(2, LENGTH, dtype=torch.bool, device=row.device)
    mask[1, :n] = False
    batch = torch.cat([row, torch.cat([row[:, :1].expand(1, n), row[:, :SHORT]], dim=1)])
    ours = _ours(decoder, batch, mask)
    _compare(decoder, _theirs(decoder, batch, mask), ours, " in a left-padded batch", mask)
    last = len(decoder.blocks) - 1
    if not _apart(plain.after[last][:, :SHORT], ours.after[last][1:, n:]) <= TOLERANCE[decoder.dtype]:
        raise UserError("a left-padded row is not the row alone")


def _cached(decoder: Decoder, row: Tensor, plain: _Streams) -> None:
    """Raise where a step after kept keys and values is not the end of the whole pass."""
    n, last = len(decoder.blocks), LENGTH - 1
    cache, places = KVCache(LENGTH), position_ids(row, None)
    hidden = decoder.embed(row[:, :last], places[:, :last])
    decoder.run(hidden, decoder.frame(places[:, :last]), start=0, stop=n, cache=cache)
    token, place = row[:, last:].expand(2, 1), places[:, last:]
    for kept in (SharedCache(cache.items()), cache):  # the first keeps nothing of what two rows append
        hidden = decoder.embed(token[: 1 if kept is cache else 2], place)
        hidden = decoder.run(hidden, decoder.frame(place, past=last), start=0, stop=n, cache=kept)
        off = _apart(plain.after[n - 1][:, last:].expand_as(hidden), hidden)
        if cache.length < last or not off <= 10 * TOLERANCE[decoder.dtype]:
            raise UserError("its blocks keep more of the past than keys and values")


def _reason(check: Callable[[], None]) -> str | None:
    """The sentence that a check fails with."""
    try:
        check()
    except SaelabError as error:
        return error.message.rstrip(".")
    except Exception as error:  # a block refuses what it is called with, in whatever way
        if isinstance(error, AttributeError) and isinstance(error.obj, KVCache | SharedCache):
            return f"its blocks keep more of the past than keys and values ({error.name})"
        return f"its own code stops with {line_of(error)}"
    return None


def line_of(error: Exception) -> str:
    """An error's kind and the first line of what it says."""
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first[:150].rstrip('.')}"


def _plain_ids(decoder: Decoder) -> list[int]:
    """Tokens that mean nothing to a forward: not the padding's, nor an image's."""
    config = decoder.model.config
    said = [v for c in (config, decoder.config) for k, v in c.to_dict().items() if k.endswith("_token_id")]
    special = {i for v in said for i in (v if isinstance(v, list) else [v])}
    size = min(decoder.vocab_size, decoder.config.vocab_size)
    return [i for i in range(4, min(size, 4096)) if i not in special] or list(range(size))


def windows_of(config: Any) -> int:
    """The longest attention window of a config, 0 where it has none."""
    found = [getattr(config, name, None) for name in WINDOWS]
    return max((w for w in found if isinstance(w, int) and not isinstance(w, bool)), default=0)


def _prove_small(decoder: Decoder) -> None:
    """The proof of a small copy of the config, whose windows are shorter than the batches."""
    try:
        small = lively_model(small_config(decoder.model.config)).to(decoder.device, decoder.dtype)
    except Exception as error:  # a config that cannot be made small, in whatever way
        raise UserError(
            f"The attention window of this {decoder.name} model could not be proved: {line_of(error)}.",
            hint=HINT,
        ) from error
    copied = Decoder(small, listed=decoder.listed)
    if windows_of(copied.config) > WINDOW:
        raise UserError(f"The attention window of this {decoder.name} model could not be made small.", hint=HINT)
    limits = prove(copied)
    if limits.cached or limits.padded:
        raise UserError(f"the same model with a short window fails: {limits.cached or limits.padded}", hint=HINT)
