"""The feature-level question, inside each SAE: does a feature's own score go with how well that feature steers?

arXiv 2510.03659 compares SAE-level interpretability with feature-level selection; here both sides are features.
Features of different SAEs are never compared: a coefficient is taken inside each SAE, and the pooled value is the
plain mean over SAEs with Student's t interval over SAEs, so an SAE with many features has no more say than another.
The pooled p permutes the outcome inside every SAE at once. Give features that were *sampled*: among features chosen
by a predictor, that predictor's range is cut and its coefficient shrunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

from saelab.stats import kendall
from saelab.stats.association import FEWEST_FOR_INTERVAL, Draws, Sample, sample_of
from saelab.stats.estimate import FEWEST, Estimate, frame
from saelab.stats.inputs import labels, numbers, require
from saelab.stats.multiplicity import benjamini_hochberg, holm

FEW_ROWS = 60  # features of an SAE up to which its null is drawn by permutation; beyond, it is normal
LABELS: dict[str, Any] = dict.fromkeys(["predictor", "outcome", "sae"], pl.String)


@dataclass(frozen=True)
class _Kind:
    """A coefficient with the variance of its Fisher z: Fieller, Hartley & Pearson (1957); Bonett & Wright (2000)."""

    name: str
    lost: int

    def value(self, s: Sample) -> float:
        """The coefficient of a sample whose state is ok."""
        if self.name == "tau":
            return kendall.tau_b(s.x, s.y) or 0.0
        return float(np.corrcoef(scipy.stats.rankdata(s.x), scipy.stats.rankdata(s.y))[0, 1])

    def z_variance(self, value: float, n: int) -> float:
        return (0.437 if self.name == "tau" else 1 + value**2 / 2) / (n - self.lost)

    def null_draws(self, s: Sample, draws: int, generator: np.random.Generator) -> Float[np.ndarray, "R"]:
        """The coefficient with the outcome permuted."""
        if self.name == "tau":
            return kendall.null_taus(s.x, s.y, draws, generator, most=FEW_ROWS)
        if s.n > FEW_ROWS:
            return generator.normal(0.0, 1 / np.sqrt(s.n - 1), draws)
        x, y = (scipy.stats.rankdata(v) - (s.n + 1) / 2 for v in (s.x, s.y))
        orders = generator.permuted(np.tile(y, (draws, 1)), axis=1)
        return orders @ x / np.sqrt((x**2).sum() * (y**2).sum())


KINDS = (_Kind("tau", 4), _Kind("spearman", 3))


def feature_agreement(
    table: pl.DataFrame,
    *,
    predictors: Sequence[str],
    outcome: str,
    sae: str = "sae",
    seed: int = 0,
    draws: int = 2000,
) -> pl.DataFrame:
    """tau_b and Spearman of each predictor with the outcome over the features of each SAE, and pooled over SAEs.

    table: one row per (SAE, feature). Rows with `sae` null are the pooled ones: n counts SAEs, p_holm and p_bh are over
    the predictors. Rows of one SAE have a Fisher z interval from ten features on.
    """
    require(table, [outcome, sae, *predictors])
    table = table.sort([sae, outcome, *predictors], nulls_last=True, maintain_order=True)
    names, ys = labels(table, sae), numbers(table, outcome)
    rows: list[tuple[tuple[str, str, str | None], Estimate]] = []
    for predictor in predictors:
        xs = numbers(table, predictor)
        samples = {s: sample_of(xs[names == s], ys[names == s]) for s in dict.fromkeys(names.tolist())}
        own = Draws(seed, draws, ("features", predictor, outcome))
        for kind in KINDS:
            rows.append(((predictor, outcome, None), _pooled(kind, samples, own.named(kind.name))))
            rows += [((predictor, outcome, s), _single(kind, v, own.named(kind.name, s))) for s, v in samples.items()]
    return _corrected(frame(LABELS, rows))


def _single(kind: _Kind, sample: Sample, draws: Draws) -> Estimate:
    size: dict[str, Any] = {"n": sample.n, "pairs": sample.pairs, "dropped": sample.dropped, "seed": draws.seed}
    if sample.state != "ok":
        return Estimate(statistic=kind.name, state=sample.state, **size)
    value = kind.value(sample)
    found = Estimate(statistic=kind.name, value=value, **size)
    p = _p(value, kind.null_draws(sample, draws.count, draws.generator("permutation")))
    found = replace(found, p=p, p_method="permutation" if sample.n <= FEW_ROWS else "normal")
    if sample.n < FEWEST_FOR_INTERVAL or abs(value) > 1 - 1e-9:
        return replace(found, note=f"no interval below {FEWEST_FOR_INTERVAL} features or at perfect agreement")
    reach = float(scipy.stats.norm.ppf(0.975)) * np.sqrt(kind.z_variance(value, sample.n))
    low, high = np.tanh([np.arctanh(value) - reach, np.arctanh(value) + reach])
    return replace(found, low=float(low), high=float(high), interval_method="Fisher z")


def _pooled(kind: _Kind, samples: dict[str, Sample], draws: Draws) -> Estimate:
    usable = {s: v for s, v in samples.items() if v.state == "ok"}
    absent = len(samples) - len(usable)
    note = f"{absent} of {len(samples)} SAEs have no coefficient" if absent else None
    dropped = sum(v.dropped for v in samples.values())
    start = Estimate(statistic=kind.name, state="too_few", dropped=dropped, note=note, seed=draws.seed)
    if not usable:
        return start
    values = np.array([kind.value(v) for v in usable.values()])
    nulls = [kind.null_draws(v, draws.count, draws.named(s).generator("permutation")) for s, v in usable.items()]
    null, mean = np.mean(nulls, axis=0), float(values.mean())
    low, high = np.quantile(null, [0.025, 0.975])
    start = replace(
        start, state="ok", value=mean, n=len(usable), pairs=sum(v.pairs for v in usable.values()),
        p=_p(mean, null), p_method="permutation within SAEs", null_low=float(low), null_high=float(high),
    )  # fmt: skip
    if values.size < FEWEST:
        return replace(start, note=note or f"{values.size} SAEs: no interval over SAEs below {FEWEST}")
    se = float(values.std(ddof=1) / np.sqrt(values.size))
    reach = float(scipy.stats.t.ppf(0.975, values.size - 1)) * se
    return replace(start, se=se, low=mean - reach, high=mean + reach, interval_method="t over SAEs")


def _p(value: float, null: Float[np.ndarray, "R"]) -> float:
    return (1 + int((np.abs(null) >= abs(value) - kendall.SLACK).sum())) / (1 + null.size)


def _corrected(rows: pl.DataFrame) -> pl.DataFrame:
    """p_holm and p_bh of the pooled rows, over the predictors of one statistic."""
    adjusted: dict[str, list[float | None]] = {"p_holm": [None] * rows.height, "p_bh": [None] * rows.height}
    for kind in KINDS:
        chosen = rows.with_row_index("_row").filter(pl.col("sae").is_null() & (pl.col("statistic") == kind.name))
        for name, correct in (("p_holm", holm), ("p_bh", benjamini_hochberg)):
            for place, value in zip(chosen["_row"], correct(chosen["p"].to_list()), strict=True):
                adjusted[name][place] = value
    return rows.with_columns(*(pl.Series(k, v, dtype=pl.Float64) for k, v in adjusted.items()))
