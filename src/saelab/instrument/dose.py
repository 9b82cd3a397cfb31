"""Dose by KL: how far along its direction a feature is moved, said by what that does to the next token.

    KL per token = mean over positions of KL(unsteered || steered), the edit at all positions of ordinary text

A dose is a KL; its distance at a site is the one at which the *median* direction of a set has that KL, found on a grid
of distances that double and read off by a straight line in log-log (KL grows about with the square of the distance).
A share of the stream's norm means other things at other sites: 0.2 is 0.15 nats in SmolLM2 and 5 in Gemma 3 270M.
One dose serves a site, chosen on dev texts of all its sets; a dev without signal is a state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.activations.site import resumed, stream_site
from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.lm.model import LanguageModel
from saelab.selection.criteria.observation import NextToken
from saelab.stats.estimate import Estimate
from saelab.stats.means import mean_estimate

# Positions from the start of a context that are read but not counted: their predictions are still those of no text.
SKIPPED = 8
FEW = 2  # contexts
WIDEST = 8.0  # median norms of the stream beyond which no distance is tried


@dataclass(frozen=True, eq=False)
class Probe:
    """Contexts of ordinary text run once up to a site: what the KL of an edit there is measured on."""

    lm: LanguageModel
    site: str
    hidden: Float[Tensor, "B T D"]
    base: NextToken
    norm: float
    stream: Float[Tensor, "b T E"] | None = None

    @classmethod
    @torch.inference_mode()
    def over(cls, lm: LanguageModel, site: str, tokens: Int[Tensor, "B T"]) -> "Probe":
        """tokens: a handful of contexts, each longer than the skipped positions."""
        if tokens.shape[1] <= SKIPPED + 1:
            raise UserError(f"KL is measured on contexts of more than {SKIPPED + 1} tokens, not {tokens.shape[1]}.")
        before = stream_site(site)
        states = lm.run_to(tokens.long().to(lm.device), [site, *([before] if before else [])])
        hidden, stream = states[site], states[before] if before else None
        norm = float(hidden[:, 1:].float().norm(dim=-1).median())
        return cls(lm, site, hidden, NextToken(_counted(resumed(lm, hidden, site, stream))), norm, stream)

    @torch.inference_mode()
    def kl(self, direction: Float[np.ndarray, " D"], distance: float) -> float:
        """Mean KL per token in nats of moving every position by `distance` along a unit direction."""
        push = torch.from_numpy(np.asarray(direction * distance, np.float32)).to(self.hidden.device)
        moved = (self.hidden.float() + push).to(self.hidden.dtype)
        steered = NextToken(_counted(resumed(self.lm, moved, self.site, self.stream)))
        log_ratio = (self.base.logits - self.base.log_norm[:, None]) - (steered.logits - steered.log_norm[:, None])
        return max(0.0, float((self.base.probs * log_ratio).sum(-1).mean()))

    def short(self) -> "Probe":
        """The same on the first few contexts: for a figure that is shown beside a score and decides nothing."""
        kept = self.hidden[:FEW]
        counted = kept.shape[0] * (kept.shape[1] - SKIPPED)
        stream = None if self.stream is None else self.stream[:FEW]
        return Probe(self.lm, self.site, kept, NextToken(self.base.logits[:counted]), self.norm, stream)


@dataclass(frozen=True, eq=False)
class Curve:
    """KL of some directions at distances that double: `kl[j, i]` of direction j at `distances[i]`."""

    distances: Float[np.ndarray, " S"]
    kl: Float[np.ndarray, "K S"]

    @property
    def median(self) -> Float[np.ndarray, " S"]:
        """KL of the median direction, made to grow with the distance."""
        return np.maximum.accumulate(np.median(self.kl, 0))

    def reaches(self, nats: float) -> bool:
        """Whether the median direction has this KL at a distance that was tried."""
        return bool(self.median[0] <= nats <= self.median[-1])

    def distance(self, nats: float) -> float:
        """The distance at which the median direction has this KL. Raises `UserError` where none of the grid reaches."""
        median = self.median
        if not self.reaches(nats):
            raise UserError(
                f"The median direction has {median[0]:.2g} to {median[-1]:.2g} nats of KL at the distances tried, "
                f"never {nats:g}.",
                hint="Ask for another dose.",
            )
        return float(np.exp(np.interp(np.log(nats), np.log(np.maximum(median, 1e-12)), np.log(self.distances))))


def curve(
    probe: Probe,
    directions: Float[np.ndarray, "K D"],
    doses: Sequence[float],
    *,
    most: int = 8,
    every: bool = False,
    progress: Progress = SILENT,
) -> Curve:
    """The KL of up to `most` of the directions, evenly spread, at distances whose median KLs enclose the doses.

    every: not the median alone, but all of the directions are to reach them, as far as distances are tried.
    """
    least, largest = (np.max, np.min) if every else (np.median, np.median)
    chosen = directions[np.unique(np.linspace(0, len(directions) - 1, min(most, len(directions))).astype(int))]
    start = probe.norm / 8
    with progress.task("finding doses", unit="distances") as task:

        def at(distance: float) -> Float[np.ndarray, "K"]:
            found = np.array([probe.kl(v, distance) for v in chosen])
            task.advance(1, KL=float(np.median(found)))
            return found

        steps = {start: at(start)}
        while least(steps[min(steps)]) > min(doses) and min(steps) > probe.norm * 1e-4:
            steps[min(steps) / 2] = at(min(steps) / 2)
        while largest(steps[max(steps)]) < max(doses) and max(steps) < WIDEST * probe.norm:
            steps[2 * max(steps)] = at(2 * max(steps))
    order = sorted(steps)
    return Curve(np.array(order), np.stack([steps[d] for d in order], 1))


@dataclass(frozen=True)
class Chosen:
    """The dose with the largest mean lift on dev, with that mean; no dose where dev shows none."""

    dose: float | None
    lift: Estimate | None
    state: Literal["ok", "no_dev_signal"]


def choose(dev: Mapping[float, Float[np.ndarray, " K"]], *, seed: int = 0) -> Chosen:
    """From each dose's lifts (one per feature, all sets of a site pooled) to the dose that the tests are written at.

    A dose can be chosen where the 95 % interval of its mean lift lies above 0. Where none does, the state says so.
    """
    means = {dose: mean_estimate(lift, name=f"dev {dose:g}", seed=seed) for dose, lift in dev.items()}
    seen = {dose: e for dose, e in means.items() if e.value is not None and e.low is not None and e.low > 0}
    if not seen:
        return Chosen(None, None, "no_dev_signal")
    best = max(seen, key=lambda dose: (seen[dose].value or 0.0, -dose))
    return Chosen(best, seen[best], "ok")


def _counted(logits: Float[Tensor, "B T V"]) -> Float[Tensor, "N V"]:
    return logits[:, SKIPPED:].flatten(0, 1)
