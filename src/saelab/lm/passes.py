"""Forward passes over part of the network: up to a site, from a site, and one position at a time.

`run_to` never runs a block above the last site. `run_from` never runs one below its site. A `Prefix` keeps what the
blocks above a site need to know of a prompt, so that any number of replacements of its last position cost one position
each: logits(prefix, h) with h in place of the site's activation at the last token. Knows nothing of texts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.errors import UserError, nearest
from saelab.core.sites import Site, parse_site
from saelab.lm.batching import position_ids
from saelab.lm.blocks import Decoder, KVCache, SharedCache
from saelab.lm.edit import Edit, check_edit
from saelab.lm.taps import Taps


@dataclass(frozen=True)
class Prefix:
    """One prompt, ready to be continued from `site`.

    tokens: the prompt; hidden: the site's activation at its last token `[D]`; items: keys and values of the blocks
    above for the positions before it.
    """

    tokens: tuple[int, ...]
    site: Site
    hidden: Float[Tensor, " D"]
    items: dict[int, tuple[Tensor, Tensor]]


def check_site(name: str | Site, n_layers: int) -> Site:
    """Parse a site and check that the model has its block; a `UserError` gives the range."""
    site = parse_site(name)
    if site.layer >= n_layers:
        last = Site(site.kind, n_layers - 1)
        raise UserError(
            f"Site {site} is beyond the last block: the model has {n_layers}.",
            hint=nearest(str(last), [str(Site(site.kind, 0)), str(last)]),
        )
    return site


def run(
    decoder: Decoder,
    tokens: Int[Tensor, "B T"],
    *,
    sites: Iterable[Site] = (),
    mask: Bool[Tensor, "B T"] | None = None,
    edits: Sequence[Edit] = (),
    stop: int | None = None,
) -> tuple[Float[Tensor, "B T D"], dict[Site, Tensor]]:
    """The stream after block stop-1 (all blocks when None), and the activations at the sites."""
    tokens, mask = _placed(decoder, tokens, mask)
    for edit in edits:
        check_site(check_edit(edit, rows=len(tokens), width=decoder.config.hidden_size), len(decoder.blocks))
    places = position_ids(tokens, mask)
    taps = Taps(edits, torch.arange(len(tokens), device=decoder.device), phase="prompt", sites=sites)
    with taps.hooked(decoder):
        hidden = decoder.run(
            decoder.embed(tokens, places),
            decoder.frame(places, mask=mask),
            start=0,
            stop=len(decoder.blocks) if stop is None else stop,
            visitor=taps,
        )
    return hidden, taps.captured


def run_from(
    decoder: Decoder,
    hidden: Float[Tensor, "B T D"],
    site: Site,
    *,
    mask: Bool[Tensor, "B T"] | None = None,
    last: bool = False,
) -> Float[Tensor, "B _ V"]:
    """Logits when the residual site has the given activations at all positions; with `last`, at the last one only."""
    hidden = hidden.to(decoder.device, decoder.dtype)
    width = hidden.shape[-1]
    if width != decoder.config.hidden_size:
        raise UserError(f"The activations are {width} wide, but {site} is {decoder.config.hidden_size} wide.")
    tokens, mask = _placed(decoder, hidden.new_zeros(hidden.shape[:2], dtype=torch.long), mask)  # only their shape
    places = position_ids(tokens, mask)
    start, stop = first_above(site), len(decoder.blocks)
    if not last or start == stop or tokens.shape[1] == 1:
        stream = decoder.run(hidden, decoder.frame(places, mask=mask), start=start, stop=stop)
        return decoder.unembed(stream[:, -1:] if last else stream)
    stream = decoder.run(hidden, decoder.frame(places, mask=mask), start=start, stop=stop - 1)
    # Of the other positions the last block needs keys and values only.
    before = decoder.frame(places[:, :-1], mask=None if mask is None else mask[:, :-1])
    cache = SharedCache(decoder.keys(stop - 1, stream[:, :-1], before))
    frame = decoder.frame(places[:, -1:], past=tokens.shape[1] - 1, mask=mask)
    return decoder.unembed(decoder.run(stream[:, -1:], frame, start=stop - 1, stop=stop, cache=cache))


def prefill(decoder: Decoder, tokens: Sequence[int], site: Site) -> Prefix:
    """Run a prompt once and keep what continuing it from `site` needs."""
    if not tokens:
        raise UserError("A prefix needs at least one token.", hint="Give it text, or a model with a BOS token.")
    start = first_above(site)
    row = torch.tensor([list(tokens)], device=decoder.device)
    hidden, _ = run(decoder, row, stop=start)
    before = hidden[:, :-1]
    cache = KVCache(max(before.shape[1], 1))
    if before.shape[1]:
        frame = decoder.frame(position_ids(row[:, :-1], None))
        decoder.run(before, frame, start=start, stop=len(decoder.blocks), cache=cache)
    return Prefix(tuple(tokens), site, hidden[0, -1], cache.items())


def continue_from(decoder: Decoder, prefix: Prefix, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
    """Next-token logits of the prefix with each row of `hidden` in place of its last position's activation."""
    past = len(prefix.tokens) - 1
    frame = decoder.frame(torch.tensor([[past]], device=decoder.device), past=past)
    stream = hidden.to(decoder.device, decoder.dtype)[:, None]
    cache = SharedCache(prefix.items)
    stream = decoder.run(stream, frame, start=first_above(prefix.site), stop=len(decoder.blocks), cache=cache)
    return decoder.unembed(stream[:, 0])


def first_above(site: Site) -> int:
    """The first block that reads a residual site; a `UserError` for the other kinds, which no pass can start from."""
    if site.kind == "resid_post":
        return site.layer + 1
    if site.kind == "resid_pre":
        return site.layer
    raise UserError(f"A pass cannot start at {site}.", hint=f"Use resid_post.{site.layer} or resid_pre.{site.layer}.")


def stop_after(sites: Iterable[Site]) -> int:
    """How many blocks must run to know all the sites; `resid_pre.0` still needs one visit."""
    return max((s.layer + 1 for s in sites), default=0)


def _placed(decoder: Decoder, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """On the decoder's device, and without a mask that masks nothing."""
    if tokens.shape[0] == 0 or tokens.shape[1] == 0:
        raise UserError(f"There is nothing to run: the batch has shape {list(tokens.shape[:2])}.")
    if mask is None or bool(mask.all()):
        return tokens.to(decoder.device), None
    return tokens.to(decoder.device), mask.to(decoder.device)
