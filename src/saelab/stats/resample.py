"""Bootstrap resamples of pair statistics, and the intervals made from them. One set of draws serves many statistics.

A resample is a set of weights w; a sum over pairs becomes `sum_ij w_i w_j M_ij`, one matrix product for all resamples.

**Ties by construction.** A row drawn twice gives a pair that is tied in x and in y. Such a pair adds nothing to the
numerator of tau_b nor to either half of its denominator (M_ii = 0), so tau_b of a resample is the ratio of sums over
pairs of *different* rows: the copies do not pull it towards zero, as they would tau_a by (n - 1) / n.

**Clusters.** Drawing whole clusters makes the same trouble one level up: two copies of an LM would count as a pair of
LMs. `Clusters.pair_sum` therefore takes pairs inside a cluster and pairs of different clusters apart, each at the share
that it has in the data, and a pair of copies of one cluster not at all. A drawn LM keeps all its SAEs (Davison &
Hinkley 1997, 3.8): their noise is already in the differences between LMs, and drawing SAEs again inside each LM counts
it twice (measured: docs/statistics.md).
"""

from dataclasses import dataclass

import numpy as np
import scipy
from jaxtyping import Float, Shaped

MOST_UNDEFINED = 0.05  # share of resamples without a value above which there is no interval
BLOCK = 1 << 24  # entries of a block of weights
Interval = tuple[float, float]


