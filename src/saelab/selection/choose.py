"""Choosing features by their scores, and finding out honestly whether the choice helped.

A `Tier` is one rule: a criterion, a tail (up, down or both), and a size (top K, a quantile tail, or a threshold). The
papers keep the best tier per SAE by its score on the evaluation itself; here the tier is chosen on dev scores and
reported on test scores, with its coverage (the share of chosen features that could be scored at all). Controls: random
subsets of the same size, and the same choice after shuffling which feature has which score.

Scores are frames with `feature`, `dev`, `test` (null = missing). No language model, no SAE, no files here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from saelab.core.errors import UserError, nearest
from saelab.core.seeds import numpy_generator

Tail = Literal["up", "down", "both"]
Rule = Literal["top", "quantile", "threshold"]


@dataclass(frozen=True)
class Tier:
    """One rule of choice.

    `top`: the `size` features furthest out in each tail asked for. `quantile`: those beyond the `size` quantile (up)
    or the 1 - `size` quantile (down). `threshold`: scores of at least `size` (up), at most -`size` (down).
    """

    criterion: str
    tail: Tail
    rule: Rule
    size: float | int

    @property
    def name(self) -> str:
        """For instance `delta_confidence.both.top3`."""
        return f"{self.criterion}.{self.tail}.{self.rule}{self.size:g}"


def choose(effects: pl.DataFrame, tier: Tier) -> list[int]:
    """Features that a tier picks, ascending by index. Rows whose score is null or NaN are never picked.

    Ties in the score are broken by the smaller feature index, so a choice never depends on row order.
    """
    if tier.criterion not in effects.columns:
        known = [c for c in effects.columns if c != "feature"]
        raise UserError(f"The effects have no column {tier.criterion!r}.", hint=nearest(tier.criterion, known))
    table = effects.select("feature", score=pl.col(tier.criterion).cast(pl.Float64)).sort("feature")
    table = table.filter(pl.col("score").is_finite())
    feature, score = table["feature"].to_numpy(), table["score"].to_numpy()
    tails = ("up", "down") if tier.tail == "both" else (tier.tail,)
    picked = {int(f) for tail in tails for f in feature[_in_tail(score if tail == "up" else -score, tier)]}
    return sorted(picked)


def _in_tail(score: np.ndarray, tier: Tier) -> np.ndarray:
    if not len(score):
        return np.zeros(0, dtype=int)
    if tier.rule == "top":
        return np.argsort(-score, kind="stable")[: int(tier.size)]
    bar = np.quantile(score, tier.size) if tier.rule == "quantile" else tier.size
    return np.flatnonzero(score >= bar)


def rank_product(effects: pl.DataFrame, weights: dict[str, int]) -> pl.DataFrame:
    """`effects` with a column `rank_product`: higher is better on all criteria at once.

    `weights` maps a criterion to +1 (large is good), -1 (small is good) or 0 (large magnitude is good). The score is
    minus the mean log of the ranks (1 = best, ties averaged).
    """
    total = pl.lit(0.0)
    for name, sign in weights.items():
        value = pl.col(name).abs() if sign == 0 else pl.col(name) * sign
        total = total + value.rank("average", descending=True).log()
    return effects.with_columns(rank_product=-total / len(weights))


@dataclass(frozen=True)
class Outcome:
    """What a tier chose and what it scored. `dev` and `test` are means over the chosen features that have a score."""

    tier: str
    features: tuple[int, ...]
    scored: int
    coverage: float
    dev: float | None
    test: float | None


def outcome(tier_name: str, features: Sequence[int], scores: pl.DataFrame) -> Outcome:
    """Look up the chosen features' scores. Coverage counts those with a test score among all chosen."""
    mine = scores.filter(pl.col("feature").is_in(list(features)))
    scored = mine["test"].count()
    coverage = scored / len(features) if features else 0.0
    return Outcome(tier_name, tuple(features), scored, coverage, _mean(mine["dev"]), _mean(mine["test"]))


def choose_tier(effects: pl.DataFrame, scores: pl.DataFrame, tiers: Sequence[Tier]) -> tuple[Outcome, list[Outcome]]:
    """The tier with the best dev mean (ties: the earlier tier), and the outcomes of all.

    The choice reads `dev` only: changing `test` can change what is reported, never what is chosen. Raises `UserError`
    when no tier has a single dev score.
    """
    outcomes = [outcome(t.name, choose(effects, t), scores) for t in tiers]
    known = [o for o in outcomes if o.dev is not None]
    if not known:
        raise UserError(
            "No tier holds a feature with a dev score.", hint="Steer the features that the tiers pick first."
        )
    return max(known, key=lambda o: o.dev if o.dev is not None else -np.inf), outcomes


def random_subsets(scores: pl.DataFrame, size: int, *, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """Control: mean test scores of `draws` random subsets of `size` scored features, [draws]."""
    test = scores["test"].drop_nulls().to_numpy()
    if not 0 < size <= len(test):
        raise UserError(f"Cannot draw {size} features out of {len(test)} scored ones.")
    generator = numpy_generator(seed, "selection", "random_subsets", size)
    return np.array([generator.choice(test, size, replace=False).mean() for _ in range(draws)])


def shuffled_choice(
    effects: pl.DataFrame, scores: pl.DataFrame, tiers: Sequence[Tier], *, draws: int = 200, seed: int = 0
) -> np.ndarray:
    """Control: the whole procedure (tier on dev, report on test) after shuffling the criterion over features.

    Only scored features take part. Returns the reported test means, [<= draws] (a draw without one is left out).
    """
    pool = effects.join(scores.select("feature"), on="feature", how="semi").sort("feature")
    generator = numpy_generator(seed, "selection", "shuffled_choice")
    reported = []
    for _ in range(draws):
        order = generator.permutation(pool.height)
        mixed = pool.with_columns(pool["feature"].gather(order))
        best, _ = choose_tier(mixed, scores, tiers)
        if best.test is not None:
            reported.append(best.test)
    return np.array(reported)


def top1_regret(criterion: np.ndarray, score: np.ndarray) -> float | None:
    """Best score among the features less the score of the feature with the highest criterion; None with none known."""
    both = np.isfinite(criterion) & np.isfinite(score)
    if not both.any():
        return None
    return float(score[both].max() - score[both][np.argmax(criterion[both])])


def _mean(column: pl.Series) -> float | None:
    value = column.drop_nulls().mean()
    return None if value is None else float(value)  # pyright: ignore[reportArgumentType]  (a numeric column)
