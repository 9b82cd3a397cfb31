"""What the language model thinks of given text: token NLLs, -ln p(token | everything before it), in nats.

Used unedited: as the fluency (perplexity) and relatedness yardstick of steered text. A prefix that several rows share
is run once and its keys and values are read by all of them. Rows are right-padded, which changes nothing for a causal
model, and the head runs at scored positions only. `following_nll` scores a text by logits that are there already.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.sites import Site
from saelab.lm.batching import by_length, pad_right, position_ids
from saelab.lm.blocks import Decoder, KVCache, SharedCache
from saelab.lm.passes import run

_ROWS, _TOKENS, _HEAD = 64, 4096, 512


def nll(
    decoder: Decoder, prefixes: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
) -> list[Float[Tensor, " T"]]:
    """NLLs of each continuation's tokens after its prefix. Raises `UserError` on an empty prefix or unequal counts."""
    if len(prefixes) != len(continuations):
        raise UserError(f"There are {len(prefixes)} prefixes for {len(continuations)} continuations.")
    for i, prefix in enumerate(prefixes):
        if not prefix:
            raise UserError(f"Prefix {i} is empty, so its first token has no likelihood.", hint="Begin with BOS.")
    found: dict[int, Tensor] = {i: torch.zeros(0) for i, c in enumerate(continuations) if not c}
    together: dict[tuple[int, ...], list[int]] = {}
    for i, (prefix, text) in enumerate(zip(prefixes, continuations, strict=True)):
        if text:
            together.setdefault(tuple(prefix), []).append(i)
    shares = decoder.limits.cached is None  # else no row can go on from another's keys and values
    alone = [i for rows in together.values() if len(rows) == 1 or not shares for i in rows]
    rows = {i: [*prefixes[i], *continuations[i]] for i in alone}
    for batch in by_length([len(rows[i]) for i in alone], rows=_ROWS, tokens=_TOKENS):
        numbers = [alone[i] for i in batch]
        hidden, _ = run(decoder, pad_right([rows[i][:-1] for i in numbers]))
        scored = [hidden[k, len(prefixes[i]) - 1 : len(rows[i]) - 1] for k, i in enumerate(numbers)]
        found.update(_scores(decoder, numbers, scored, continuations))
    for prefix, numbers in together.items():
        if len(numbers) > 1 and shares:
            found.update(_after_shared(decoder, prefix, numbers, continuations))
    return [found[i] for i in range(len(prefixes))]


def read(
    decoder: Decoder, beginning: Sequence[int], texts: Sequence[Sequence[int]], site: Site, special: frozenset[int]
) -> tuple[list[Float[Tensor, " T"]], list[Float[Tensor, " D"] | None]]:
    """NLLs of each text after `beginning`, and its mean activation at the site, from one pass.

    The mean (float32) is over the text's tokens that are not special; None where there is none.
    """
    nlls: list[Tensor] = [torch.zeros(0)] * len(texts)
    means: list[Tensor | None] = [None] * len(texts)
    written, n = [i for i, text in enumerate(texts) if text], len(beginning)
    for batch in by_length([len(texts[i]) for i in written], rows=_ROWS, tokens=_TOKENS):
        numbers = [written[i] for i in batch]
        hidden, captured = run(decoder, pad_right([[*beginning, *texts[i]] for i in numbers]), sites=[site])
        scored = [hidden[k, n - 1 : n - 1 + len(texts[i])] for k, i in enumerate(numbers)]
        for i, found in _scores(decoder, numbers, scored, texts).items():
            nlls[i] = found
        for k, i in enumerate(numbers):
            kept = [n + at for at, token in enumerate(texts[i]) if token not in special]
            means[i] = captured[site][k, kept].float().mean(0).cpu() if kept else None
    return nlls, means


def following_nll(
    logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"], scored: Bool[Tensor, "B T"]
) -> Float[Tensor, " M"]:
    """NLLs of the tokens that follow the scored positions. The last position has no successor and is never scored."""
    device = logits.device
    rows = zip(logits, tokens.to(device), scored.to(device), strict=True)
    # One sequence at a time: a batch of log-probabilities would not fit the cache.
    return torch.cat([_following(of[:-1].float(), ids[1:])[which[:-1]].cpu() for of, ids, which in rows])


def _following(logits: Float[Tensor, "T V"], ids: Int[Tensor, " T"]) -> Float[Tensor, " T"]:
    return logits.logsumexp(-1) - logits.gather(-1, ids[:, None])[:, 0]


def _after_shared(
    decoder: Decoder, prefix: tuple[int, ...], rows: list[int], continuations: Sequence[Sequence[int]]
) -> dict[int, Tensor]:
    """NLLs of the continuations `rows` of one prefix, which is run once."""
    cache, blocks, past = KVCache(len(prefix)), len(decoder.blocks), len(prefix)
    first = torch.tensor([prefix], device=decoder.device)
    places = position_ids(first, None)
    last = decoder.run(decoder.embed(first, places), decoder.frame(places), start=0, stop=blocks, cache=cache)[0, -1:]
    found: dict[int, Tensor] = {}
    for batch in by_length([len(continuations[i]) for i in rows], rows=_ROWS, tokens=_TOKENS):
        numbers = [rows[i] for i in batch]
        tokens = pad_right([continuations[i] for i in numbers])[:, :-1].to(decoder.device)
        hidden = last.expand(len(numbers), 1, -1)
        if tokens.shape[1]:
            places = position_ids(tokens, None) + past
            frame = decoder.frame(places, past=past)
            shared = SharedCache(cache.items())
            after = decoder.run(decoder.embed(tokens, places), frame, start=0, stop=blocks, cache=shared)
            hidden = torch.cat([hidden, after], dim=1)
        scored = [hidden[k, : len(continuations[i])] for k, i in enumerate(numbers)]
        found.update(_scores(decoder, numbers, scored, continuations))
    return found


def _scores(
    decoder: Decoder, numbers: list[int], scored: list[Tensor], continuations: Sequence[Sequence[int]]
) -> dict[int, Tensor]:
    targets = torch.tensor([t for i in numbers for t in continuations[i]], device=decoder.device)
    values = _losses(decoder, torch.cat(scored), targets).cpu()
    return dict(zip(numbers, values.split([len(continuations[i]) for i in numbers]), strict=True))


def _losses(decoder: Decoder, hidden: Float[Tensor, "N D"], targets: Tensor) -> Float[Tensor, " N"]:
    """Cross-entropy at each position, the head run in slices: logits of a whole batch would not fit."""
    pairs = zip(hidden.split(_HEAD), targets.split(_HEAD), strict=True)
    return torch.cat([torch.nn.functional.cross_entropy(decoder.unembed(h), t, reduction="none") for h, t in pairs])
