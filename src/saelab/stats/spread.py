"""Whether a score tells items apart at all: the spread between items (SAEs) beside the noise of their means.

With B and W the mean squares between and within items and k repeats (features) each, F = B / W has mean 1 where items
do not differ; its p is by the F distribution, and the reliability of an item's mean is 1 - 1/F (Shrout & Fleiss 1979).
The standard error of an item's mean is sqrt(W / k), and two items are told apart (two-sided 5 %, four times in five)
from 2.80 sqrt(2) of those on. The same figures, from variances that were measured before, plan a study.
"""

from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

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
    two items that can be told.
    """

    items: int
    repeats: float
    f: float | None = None
    p: float | None = None
    reliability: float | None = None
    se: float | None = None
    between: float | None = None
    smallest: float | None = None
    state: str = "too_few"


def spread_of(groups: list[Float[np.ndarray, "_"]]) -> Spread:
    """The spread of items with their repeats (NaN: missing). Items with fewer than two are left out."""
    kept = [g[np.isfinite(g)] for g in groups]
    kept = [g for g in kept if g.size > 1]
    items, total = len(kept), sum(g.size for g in kept)
    if items < FEWEST:
        return Spread(items, total / items if kept else 0.0)
    between, within, k = mean_squares(kept)
    if within == 0:
        return Spread(items, k, state="constant")
    ratio = between / within
    se = float(np.sqrt(within / k))
    return Spread(
        items, k, f=ratio, p=float(scipy.stats.f.sf(ratio, items - 1, total - items)),
        reliability=max(0.0, 1 - 1 / ratio), se=se,
        between=float(np.sqrt(max(0.0, between - within) / k)), smallest=APART * float(np.sqrt(2)) * se,
        state="ok",
    )  # fmt: skip


def spread_table(scores: dict[str, list[Float[np.ndarray, "_"]]]) -> pl.DataFrame:
    """A row per score: the fields of its `Spread` after its name."""
    schema = {"score": pl.String, "items": pl.Int64, **dict.fromkeys(list(Spread.__annotations__)[1:-1], pl.Float64)}
    rows = [{"score": name} | asdict(spread_of(groups)) for name, groups in scores.items()]
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
