"""One kind of thing less another that nothing pairs it with: SAEs less a random dictionary.

The features of an SAE share their SAE, so SAEs are the units where there are at least three: the mean of SAEs' means,
less a mean of features. Interval and p by Welch's t with the Welch-Satterthwaite degrees of freedom (Welch 1947).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.stats import t as student

from saelab.stats.estimate import FEWEST, Estimate


def less_than(groups: Sequence[Float[np.ndarray, "_"]], other: Float[np.ndarray, " N"]) -> Estimate:
    """Mean of the groups less the mean of `other`, with its 95 % interval and two-sided p.

    groups: the values of each SAE's features, NaN where missing; with fewer than three groups the features are the
    units. n counts the units of both sides.
    """
    parts = [g[np.isfinite(g)] for g in groups]
    parts = [g for g in parts if g.size]
    clustered = len(parts) >= FEWEST
    ours = np.array([g.mean() for g in parts]) if clustered else np.concatenate([*parts, np.zeros(0)])
    theirs = other[np.isfinite(other)]
    dropped = sum(g.size for g in groups) - sum(g.size for g in parts) + other.size - theirs.size
    start = Estimate(statistic="difference", state="too_few", n=ours.size + theirs.size, dropped=dropped)
    if min(ours.size, theirs.size) < FEWEST:
        return start
    value = float(ours.mean() - theirs.mean())
    shares = np.array([ours.var(ddof=1) / ours.size, theirs.var(ddof=1) / theirs.size])
    start = replace(start, state="ok", value=value)
    se = float(np.sqrt(shares.sum()))
    if se < 1e-12:
        return replace(start, note="nothing varies, so there is no interval")
    freedom = se**4 / float((shares**2 / np.array([ours.size - 1, theirs.size - 1])).sum())
    reach = float(student.ppf(0.975, freedom)) * se
    p = 2 * float(student.sf(abs(value) / se, freedom))
    method = "Welch t, SAEs and features" if clustered else "Welch t over features"
    return replace(start, low=value - reach, high=value + reach, se=se, p=p, interval_method=method, p_method="Welch t")
