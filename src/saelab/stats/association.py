"""One tau_b with all that belongs to it: interval, permutation p, null interval, or the state that replaces them.

The naive interval (BCa) takes rows as independent; the cluster interval takes clusters (LMs) as independent and is
given from ten on, where it was measured to hold (docs/statistics.md). Both are given because SAEs of one LM are not
independent and few studies have many LMs; `within.py` has what few LMs can say. The permutation test is one of
independence: it holds for any level of the LMs only inside them. Nothing here knows of axes or tables.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Shaped

import saelab.stats.kendall as kendall
import saelab.stats.resample as resample
from saelab.core.seeds import numpy_generator
from saelab.stats.estimate import FEWEST, Estimate, State

FEWEST_FOR_INTERVAL = 10  # rows below which a bootstrap interval is not given
FEW_CLUSTERS = 10  # below, the cluster bootstrap covers 91 to 99 %: it is withheld
SAME = "the resamples do not vary enough for an interval"


@dataclass(frozen=True)
class Draws:
    """How many random draws, from which seed, under which name: the same name gives the same draws."""

    seed: int
    count: int
    names: tuple[str, ...] = ()

    def named(self, *names: str) -> "Draws":
        return Draws(self.seed, self.count, (*self.names, *names))

    def generator(self, purpose: str) -> np.random.Generator:
        return numpy_generator(self.seed, "stats", *self.names, purpose)


@dataclass(frozen=True)
class Sample:
    """Complete pairs (x, y), and how many rows were left out as incomplete."""

    x: Float[np.ndarray, "N"]
    y: Float[np.ndarray, "N"]
    dropped: int = 0

    @property
    def n(self) -> int:
        return self.x.size

    @property
    def pairs(self) -> int:
        return self.n * (self.n - 1) // 2

    @property
    def state(self) -> State:
        """The word "ok", or why there is no tau."""
        if self.n == 0 and self.dropped:
            return "missing"
        if self.n < FEWEST:
            return "too_few"
        return "constant" if np.ptp(self.x) == 0 or np.ptp(self.y) == 0 else "ok"


def sample_of(x: Float[np.ndarray, "N"], y: Float[np.ndarray, "N"]) -> Sample:
    """The rows in which both are there (not NaN)."""
    keep = np.isfinite(x) & np.isfinite(y)
    return Sample(x[keep], y[keep], int((~keep).sum()))


def naive_tau(sample: Sample, draws: Draws) -> Estimate:
    """tau_b with a BCa bootstrap interval over rows and the permutation null.

    The interval is left out below ten rows, and where all resamples agree (perfect agreement).
    """
    start = _start(sample, draws)
    value = start.value
    null = kendall.permutation_null(sample.x, sample.y, draws=draws.count, generator=draws.generator("permutation"))
    if value is None or null is None:
        return start
    method = None if null.p is None else null.method
    start = replace(start, p=null.p, p_method=method, null_low=null.low, null_high=null.high)
    if sample.n < FEWEST_FOR_INTERVAL:
        few = "" if null.p is not None else "; too few orders for a p"
        return replace(start, note=f"no bootstrap interval below {FEWEST_FOR_INTERVAL} rows{few}")
    sx, sy = kendall.signs(sample.x), kendall.signs(sample.y)
    values = resample.tau_of(resample.bootstrap(sample.n, draws.count, draws.generator("bootstrap")), sx, sy)
    influence = value - resample.tau_of(resample.leave_one_out(sample.n), sx, sy)
    found = resample.bca(values, value, influence)
    if found is None:
        return replace(start, note=SAME)
    return replace(start, low=found[0], high=found[1], interval_method="BCa bootstrap")


def cluster_tau(sample: Sample, clusters: Shaped[np.ndarray, "N"], name: str, draws: Draws) -> Estimate:
    """tau_b with the cluster bootstrap interval and its p (clusters: one label per row, called `name`)."""
    start = _start(sample, draws)
    if start.value is None:
        return start
    m = len(set(clusters.tolist()))
    found = None
    if m >= FEW_CLUSTERS:
        drawn = resample.cluster_bootstrap(clusters, draws.count, draws.generator("clusters"))
        values = resample.tau_of(drawn, kendall.signs(sample.x), kendall.signs(sample.y))
        found = resample.cluster_t(values, start.value, m)
    if found is None:
        return replace(start, note=cluster_note(m, name))
    method = f"cluster bootstrap over {name}"
    return replace(
        start, low=found.low, high=found.high, se=found.se, p=found.p, interval_method=method, p_method=method
    )


def _start(sample: Sample, draws: Draws) -> Estimate:
    """The value with its size, or the state."""
    value = kendall.tau_b(sample.x, sample.y) if sample.state == "ok" else None
    return Estimate(
        statistic="tau",
        value=value,
        n=sample.n,
        pairs=sample.pairs,
        state=sample.state,
        dropped=sample.dropped,
        seed=draws.seed,
    )


def cluster_note(m: int, name: str) -> str:
    """Why there is no cluster interval over m clusters."""
    if m >= FEW_CLUSTERS:
        return SAME
    return f"{m} value{'s' * (m != 1)} of {name}: no cluster interval below {FEW_CLUSTERS}, where it does not hold 95 %"
