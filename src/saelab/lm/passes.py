"""Forward passes over part of the network: up to a site, from a site, and one position at a time.

`run_to` never runs a block above the last site. `run_from` never runs one below its site; a pass at a site inside block
L starts with the stream before that block, and the activations take their place there. A `Prefix` keeps what the blocks
above a site need to know of a prompt, so that any number of replacements of its last position cost one position each:
logits(prefix, h) with h in place of the site's activation at the last token. Knows nothing of texts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.errors import UserError, nearest
from saelab.core.sites import Site, missing, parse_site
from saelab.lm.batching import position_ids
from saelab.lm.blocks import Decoder, Frame, KVCache, SharedCache
from saelab.lm.edit import Edit, Replace, check_edit
from saelab.lm.taps import Taps


@dataclass(frozen=True)
class Prefix:
    """One prompt, ready to be continued from `site`.

    tokens: the prompt; hidden: the site's activation at its last token `[D]`; stream: what the first block that runs
    again reads there; items: keys and values of that block and those above for the positions before it.
    """

    tokens: tuple[int, ...]
    site: Site
    hidden: Float[Tensor, " D"]
    stream: Float[Tensor, " E"]
    items: dict[int, tuple[Tensor, Tensor]]


def check_site(name: str | Site, decoder: Decoder) -> Site:
    """Parse a site and check that the model has it; a `UserError` gives the range, or says what the block lacks."""
    site, n_layers = parse_site(name), len(decoder.blocks)
    if site.layer >= n_layers:
        last = Site(site.kind, n_layers - 1)
        raise UserError(
            f"Site {site} is beyond the last block: the model has {n_layers}.",
            hint=nearest(str(last), [str(Site(site.kind, 0)), str(last)]),
        )
    if not site.of_stream and decoder.part(site.kind, site.layer) is None:
        raise UserError(missing(site, decoder.name), hint=f"Nearest: resid_post.{site.layer}.")
    return site


def check_edits(decoder: Decoder, edits: Iterable[Edit], rows: int) -> None:
    """Check sites and sizes of edits of a batch of `rows`; a `UserError` says what does not fit."""
    for edit in edits:
        site = check_site(edit.site, decoder)
        check_edit(edit, rows=rows, width=decoder.width(site.kind, site.layer))


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
    check_edits(decoder, edits, len(tokens))
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
    stream: Float[Tensor, "b T E"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    last: bool = False,
) -> Float[Tensor, "B _ V"]:
    """Logits when the site has the given activations at all positions; with `last`, at the last one only.

    stream: of a site inside a block, the stream before that block.
    """
    hidden = hidden.to(decoder.device, decoder.dtype)
    _fits(hidden, site, decoder)
    tokens, mask = _placed(decoder, hidden.new_zeros(hidden.shape[:2], dtype=torch.long), mask)  # only their shape
    places = position_ids(tokens, mask)
    frame, start, stop = decoder.frame(places, mask=mask), first_above(site), len(decoder.blocks)
    if not site.of_stream:
        if stream is None:
            raise UserError(
                f"A pass cannot start at {site} with its activations alone.",
                hint=f"Give the stream before its block too: stream= of resid_pre.{site.layer}.",
            )
        stream = stream.to(decoder.device, decoder.dtype).expand(len(hidden), -1, -1)
        hidden, start = _through(decoder, stream, frame, site, hidden), start + 1
    if not last or start == stop or tokens.shape[1] == 1 or decoder.limits.cached is not None:
        stream = decoder.run(hidden, frame, start=start, stop=stop)
        return decoder.unembed(stream[:, -1:] if last else stream)
    stream = decoder.run(hidden, frame, start=start, stop=stop - 1)
    # Of the other positions the last block needs keys and values only.
    before = decoder.frame(places[:, :-1], mask=None if mask is None else mask[:, :-1])
    cache = SharedCache(decoder.keys(stop - 1, stream[:, :-1], before))
    frame = decoder.frame(places[:, -1:], past=tokens.shape[1] - 1, mask=mask)
    return decoder.unembed(decoder.run(stream[:, -1:], frame, start=stop - 1, stop=stop, cache=cache))


def _through(
    decoder: Decoder, stream: Tensor, frame: Frame, site: Site, hidden: Tensor, cache: SharedCache | None = None
) -> Float[Tensor, "B T E"]:
    """The stream after a block in which a site is given `hidden`."""
    taps = Taps([Replace(site, lambda _: hidden)], torch.arange(len(hidden), device=decoder.device), phase="prompt")
    with taps.hooked(decoder):
        return decoder.run(stream, frame, start=site.layer, stop=site.layer + 1, cache=cache, visitor=taps)


def prefill(decoder: Decoder, tokens: Sequence[int], site: Site) -> Prefix:
    """Run a prompt once and keep what continuing it from `site` needs."""
    if not tokens:
        raise UserError("A prefix needs at least one token.", hint="Give it text, or a model with a BOS token.")
    start = first_above(site)
    row = torch.tensor([list(tokens)], device=decoder.device)
    stream, found = run(decoder, row, stop=start)
    if not site.of_stream:
        _, found = run(decoder, row, sites=[site], stop=site.layer + 1)
    before = stream[:, :-1]
    cache = KVCache(max(before.shape[1], 1))
    if before.shape[1]:
        frame = decoder.frame(position_ids(row[:, :-1], None))
        decoder.run(before, frame, start=start, stop=len(decoder.blocks), cache=cache)
    last = stream[0, -1]
    return Prefix(tuple(tokens), site, found[site][0, -1] if found else last, last, cache.items())


def continue_from(decoder: Decoder, prefix: Prefix, hidden: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
    """Next-token logits of the prefix with each row of `hidden` in place of its last position's activation."""
    past, site = len(prefix.tokens) - 1, prefix.site
    frame = decoder.frame(torch.tensor([[past]], device=decoder.device), past=past)
    stream = hidden.to(decoder.device, decoder.dtype)[:, None]
    cache, start = SharedCache(prefix.items), first_above(site)
    if not site.of_stream:
        _fits(stream, site, decoder)
        before = prefix.stream.expand(len(hidden), 1, -1)
        stream, start = _through(decoder, before, frame, site, stream, cache), start + 1
    stream = decoder.run(stream, frame, start=start, stop=len(decoder.blocks), cache=cache)
    return decoder.unembed(stream[:, 0])


def first_above(site: Site) -> int:
    """The first block that runs again where a pass starts at a site: that above it, or the one that it is inside of."""
    return site.layer + 1 if site.kind == "resid_post" else site.layer


def _fits(hidden: Tensor, site: Site, decoder: Decoder) -> None:
    width = decoder.width(site.kind, site.layer)
    if hidden.shape[-1] != width:
        raise UserError(f"The activations are {hidden.shape[-1]} wide, but {site} is {width} wide.")


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
