"""The share of yes among answers that come in clusters, with an interval that a small number of them can bear.

Clopper and Pearson's interval at the number of independent answers that the clusters' spread is worth (Korn & Graubard
1998, Survey Methodology 24):

    var = C/(C - 1) sum_c (y_c - p n_c)^2 / n^2,     m = min(n, p (1 - p) / var (t_{n-1} / t_{C-1})^2)

y_c of n_c answers of cluster c are yes, n and p are over all, t is Student's 97.5 % point. Where all answers are alike
the spread says nothing, and m is the number of clusters. The p is two-sided, of a true share of one half.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool
from scipy.special import betainc, betaincinv, stdtrit

from saelab.stats.estimate import FEWEST, Estimate

EVEN = 0.5


def share_estimate(yes: Bool[np.ndarray, " N"], clusters: Sequence[Hashable], *, name: str = "features") -> Estimate:
    """The share of yes with its 95 % interval; name: what the clusters are. Fewer than three leave no value."""
    names = {c: i for i, c in enumerate(dict.fromkeys(clusters))}
    count, n = len(names), len(yes)
    start = Estimate(statistic="share", state="too_few", n=n)
    if count < FEWEST:
        return start
    index = np.array([names[c] for c in clusters])
    share = float(yes.mean())
    spread = np.bincount(index, yes - share)
    variance = count / (count - 1) * float((spread**2).sum()) / n**2
    shrunk = float(stdtrit(n - 1, 0.975) / stdtrit(count - 1, 0.975)) ** 2
    size = float(count) if variance < 1e-12 else min(float(n), share * (1 - share) / variance * shrunk)
    hits, misses = share * size, (1 - share) * size
    low = float(betaincinv(hits, misses + 1, 0.025)) if hits > 0 else 0.0
    high = float(betaincinv(hits + 1, misses, 0.975)) if misses > 0 else 1.0
    above = float(betainc(hits, misses + 1, EVEN)) if hits > 0 else 1.0
    below = 1 - float(betainc(hits + 1, misses, EVEN)) if misses > 0 else 1.0
    method = f"Korn-Graubard over {count} {name}"
    found = replace(start, state="ok", value=share, low=low, high=high, interval_method=method)
    return replace(found, p=min(1.0, 2 * min(above, below)), p_method=method)
