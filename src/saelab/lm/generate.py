"""Generation under edits: our own decode loop over the block loop.

A batch of prompts is left-padded. Blocks below the first edited one run once per *distinct* prompt and are then
repeated over the rows; each further token costs one position per row. A row that has ended leaves its slot, and the
next prompt enters it: its keys and values are put where those of the others end, on the right, and what lies before
them is masked. Prompts come longest first, so that whoever enters fits. Sampling: token = F^-1(u) with F the cumulative
softmax(logits / temperature) and u from a stream of the item's own, so a row's sample does not depend on its batch
mates. This module knows nothing of SAEs.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.hardware import fitting
from saelab.core.progress import Progress, Task
from saelab.core.seeds import seed_of
from saelab.core.sites import parse_site
from saelab.lm.batching import pad_left, position_ids
from saelab.lm.blocks import Decoder, KVCache
from saelab.lm.edit import Edit
from saelab.lm.passes import check_edits
from saelab.lm.taps import Taps, touches

# New rows enter once this share of the slots is free; when nobody waits, the batch shrinks when this share still runs.
# Both copy keys and values, which costs about as much as a token.
REFILL, SHRINK = 1 / 8, 3 / 4

Watch = Callable[[Sequence[Sequence[int]]], None]  # called with what all texts hold, after each token


@dataclass(frozen=True)
class Sampling:
    """How texts are continued, from a study's settings to the loop that decodes.

    max_new_tokens: the most that a text gets. temperature: 0 is greedy. seed: text i draws from a stream of its own,
    made of (seed, i), or of the i-th of several seeds.
    """

    max_new_tokens: int = 64
    temperature: float | int = 0
    seed: int | tuple[int, ...] = 0

    def seeds(self, n: int) -> tuple[int, ...]:
        """One seed per text; a `UserError` where there are several, but not n."""
        if isinstance(self.seed, int):
            return tuple(seed_of(self.seed, "generate", i) for i in range(n))
        if len(self.seed) != n:
            raise UserError(f"There are {len(self.seed)} seeds for {n} prompts.", hint="Give one, or one per prompt.")
        return self.seed


@dataclass
class _Rows:
    """The slots of a batch: the number of the text in each, whether it still runs, its row of the cache and the mask of
    real positions, its length, how many tokens it has, its stream of uniforms.
    """

    numbers: Tensor
    cache: KVCache
    mask: Tensor | None
    lengths: Tensor
    uniforms: Tensor | None
    made: Tensor
    alive: Tensor

    def choose(self, logits: Tensor, sampling: Sampling, stops: Tensor, results: list[list[int]]) -> Tensor:
        """The next token of each slot, written to `results`; rows that stop or are full are no longer alive."""
        at = self.made.clamp_max(sampling.max_new_tokens - 1)[:, None]
        uniform = None if self.uniforms is None else self.uniforms.gather(1, at)[:, 0]
        chosen = choose(logits, float(sampling.temperature), uniform)
        runs = self.alive & ~torch.isin(chosen, stops)
        for i, token, run in zip(self.numbers.tolist(), chosen.tolist(), runs.tolist(), strict=True):
            if run:
                results[i].append(token)
        self.made = self.made + 1
        self.alive = runs & (self.made < sampling.max_new_tokens)
        return chosen

    def keep(self, rows: Tensor) -> None:
        """Drop all other slots."""
        self.numbers, self.lengths = self.numbers[rows], self.lengths[rows]
        self.made, self.alive = self.made[rows], self.alive[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self.uniforms = None if self.uniforms is None else self.uniforms[rows]
        self.cache.select(rows)

    def put(self, slots: Tensor, other: "_Rows") -> None:
        """New rows in the slots of ended ones, their last positions where the others' are."""
        end, width = self.cache.length, other.cache.length
        if self.mask is None:
            self.mask = torch.ones(len(self.numbers), end, dtype=torch.bool, device=slots.device)
        self.mask[slots] = False
        self.mask[slots, end - width :] = True if other.mask is None else other.mask
        self.cache.put(slots, other.cache)
        self.numbers[slots], self.lengths[slots] = other.numbers, other.lengths
        self.made[slots], self.alive[slots] = other.made, other.alive
        if self.uniforms is not None and other.uniforms is not None:
            self.uniforms[slots] = other.uniforms

    def make_room(self) -> None:
        """Forget the leftmost positions, which no running row reads."""
        if self.mask is not None:
            first = int(self.mask[self.alive].any(0).int().argmax())
            self.mask = self.mask[:, first:]
            self.cache.drop(first)


def generate_ids(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    stop_ids: Iterable[int],
    edits: Sequence[Edit],
    batch_size: int,
    progress: Progress,
    watch: Watch | None = None,
) -> list[list[int]]:
    """New token ids of each prompt, in the prompts' order.

    stop_ids: end a text, unseen. watch: called after each token. Raises `UserError` on an empty prompt.
    """
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"Prompt {i} has no tokens.", hint="Give it text, or a model with a BOS token.")
    if not sampling.temperature >= 0:
        raise UserError(f"The temperature is 0 (greedy) or more, not {sampling.temperature}.")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}.")
    check_edits(decoder, edits, len(prompts))
    seeds, stops = sampling.seeds(len(prompts)), torch.tensor(sorted(stop_ids), device=decoder.device)

    def written(size: int) -> list[list[int]]:
        results: list[list[int]] = [[] for _ in prompts]
        waiting = deque(sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), list(prompts[i])), reverse=True))
        work = _Work(decoder, prompts, sampling, seeds, stops, edits, waiting, results, watch)
        with progress.task("generating", total=len(prompts), unit="texts") as task:
            while waiting:
                work.run(size, task)
        return results

    return [[] for _ in prompts] if sampling.max_new_tokens < 1 else fitting("texts", batch_size, written)


