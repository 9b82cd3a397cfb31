"""Which tail of a criterion, and how much of it, gains most: chosen on one half of the texts, reported on the other.

A tier is the K features furthest up, down or both ways (K from 1 to 5 per tail), or a quantile tail. Inside every
SAE the tier's features are held against all of its sampled features. The best tier of many looks good on the texts that
chose it, so its gain is read on others; the control repeats the whole choice with the criterion's order shuffled inside
every SAE, which also is what random subsets of the same sizes gain. The p is the share of shuffles that gain as much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from saelab.stats.association import Draws
from saelab.stats.estimate import FEWEST, Estimate
from saelab.stats.units import Units, over_units

COUNTS, SHARES = (1, 2, 3, 4, 5), (0.1, 0.25)
TAILS = ("up", "down", "both ways")
TIERS = tuple([(t, f"top {k}") for k in COUNTS for t in TAILS] + [(t, f"{100 * q:g} %") for q in SHARES for t in TAILS])
LEAST_FEATURES = 2 * COUNTS[-1]  # of an SAE, so that both tails of the largest count are different features


@dataclass(frozen=True)
class Scored:
    """The sampled features of one SAE: a criterion, and the response on texts that choose and on those that test."""

    criterion: Float[np.ndarray, "F"]
    dev: Float[np.ndarray, "F"]
    test: Float[np.ndarray, "F"]

    def known(self) -> "Scored":
        """The features of which all three are there."""
        keep = np.isfinite(self.criterion) & np.isfinite(self.dev) & np.isfinite(self.test)
        return Scored(self.criterion[keep], self.dev[keep], self.test[keep])


def best_tier(saes: Sequence[Scored], units: Units, draws: Draws) -> tuple[str, float | None, Estimate]:
    """The tier chosen on dev, what it gained there, and its gain on test with interval and p.

    units: of the SAEs (`units.units_of`). SAEs with fewer than ten features are left out and counted in `dropped`.
    """
    parts = [s.known() for s in saes]
    keep = np.array([p.dev.size >= LEAST_FEATURES for p in parts], dtype=bool)
    kept = [p for p, k in zip(parts, keep, strict=True) if k]
    lost = len(parts) - len(kept)
    start = Estimate(statistic="tier gain", state="too_few", n=len(kept), dropped=lost, seed=draws.seed)
    if len(kept) < FEWEST:
        return "", None, start
    generator = draws.generator("shuffles")
    dev: list[Float[np.ndarray, "R T"]] = []
    test: list[Float[np.ndarray, "R T"]] = []
    for part in kept:
        own = np.argsort(-part.criterion, kind="stable")
        shuffled = generator.permuted(np.tile(own, (draws.count, 1)), axis=1)
        orders = np.concatenate([own[None], shuffled])
        dev.append(tier_gains(part.dev, orders))
        test.append(tier_gains(part.test, orders))
    chosen = np.mean(dev, axis=0).argmax(axis=1)  # of the criterion first, then of every shuffle
    of_saes = np.array(test)[:, np.arange(chosen.size), chosen]
    gains = of_saes.mean(axis=0)
    found = over_units(start, lambda w: w @ of_saes[:, 0] / w.sum(axis=1), units.take(keep))
    low, high = (float(v) for v in np.quantile(gains[1:], [0.025, 0.975]))
    p = (1 + int((np.abs(gains[1:]) >= abs(gains[0]) - 1e-12).sum())) / gains.size
    tail, size = TIERS[int(chosen[0])]
    on_dev = float(np.mean(dev, axis=0)[0, chosen[0]])
    return (
        f"{size} {tail}",
        on_dev,
        replace(found, p=p, p_method="shuffled criteria", null_low=low, null_high=high),
    )


def tier_gains(values: Float[np.ndarray, "F"], orders: Int[np.ndarray, "R F"]) -> Float[np.ndarray, "R T"]:
    """Of every order (highest criterion first) and tier: mean of its features less the mean of all."""
    n = values.size
    ordered = values[orders]
    up, down = np.cumsum(ordered, axis=1), np.cumsum(ordered[:, ::-1], axis=1)
    sizes = [min(k, n // 2) for k in COUNTS] + [int(np.ceil(q * n)) for q in SHARES]
    columns = [c for k in sizes for c in (up[:, k - 1] / k, down[:, k - 1] / k, (up + down)[:, k - 1] / (2 * k))]
    return np.stack(columns, axis=1) - values.mean()
