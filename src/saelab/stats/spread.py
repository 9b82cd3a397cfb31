"""Whether a score tells items apart at all: the spread between items (SAEs) beside the noise of their means.

With B and W the mean squares between and within items and k repeats (features) each, F = B / W has mean 1 where items
do not differ; its p is by the F distribution, and the reliability of an item's mean is 1 - 1/F (Shrout & Fleiss 1979).
The standard error of an item's mean is sqrt(W / k), and two items are told apart (two-sided 5 %, four times in five)
from 2.80 sqrt(2) of those on. The same figures, from variances that were measured before, plan a study. Items of
several clusters (LMs) are held against those of their own. An item's mean over few prompts is of those prompts: where
its features are given by prompt, what other prompts would change is taken out of the spread (`crossed.py`).
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from types import MappingProxyType

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

from saelab.stats.crossed import by_prompt
from saelab.stats.estimate import FEWEST
from saelab.stats.power import smallest_taus
from saelab.stats.reliability import mean_squares, with_noise

APART = NormalDist().inv_cdf(0.975) + NormalDist().inv_cdf(0.8)
TAUS = np.linspace(0.01, 0.99, 99)


@dataclass(frozen=True)
class Spread:
    """What one score says of items.

    items, repeats (mean number per item); f, p: against no difference; reliability: of an item's mean, 0 where F is
    below 1; se: of an item's mean; between: standard deviation of the items' true means; smallest: difference between
    two items that can be told. prompts: how many; prompt_se: what few of them add to the standard error of an item's
    mean, and the p of their adding nothing; reliability_prompts: of an item's mean over prompts like these.
    """

    items: int
    repeats: float
    f: float | None = None
    p: float | None = None
    reliability: float | None = None
    se: float | None = None
    between: float | None = None
    smallest: float | None = None
    prompts: float | None = None
    prompt_se: float | None = None
    prompt_p: float | None = None
    reliability_prompts: float | None = None
    state: str = "too_few"


def spread_of(
    groups: Sequence[Float[np.ndarray, "_"]],
    clusters: Sequence[Hashable] = (),
    crossed: Sequence[Float[np.ndarray, "_ _"]] = (),
) -> Spread:
    """The spread of items with their repeats (NaN: missing). Items with fewer than two are left out.

    clusters: by item, inside which items are compared; crossed: by item its repeats by prompt.
    """
    finite = [g[np.isfinite(g)] for g in groups]
    keep = [i for i, g in enumerate(finite) if g.size > 1]
    kept, own = [finite[i] for i in keep], [clusters[i] for i in keep] if clusters else []
    items, total = len(kept), sum(g.size for g in kept)
    found = mean_squares(kept, own) if items >= FEWEST else None
    if found is None:
        return Spread(items, total / items if kept else 0.0)
    if found.within == 0:
        return Spread(items, found.repeats, state="constant")
    ratio = found.between / found.within
    se, between = found.within / found.repeats, max(0.0, found.between - found.within) / found.repeats
    spread = Spread(
        items, found.repeats, f=ratio, p=float(scipy.stats.f.sf(ratio, *found.freedom)),
        reliability=max(0.0, 1 - 1 / ratio), se=float(np.sqrt(se)), between=float(np.sqrt(between)),
        smallest=APART * float(np.sqrt(2 * se)), state="ok",
    )  # fmt: skip
    few = by_prompt([crossed[i] for i in keep], own) if crossed else None
    if few is None:
        return spread
    return replace(
        spread, prompts=float(few.prompts), prompt_se=float(np.sqrt(few.variance)), prompt_p=few.p,
        reliability_prompts=max(0.0, between - few.variance) / (between + se),
    )  # fmt: skip


def spread_table(
    scores: Mapping[str, Sequence[Float[np.ndarray, "_"]]],
    clusters: Sequence[Hashable] = (),
    crossed: Mapping[str, Sequence[Float[np.ndarray, "_ _"]]] = MappingProxyType({}),
) -> pl.DataFrame:
    """A row per score: the fields of its `Spread` after its name. clusters, crossed: as `spread_of`, the last by score.

    The items of all scores are the same, in one order.
    """
    schema = {"score": pl.String, "items": pl.Int64, **dict.fromkeys(list(Spread.__annotations__)[1:-1], pl.Float64)}
    rows = [
        {"score": name} | asdict(spread_of(groups, clusters if groups else (), crossed.get(name, ())))
        for name, groups in scores.items()
    ]
    return pl.DataFrame(rows, schema=schema | {"state": pl.String})


def smallest_tau(items: int, reliability_x: float, reliability_y: float) -> float | None:
    """The smallest true |tau| that a design finds four times in five, noise of both scores taken in; None: no tau is.

    The noise shrinks a tau before it is tested (`reliability.with_noise`), so the design's own bound is met later.
    """
    if items < FEWEST or min(reliability_x, reliability_y) <= 0:
        return None
    needed = smallest_taus([items])["smallest_tau"][0]
    if needed is None:
        return None
    seen = [tau for tau in TAUS if with_noise(float(tau), reliability_x, reliability_y) >= needed]
    return float(seen[0]) if seen else None
