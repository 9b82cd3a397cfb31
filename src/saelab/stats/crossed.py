"""What few prompts do to means over features: every feature of an SAE has a text of every prompt.

    y = mean + SAE + feature of the SAE + prompt + SAE x prompt + rest

Prompts are shared by all SAEs (crossed), features are not (nested). An SAE that is good at one prompt more than another
is so for all its features: more features do not average that out, more prompts do. Its variance follows from the mean
squares (Cornfield & Tukey 1956): of the interaction of SAEs' prompt means, less that of the rest. A difference of two
sets of features of one SAE is taken prompt by prompt, so what a prompt does to both is gone; of what is left, the
variances over features and over prompts are added and the rest, which both hold, is counted once (Owen 2007). Tables
are [features, prompts]; a feature that lacks a prompt is left out.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from jaxtyping import Float

from saelab.stats.estimate import Estimate

FEWEST_PROMPTS = 4  # below which nothing is said of prompts like these
Crossed = Float[np.ndarray, "_ _"]  # [features, prompts]


@dataclass(frozen=True)
class ByPrompt:
    """SAE x prompt: prompts, the variance of one SAE's mean that it makes, and the p of there being none."""

    prompts: int
    variance: float
    p: float


def whole(table: Crossed) -> Crossed:
    """The features that have every prompt."""
    return table[np.isfinite(table).all(axis=1)]


def by_prompt(tables: Sequence[Crossed], clusters: Sequence[Hashable] = ()) -> ByPrompt | None:
    """The variance that few prompts leave in an SAE's mean, inside clusters (LMs); None where it cannot be had.

    It takes two prompts, the same number of every SAE, and two SAEs of a cluster with two features or more.
    """
    kept = [(whole(t), c) for t, c in zip(tables, clusters or [None] * len(tables), strict=True)]
    kept = [(t, c) for t, c in kept if t.shape[0] > 1 and t.shape[1]]
    if len({t.shape[1] for t, _ in kept}) != 1 or (prompts := int(kept[0][0].shape[1])) < 2:
        return None
    between, freedom, inverse = 0.0, 0, 0.0
    for cluster in dict.fromkeys(c for _, c in kept):
        own = [t for t, c in kept if c == cluster]
        rest = _residual(np.array([t.mean(axis=0) for t in own]))
        between += float((rest**2).sum())
        freedom += (len(own) - 1) * (prompts - 1)
        inverse += (len(own) - 1) * (prompts - 1) * float(np.mean([1 / t.shape[0] for t in own]))
    left = sum((t.shape[0] - 1) * (prompts - 1) for t, _ in kept)
    noise = sum(float((_residual(t) ** 2).sum()) for t, _ in kept) / left
    if freedom == 0 or noise == 0:
        return None
    expected = noise * inverse / freedom
    ratio = between / freedom / expected
    p = float(scipy.stats.f.sf(ratio, freedom, left))
    return ByPrompt(prompts, max(0.0, between / freedom - expected) / prompts, p)


def crossed_difference(pairs: Sequence[tuple[Crossed, Crossed]]) -> Estimate:
    """Mean over SAEs of one set of features less another, of features and prompts like these, of these SAEs.

    pairs: by SAE both sets, prompts in one order. Without an interval, and a note, below four prompts, where it covers
    too much or too little (docs/statistics.md). n counts SAEs.
    """
    kept = [(whole(a), whole(b)) for a, b in pairs]
    kept = [(a, b) for a, b in kept if a.size and b.size]
    start = Estimate(statistic="difference", state="too_few", n=len(kept), dropped=len(pairs) - len(kept))
    if not kept:
        return start
    of_prompt = np.mean([a.mean(axis=0) - b.mean(axis=0) for a, b in kept], axis=0)
    start, prompts = replace(start, state="ok", value=float(of_prompt.mean())), int(of_prompt.size)
    if prompts < FEWEST_PROMPTS:
        return replace(start, note=f"{prompts} prompts: nothing is said of others below {FEWEST_PROMPTS}")
    sets = [s for pair in kept for s in pair]
    if min(s.shape[0] for s in sets) < 2:
        return replace(start, note="an SAE with one feature only: no interval over features")
    share = 1 / len(kept) ** 2
    features = np.array([share * s.mean(axis=1).var(ddof=1) / s.shape[0] for s in sets])
    rest = sum(
        share * float((_residual(s) ** 2).sum()) / (s.shape[0] - 1) / (prompts - 1) / s.shape[0] / prompts for s in sets
    )
    over_features, over_prompts = float(features.sum()), float(of_prompt.var(ddof=1)) / prompts
    if max(over_features, over_prompts) < 1e-24:
        return replace(start, note="nothing varies, so there is no interval")
    freedom = over_features**2 / float((features**2 / np.array([s.shape[0] - 1 for s in sets])).sum() or 1.0)
    of_f, of_p = (float(scipy.stats.t.ppf(0.975, d)) ** 2 for d in (max(1.0, freedom), prompts - 1))
    reach = np.sqrt(max(of_p * over_prompts, of_f * over_features + of_p * max(0.0, over_prompts - rest)))
    value, method = start.value or 0.0, f"t over features and {prompts} prompts"
    return replace(start, low=value - float(reach), high=value + float(reach), interval_method=method)


def _residual(table: Float[np.ndarray, "R C"]) -> Float[np.ndarray, "R C"]:
    """What is left of a table without the means of its rows and columns."""
    return table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
