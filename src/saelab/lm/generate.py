"""Generation under edits: our own decode loop over the block loop.

A batch of prompts is left-padded. Blocks below the first edited one run once per *distinct* prompt and are then
repeated over the rows; each further token costs one position per row. Sampling: token = F^-1(u) with F the cumulative
softmax(logits / temperature) and u from a stream of the item's own, so a row's sample does not depend on its batch
mates. This module knows nothing of SAEs.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.progress import Progress
from saelab.core.seeds import seed_of
from saelab.lm.batching import pad_left, position_ids
from saelab.lm.blocks import Decoder, KVCache
from saelab.lm.edit import Edit, check_edit
from saelab.lm.passes import check_site
from saelab.lm.sites import parse_site
from saelab.lm.taps import Taps, touches


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: at most `max_new_tokens`; `temperature` 0 is greedy; `stop_ids` end a row unseen."""

    max_new_tokens: int
    temperature: float
    stop_ids: frozenset[int]
    seeds: tuple[int, ...]


@dataclass
class _Rows:
    """The rows of a batch still running: their numbers in the whole, cache, mask of real positions, lengths."""

    numbers: Tensor
    cache: KVCache
    mask: Tensor | None
    lengths: Tensor
    uniforms: Tensor | None

    def keep(self, rows: Tensor) -> None:
        self.numbers, self.lengths = self.numbers[rows], self.lengths[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self.uniforms = None if self.uniforms is None else self.uniforms[rows]
        self.cache.select(rows)


def item_seeds(seed: int | Sequence[int], n: int) -> tuple[int, ...]:
    """One seed per item: given ones as they are, else `seed_of(seed, "generate", i)`."""
    if isinstance(seed, int):
        return tuple(seed_of(seed, "generate", i) for i in range(n))
    if len(seed) != n:
        raise UserError(f"There are {len(seed)} seeds for {n} prompts.", hint="Give one seed, or one per prompt.")
    return tuple(seed)


def generate_ids(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    edits: Sequence[Edit],
    batch_size: int,
    progress: Progress,
) -> list[list[int]]:
    """New token ids of each prompt, in the prompts' order. Raises `UserError` on an empty prompt."""
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"Prompt {i} has no tokens.", hint="Give it text, or a model with a BOS token.")
    width = decoder.config.hidden_size
    for edit in edits:
        check_site(check_edit(edit, rows=len(prompts), width=width), len(decoder.blocks))
    results: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), list(prompts[i])))
    with progress.task("generating", total=len(prompts), unit="texts") as task:
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            began = time.perf_counter()
            _generate_batch(decoder, prompts, numbers, sampling, edits, results)
            made = sum(len(results[i]) for i in numbers)
            task.advance(len(numbers), **{"tokens/s": made / (time.perf_counter() - began)})
    return results


def choose(logits: Float[Tensor, "B V"], temperature: float, uniform: Float[Tensor, " B"] | None) -> Int[Tensor, " B"]:
    """The next token of each row: the largest logit, or F^-1(u) at the temperature."""
    if uniform is None:
        return logits.argmax(-1)
    cumulative = (logits / temperature).softmax(-1).cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_max(logits.shape[-1] - 1)


def _generate_batch(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    numbers: list[int],
    sampling: Sampling,
    edits: Sequence[Edit],
    results: list[list[int]],
) -> None:
    rows, logits = _prefill(decoder, [prompts[i] for i in numbers], numbers, sampling, edits)
    stop = torch.tensor(sorted(sampling.stop_ids), device=decoder.device)
    for step in range(sampling.max_new_tokens):
        uniform = None if rows.uniforms is None else rows.uniforms[:, step]
        chosen = choose(logits, sampling.temperature, uniform)
        running = ~torch.isin(chosen, stop)
        for i, token, runs in zip(rows.numbers.tolist(), chosen.tolist(), running.tolist(), strict=True):
            if runs:
                results[i].append(token)
        if step + 1 == sampling.max_new_tokens or not bool(running.any()):
            return
        if not bool(running.all()):
            alive = running.nonzero().squeeze(1)
            rows.keep(alive)
            chosen = chosen[alive]
        logits = _step(decoder, rows, chosen, edits)


def _prefill(
    decoder: Decoder, prompts: list[Sequence[int]], numbers: list[int], sampling: Sampling, edits: Sequence[Edit]
) -> tuple[_Rows, Tensor]:
    """Run the prompts: distinct ones through the shared blocks, then every row through the rest."""
    distinct = {tuple(p): None for p in prompts}
    which = {p: i for i, p in enumerate(distinct)}
    inverse = torch.tensor([which[tuple(p)] for p in prompts], device=decoder.device)
    tokens, mask = pad_left(list(distinct))
    tokens = tokens.to(decoder.device)
    mask = None if mask is None else mask.to(decoder.device)
    edited = [parse_site(e.site).layer for e in edits if touches(e, "prompt")]
    last = len(decoder.blocks)
    split = min([last, *edited])
    cache = KVCache(tokens.shape[1] + sampling.max_new_tokens)
    places = position_ids(tokens, mask)
    frame = decoder.frame(places, mask=mask)
    hidden = decoder.run(decoder.embed(tokens, places), frame, start=0, stop=split, cache=cache)
    row_numbers = torch.tensor(numbers, device=decoder.device)
    if len(distinct) < len(prompts):
        cache.select(inverse)
        hidden = hidden[inverse]
        mask = None if mask is None else mask[inverse]
        frame = decoder.frame(places if mask is None else places[inverse], mask=mask) if split < last else frame
    taps = Taps(edits, row_numbers, phase="prompt")
    with taps.hooked(decoder):
        hidden = decoder.run(hidden, frame, start=split, stop=last, cache=cache, visitor=taps)
    lengths = torch.tensor([len(p) for p in prompts], device=decoder.device)
    rows = _Rows(row_numbers, cache, mask, lengths, _uniforms(sampling, numbers, decoder.device))
    return rows, decoder.unembed(hidden[:, -1])


def _step(decoder: Decoder, rows: _Rows, tokens: Tensor, edits: Sequence[Edit]) -> Float[Tensor, "B V"]:
    """One position more for every row: logits after `tokens`."""
    past = rows.cache.length
    if rows.mask is not None:
        rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(tokens), 1)], dim=1)
    places = rows.lengths[:, None]
    frame = decoder.frame(places, past=past, mask=rows.mask)
    taps = Taps(edits, rows.numbers, phase="generated")
    with taps.hooked(decoder):
        hidden = decoder.embed(tokens[:, None], places)
        hidden = decoder.run(hidden, frame, start=0, stop=len(decoder.blocks), cache=rows.cache, visitor=taps)
    rows.lengths = rows.lengths + 1
    return decoder.unembed(hidden[:, -1])


def _uniforms(sampling: Sampling, numbers: list[int], device: torch.device) -> Tensor | None:
    """[B, max_new_tokens] uniforms, one stream per item; None when greedy."""
    if sampling.temperature == 0:
        return None
    draws = [
        torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(sampling.seeds[i])) for i in numbers
    ]
    return torch.stack(draws).to(device)
