"""The mean of scores over features, with a BCa bootstrap interval over them.

Missing scores (NaN) are left out and counted in `dropped`; fewer than three leave no estimate. Scores that are all
alike (an SAE whose every feature scores 0) have no bootstrap; where the score's bounds are known, the interval is what
at most 1 - 0.025^(1/n) of other features could do (the binomial bound of n alike, Clopper & Pearson 1934).
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

import saelab.stats.resample as resample
from saelab.stats.association import Draws
from saelab.stats.estimate import FEWEST, Estimate


def mean_estimate(
    values: Float[np.ndarray, "N"],
    *,
    name: str,
    seed: int = 0,
    draws: int = 2000,
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Mean of finite values with its 95 % interval (Efron 1987). `name` names the draws; bounds: of one value."""
    kept = values[np.isfinite(values)]
    own = Draws(seed, draws, ("mean", name))
    start = Estimate(statistic="mean", state="too_few", n=kept.size, dropped=values.size - kept.size, seed=seed)
    if kept.size < FEWEST:
        return start
    value = float(kept.mean())
    if bounds and np.ptp(kept) <= 1e-9 * max(abs(value), 1e-300):
        share = 1 - 0.025 ** (1 / kept.size)
        low, high = (value + share * (end - value) for end in bounds)
        return replace(start, state="ok", value=value, low=low, high=high, interval_method="binomial bound, all alike")
    start = replace(start, state="ok", value=value)
    weights = resample.bootstrap(kept.size, draws, own.generator("bootstrap")).weights
    drawn = weights.astype(float) @ kept / kept.size
    influence = (kept - value) / (kept.size - 1)
    found = resample.bca(drawn, value, influence)
    if found is None:
        return replace(start, note="the scores do not vary enough for an interval")
    return replace(start, low=found[0], high=found[1], interval_method="BCa bootstrap over features")