@dataclass(frozen=True)
class Rows:
    """Resamples of single rows: how often each row is drawn."""

    weights: Float[np.ndarray, "R N"]

    def pair_sum(self, pairs: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "R"]:
        """The sum over pairs of rows of a symmetric matrix with zero diagonal, in each of R resamples of N rows."""
        step = max(1, BLOCK // pairs.shape[0])
        parts = [self.weights[i : i + step] for i in range(0, self.weights.shape[0], step)]
        return np.concatenate([_quadratic(pairs, part) for part in parts])


@dataclass(frozen=True)
class Clusters:
    """Resamples of whole clusters: how often each of C clusters is drawn, and which rows are its own."""

    counts: Float[np.ndarray, "R C"]
    members: Float[np.ndarray, "C N"]

    def pair_sum(self, pairs: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "R"]:
        """As `Rows.pair_sum`, with pairs inside clusters and pairs of two clusters at their own shares of all pairs."""
        sums = self.members @ pairs @ self.members.T
        sizes = self.members.sum(axis=1)
        numbers = np.outer(sizes, sizes) - np.diag(sizes)
        inside, across = np.diag(numbers).sum(), numbers.sum() - np.diag(numbers).sum()
        within = _ratio(self.counts @ np.diag(sums), self.counts @ np.diag(numbers))
        between = _ratio(*(_quadratic(m - np.diag(np.diag(m)), self.counts) for m in (sums, numbers)))
        return inside * within + across * between


Resample = Rows | Clusters


def _quadratic(pairs: Float[np.ndarray, "N N"], weights: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R"]:
    return np.einsum("rn,rn->r", weights @ pairs, weights, dtype=np.float64)


def _ratio(top: Float[np.ndarray, "R"], bottom: Float[np.ndarray, "R"]) -> Float[np.ndarray, "R"]:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def tau_of(resample: Resample, sx: Float[np.ndarray, "N N"], sy: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "R"]:
    """tau_b in each resample from the sign matrices of x and y; NaN where a resample is constant."""
    spread = resample.pair_sum(np.abs(sx)) * resample.pair_sum(np.abs(sy))
    top = resample.pair_sum(sx * sy)
    return np.divide(top, np.sqrt(spread), out=np.full_like(top, np.nan), where=spread > 0)


def bootstrap(n: int, draws: int, generator: np.random.Generator) -> Rows:
    """`draws` naive bootstrap resamples of n rows."""
    return Rows(generator.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float32))


def original(n: int) -> Rows:
    """The data themselves as a resample (R = 1)."""
    return Rows(np.ones((1, n), dtype=np.float32))


def leave_one_out(n: int) -> Rows:
    """The n samples that lack one row: the jackknife that BCa needs."""
    return Rows((1 - np.eye(n)).astype(np.float32))


def cluster_bootstrap(clusters: Shaped[np.ndarray, "N"], draws: int, generator: np.random.Generator) -> Clusters:
    """`draws` resamples of whole clusters (labels, one per row), with at least two different ones in each.

    Of m clusters, m are drawn with replacement. A draw of one cluster m times holds no pair of clusters and is redrawn.
    """
    names, index = np.unique(clusters.astype(str), return_inverse=True)
    m = names.size
    counts = generator.multinomial(m, np.full(m, 1 / m), size=draws)
    while m > 1 and (alone := counts.max(axis=1) == m).any():
        counts[alone] = generator.multinomial(m, np.full(m, 1 / m), size=int(alone.sum()))
    return Clusters(counts.astype(float), (index[None, :] == np.arange(m)[:, None]).astype(float))


def percentile(values: Float[np.ndarray, "R"]) -> Interval | None:
    """The middle 95 % of the resamples; None where they say nothing."""
    kept = _defined(values)
    return None if kept is None else _pair(np.quantile(kept, [0.025, 0.975]))


def bca(values: Float[np.ndarray, "R"], estimate: float, influence: Float[np.ndarray, "N"]) -> Interval | None:
    """Bias-corrected and accelerated interval, 95 % (Efron 1987); None where the resamples say nothing.

    influence: the jackknife influence of each row, `estimate - (estimate without it)`, up to a common factor.
    """
    kept = _defined(values)
    if kept is None or not np.isfinite(influence).all():
        return None
    below = float((kept < estimate - 1e-9).mean() + (kept <= estimate + 1e-9).mean()) / 2
    centred = influence - influence.mean()
    spread = float((centred**2).sum())
    if spread == 0 or not 0 < below < 1:
        return None
    acceleration: float = float((centred**3).sum()) / (6 * spread**1.5)
    bias = scipy.stats.norm.ppf(below)
    moved = bias + scipy.stats.norm.ppf(np.array([0.025, 0.975]))
    levels = scipy.stats.norm.cdf(bias + moved / (1 - acceleration * moved))
    return _pair(np.quantile(kept, levels))


@dataclass(frozen=True)
class ClusterInterval:
    """A 95 % interval with its standard error and the two-sided p of "the truth is 0"."""

    low: float
    high: float
    se: float
    p: float


def cluster_t(
    values: Float[np.ndarray, "R"], estimate: float, clusters: int, *, bound: float = 1.0
) -> ClusterInterval | None:
    """Interval from resampled clusters: Student's t with clusters - 1 degrees of freedom.

    On the scale of atanh(v / bound), which no value leaves, with the bootstrap variance times m / (m - 1). None
    below three clusters, or where the resamples say nothing.
    """
    kept = _defined(values)
    if clusters < 3 or kept is None or abs(estimate) >= bound:
        return None
    scaled = np.arctanh(np.clip(kept / bound, -1 + 1e-6, 1 - 1e-6))
    se = float(scaled.std() * np.sqrt(clusters / (clusters - 1)))
    centre = float(np.arctanh(estimate / bound))
    reach = float(scipy.stats.t.ppf(0.975, clusters - 1)) * se
    low, high = np.tanh([centre - reach, centre + reach]) * bound
    p = 2 * float(scipy.stats.t.sf(abs(centre) / se, clusters - 1))
    return ClusterInterval(float(low), float(high), se * (bound - estimate**2 / bound), p)


def two_sided(values: Float[np.ndarray, "R"]) -> float | None:
    """Bootstrap p of "the truth is 0": twice the smaller share of resamples at or beyond 0, plus one draw."""
    kept = _defined(values)
    if kept is None:
        return None
    beyond = min(int((kept <= 0).sum()), int((kept >= 0).sum()))
    return min(1.0, 2 * (1 + beyond) / (1 + kept.size))


def _defined(values: Float[np.ndarray, "R"]) -> Float[np.ndarray, "R2"] | None:
    kept = values[np.isfinite(values)]
    enough = kept.size >= (1 - MOST_UNDEFINED) * values.size
    return kept if enough and kept.size > 1 and np.ptp(kept) > 1e-9 else None


def _pair(edges: Float[np.ndarray, "2"]) -> Interval:
    return float(edges[0]), float(edges[1])
