"""The feature-level question, inside each SAE: does a feature's own score go with how well that feature steers?

arXiv 2510.03659 compares SAE-level interpretability with feature-level selection; here both sides are features.
Features of different SAEs are never compared: a coefficient is taken inside each SAE, and the pooled value is the plain
mean over SAEs, so an SAE with many features has no more say than another. It stands twice (column `scope`): "these", of
these SAEs, with the p of permuting the response inside every SAE at once (a test of independence, not of a mean of 0)
and the interval of their Fisher z variances; "like these", of SAEs drawn like these, by Student's t over SAEs or over
the language models they share. Give features that were *sampled*: among features chosen by a predictor, that
predictor's range is cut and its coefficient shrunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

import saelab.stats.kendall as kendall
from saelab.stats.association import FEWEST_FOR_INTERVAL, Draws, Sample, sample_of
from saelab.stats.estimate import Estimate, frame
from saelab.stats.inputs import labels, numbers, require
from saelab.stats.multiplicity import corrected
from saelab.stats.units import Units, over_units, units_of

FEW_ROWS = 60  # features of an SAE up to which its null is drawn by permutation; beyond, it is normal
LABELS: dict[str, Any] = dict.fromkeys(["predictor", "response", "sae", "scope"], pl.String)


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
        """The coefficient with the response permuted."""
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
    response: str,
    sae: str = "sae",
    cluster: str | None = None,
    seed: int = 0,
    draws: int = 2000,
) -> pl.DataFrame:
    """tau_b and Spearman of each predictor with the response over the features of each SAE, and pooled over SAEs.

    table: one row per (SAE, feature). Rows with `sae` null are the pooled ones: n counts SAEs, p_holm and p_bh are over
    the predictors of one statistic and scope (`family`). cluster: the column (the LM) whose values are the units of
    "like these" where there are two or more. Rows of one SAE have a Fisher z interval from ten features on.
    """
    require(table, [response, sae, *predictors, *([cluster] if cluster else [])])
    table = table.sort([sae, response, *predictors], nulls_last=True, maintain_order=True)
    names, ys = labels(table, sae), numbers(table, response)
    own_cluster = None if cluster is None else dict(zip(names.tolist(), labels(table, cluster).tolist(), strict=True))
    rows: list[tuple[tuple[str, str, str | None, str | None], Estimate]] = []
    for predictor in predictors:
        xs = numbers(table, predictor)
        samples = {s: sample_of(xs[names == s], ys[names == s]) for s in dict.fromkeys(names.tolist())}
        clusters = None if own_cluster is None else np.array([own_cluster[s] for s in samples], dtype=object)
        units = units_of(len(samples), clusters, cluster or "")
        own = Draws(seed, draws, ("features", predictor, response))
        for kind in KINDS:
            nulls = {
                s: kind.null_draws(v, draws, own.named(kind.name, s).generator("permutation"))
                for s, v in samples.items()
                if v.state == "ok"
            }
            pooled = _pooled(kind, samples, nulls, units, seed)
            rows += [((predictor, response, None, scope), e) for scope, e in pooled]
            rows += [((predictor, response, s, None), _single(kind, v, nulls.get(s), seed)) for s, v in samples.items()]
    families = [
        f"predictors of {response} ({e.statistic}, {scope})" if one is None else None for (_, _, one, scope), e in rows
    ]
    return corrected(frame(LABELS, rows), families)


def _single(kind: _Kind, sample: Sample, null: Float[np.ndarray, "R"] | None, seed: int) -> Estimate:
    size: dict[str, Any] = {"n": sample.n, "pairs": sample.pairs, "dropped": sample.dropped, "seed": seed}
    if null is None:
        return Estimate(statistic=kind.name, state=sample.state, **size)
    value = kind.value(sample)
    found = Estimate(statistic=kind.name, value=value, **size)
    found = replace(found, p=_p(value, null), p_method="permutation" if sample.n <= FEW_ROWS else "normal")
    if sample.n < FEWEST_FOR_INTERVAL or abs(value) > 1 - 1e-9:
        return replace(found, note=f"no interval below {FEWEST_FOR_INTERVAL} features or at perfect agreement")
    reach = float(scipy.stats.norm.ppf(0.975)) * np.sqrt(kind.z_variance(value, sample.n))
    low, high = np.tanh([np.arctanh(value) - reach, np.arctanh(value) + reach])
    return replace(found, low=float(low), high=float(high), interval_method="Fisher z")


def _pooled(
    kind: _Kind, samples: dict[str, Sample], nulls: dict[str, Float[np.ndarray, "R"]], units: Units, seed: int
) -> list[tuple[str, Estimate]]:
    """The mean over SAEs, of these and of SAEs like these."""
    usable = {s: v for s, v in samples.items() if v.state == "ok"}
    absent = len(samples) - len(usable)
    note = f"{absent} of {len(samples)} SAEs have no coefficient" if absent else None
    dropped = sum(v.dropped for v in samples.values())
    start = Estimate(
        statistic=kind.name, state="too_few", n=len(usable), dropped=dropped, note=note, seed=seed,
        pairs=sum(v.pairs for v in usable.values()) if usable else None,
    )  # fmt: skip
    if not usable:
        return [("these", start), ("like these", start)]
    values = np.array([kind.value(v) for v in usable.values()])
    null, mean = np.mean([nulls[s] for s in usable], axis=0), float(values.mean())
    low, high = np.quantile(null, [0.025, 0.975])
    these = replace(
        start, state="ok", value=mean, p=_p(mean, null), p_method="permutation within SAEs",
        null_low=float(low), null_high=float(high),
    )  # fmt: skip
    if min(v.n for v in usable.values()) > kind.lost + 1:
        spread = sum((1 - v**2) ** 2 * kind.z_variance(v, s.n) for v, s in zip(values, usable.values(), strict=True))
        se = float(np.sqrt(spread)) / values.size
        reach = float(scipy.stats.norm.ppf(0.975)) * se
        these = replace(these, se=se, low=mean - reach, high=mean + reach, interval_method="Fisher z over features")
    keep = np.array([s in usable for s in samples])
    like = over_units(start, lambda w: w @ values / w.sum(axis=1), units.take(keep), bound=1.0)
    if like.state != "ok":
        few = f"{values.size} SAEs: no interval over SAEs below three"
        like = replace(like, state="ok", value=mean, note="; ".join(filter(None, [note, few])))
    elif note:
        like = replace(like, note="; ".join(filter(None, [note, like.note])))
    return [("these", these), ("like these", like)]


def _p(value: float, null: Float[np.ndarray, "R"]) -> float:
    return (1 + int((np.abs(null) >= abs(value) - kendall.SLACK).sum())) / (1 + null.size)
