"""What factor 1 is: three units beside "the method's own largest score", as the distance of a direction.

- norm share   factor f moves the stream by f times the median norm of its activations at the site;
- equal KL     every direction moves as far as changes the next token after neutral prefixes by the same mean
               KL(base || steered), so directions compare at equal effect instead of equal distance;
- raw          activation units (distance 1).

The distance of equal KL is found by bisection between 0 and `reach` median norms: KL is 0 at 0 and continuous, so the
wanted value is crossed where the far end exceeds it; one that never gets there is a `UserError`, not a guess.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.activations.site import stream_site
from saelab.core.errors import UserError
from saelab.lm.model import LanguageModel
from saelab.selection.criteria.divergence import kl
from saelab.selection.criteria.observation import NextToken, Observation
from saelab.steering.direction import Direction

PREFIXES = ("From my experience,", "In the end,", "The first thing is")


def typical_norm(lm: LanguageModel, site: str, texts: Sequence[str] = PREFIXES) -> float:
    """Median norm of the activations of texts at a site, special positions left out."""
    return float(lm.capture(list(texts), [site])[site].norm(dim=-1).median())


def raw(direction: Direction) -> Direction:
    """Factors are distances in activation units."""
    return direction.at_distance(1.0, "activation units")


def by_norm_share(direction: Direction, norm: float | int) -> Direction:
    """Factors are shares of a typical norm (`typical_norm`)."""
    return direction.at_distance(norm, "median norm")


@torch.inference_mode()
def by_equal_kl(
    lm: LanguageModel,
    directions: Sequence[Direction],
    nats: float | int,
    *,
    prefixes: Sequence[str] = PREFIXES,
    reach: float | int = 8,
    steps: int = 24,
) -> list[Direction]:
    """The directions with the distance of mean KL `nats` as factor 1. All act at one site, at all positions."""
    sites = {d.site for d in directions}
    if len(sites) != 1:
        raise UserError(f"Equal KL compares directions of one site, not of {', '.join(sorted(sites)) or 'none'}.")
    if not nats > 0:
        raise UserError(f"Equal KL needs a positive KL, not {nats:g} nats.")
    effect = _Effect(lm, sites.pop(), torch.stack([d.vector for d in directions]), prefixes)
    low = torch.zeros(len(directions))
    high = torch.full((len(directions),), float(reach * typical_norm(lm, directions[0].site, prefixes)))
    short = effect(high) < nats
    if bool(short.any()):
        one = directions[int(short.nonzero()[0])]
        raise UserError(
            f"{one.method} ({one.origin}) does not reach {nats:g} nats of KL within {reach:g} typical norms.",
            hint="Ask for less KL.",
        )
    for _ in range(steps):
        middle = (low + high) / 2
        below = effect(middle) < nats
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    source = f"KL of {nats:g} nats"
    return [d.at_distance(float(s), source) for d, s in zip(directions, high, strict=True)]


class _Effect:
    """Mean KL over prefixes of moving every position by a distance along each direction."""

    def __init__(self, lm: LanguageModel, site: str, vectors: Float[Tensor, "B D"], prefixes: Sequence[str]):
        self.lm, self.site, self.vectors = lm, site, vectors.to(lm.device)
        rows = lm.tokenize(list(prefixes))
        before = stream_site(site)
        asked = [site, *([before] if before else [])]
        states = [lm.run_to(torch.tensor([r], device=lm.device), asked) for r in rows]
        self.hidden = [found[site] for found in states]
        self.streams = [found[before] if before else None for found in states]
        self.base = [self._next(x, stream) for x, stream in zip(self.hidden, self.streams, strict=True)]

    def _next(self, x: Float[Tensor, "B T D"], stream: Float[Tensor, "b T E"] | None) -> NextToken:
        return NextToken(self.lm.run_from(x, self.site, stream=stream, last=True)[:, 0])

    def __call__(self, distance: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        push = (distance.to(self.vectors.device)[:, None] * self.vectors)[:, None]
        total = torch.zeros(len(self.vectors))
        for x, stream, base in zip(self.hidden, self.streams, self.base, strict=True):
            steered = self._next(x + push.to(x.dtype), stream)
            none = torch.zeros(len(self.vectors), 1, dtype=torch.long, device=x.device)
            total += kl(Observation(base, steered, none)).cpu()
        return total / len(self.hidden)