def choose(logits: Float[Tensor, "B V"], temperature: float, uniform: Float[Tensor, " B"] | None) -> Int[Tensor, " B"]:
    """The next token of each row: the largest logit, or F^-1(u) at the temperature."""
    if uniform is None:
        return logits.argmax(-1)
    cumulative = (logits / temperature).softmax(-1).cumsum(-1)
    target = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True).squeeze(1).clamp_max(logits.shape[-1] - 1)


@dataclass(frozen=True)
class _Work:
    """What is to be written, who waits (longest first), and what is there."""

    decoder: Decoder
    prompts: Sequence[Sequence[int]]
    sampling: Sampling
    seeds: tuple[int, ...]
    stops: Tensor
    edits: Sequence[Edit]
    waiting: deque[int]
    results: list[list[int]]
    watch: Watch | None

    def run(self, batch_size: int, task: Task) -> None:
        """One batch, until none of its rows runs; who waits enters as slots become free."""
        began, tokens, ended = time.perf_counter(), sum(map(len, self.results)), 0
        rows, logits = self.prefill(batch_size, self.sampling.max_new_tokens)
        entered = len(rows.numbers)
        while True:
            chosen = rows.choose(logits, self.sampling, self.stops, self.results)
            if self.watch is not None:
                self.watch(self.results)
            alive = rows.alive.nonzero().squeeze(1)
            if (now := entered - len(alive)) > ended:
                rate = (sum(map(len, self.results)) - tokens) / (time.perf_counter() - began)
                task.advance(now - ended, **{"tokens/s": rate})
                ended = now
            if not len(alive):
                return
            if not self.waiting and len(alive) <= SHRINK * len(chosen):
                rows.keep(alive)
                chosen = chosen[alive]
            logits = _step(self.decoder, rows, chosen, self.edits)
            free = (~rows.alive).nonzero().squeeze(1)
            if self.waiting and len(free) >= REFILL * len(chosen):
                new, begun = self.prefill(len(free), 0)
                slots = free[: len(new.numbers)]
                rows.put(slots, new)
                logits[slots] = begun
                entered += len(slots)

    def prefill(self, n: int, room: int) -> tuple[_Rows, Tensor]:
        """Run the prompts of the next n: distinct ones through the shared blocks, then every row through the rest."""
        numbers = [self.waiting.popleft() for _ in range(min(n, len(self.waiting)))]
        prompts, decoder = [tuple(self.prompts[i]) for i in numbers], self.decoder
        which = {p: i for i, p in enumerate(dict.fromkeys(prompts))}
        tokens, mask = pad_left(list(which))
        tokens = tokens.to(decoder.device)
        mask = None if mask is None else mask.to(decoder.device)
        last = len(decoder.blocks)
        split = min([last, *(parse_site(e.site).layer for e in self.edits if touches(e, "prompt"))])
        cache = KVCache(tokens.shape[1] + room + (room // 2 if self.waiting else 0))
        places = position_ids(tokens, mask)
        frame = decoder.frame(places, mask=mask)
        hidden = decoder.run(decoder.embed(tokens, places), frame, start=0, stop=split, cache=cache)
        row_numbers = torch.tensor(numbers, device=decoder.device)
        if len(which) < len(prompts):
            inverse = torch.tensor([which[p] for p in prompts], device=decoder.device)
            cache.select(inverse)
            hidden = hidden[inverse]
            mask = None if mask is None else mask[inverse]
            frame = decoder.frame(places if mask is None else places[inverse], mask=mask) if split < last else frame
        taps = Taps(self.edits, row_numbers, phase="prompt")
        with taps.hooked(decoder):
            hidden = decoder.run(hidden, frame, start=split, stop=last, cache=cache, visitor=taps)
        lengths = torch.tensor([len(p) for p in prompts], device=decoder.device)
        uniforms = _uniforms(self.sampling, [self.seeds[i] for i in numbers], decoder.device)
        alive = torch.ones_like(lengths, dtype=torch.bool)
        rows = _Rows(row_numbers, cache, mask, lengths, uniforms, torch.zeros_like(lengths), alive)
        return rows, decoder.unembed(hidden[:, -1])


def _step(decoder: Decoder, rows: _Rows, tokens: Tensor, edits: Sequence[Edit]) -> Float[Tensor, "B V"]:
    """One position more for every row: logits after `tokens`. What ended rows compute is not read."""
    if rows.cache.length == rows.cache.capacity:
        rows.make_room()
    past = rows.cache.length
    if rows.mask is not None:
        rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(tokens), 1)], dim=1)
    places = rows.lengths[:, None]
    frame = decoder.frame(places, past=past, mask=rows.mask)
    taps = Taps(edits, rows.numbers, phase="generated")
    with taps.hooked(decoder):
        hidden = decoder.embed(tokens[:, None], places)
        hidden = decoder.run(hidden, frame, start=0, stop=len(decoder.blocks), cache=rows.cache, visitor=taps)
    rows.lengths = rows.lengths + rows.alive
    return decoder.unembed(hidden[:, -1])


def _uniforms(sampling: Sampling, seeds: Sequence[int], device: torch.device) -> Tensor | None:
    """[B, max_new_tokens] uniforms, one stream per item; None when greedy."""
    if sampling.temperature == 0:
        return None
    draws = [torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws).to(device)
