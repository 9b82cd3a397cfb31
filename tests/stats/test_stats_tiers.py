"""The best tail of a criterion: a planted one is found on texts that did not choose it, and nothing is not."""

import numpy as np
import pytest

from saelab.core.seeds import numpy_generator
from saelab.stats.association import Draws
from saelab.stats.tiers import TIERS, Scored, best_tier, tier_gains
from saelab.stats.units import units_of


def study(seed: int, gain: float) -> list[Scored]:
    """Eight SAEs of 20 features; the three with the highest criterion steer `gain` more."""
    rng, found = numpy_generator("tiers", seed), []
    for _ in range(8):
        criterion = rng.normal(size=20)
        true = gain * (np.argsort(np.argsort(-criterion)) < 3)
        found.append(Scored(criterion, true + rng.normal(size=20), true + rng.normal(size=20)))
    return found


def test_a_planted_tail_is_found_on_the_other_texts() -> None:
    tier, dev, found = best_tier(study(0, 2.0), units_of(8), Draws(0, 300))
    assert tier in {f"top {k} up" for k in (1, 2, 3, 4)} and dev is not None and dev > 1
    assert found.value is not None and found.low is not None and found.p is not None
    assert found.value > 1 and found.low > 0.5 and found.p < 0.01


def test_the_best_of_many_tiers_looks_good_only_where_it_was_chosen() -> None:
    """A criterion of noise. Control: on the texts that chose it, the gain is well above 0."""
    ps, chosen, reported = [], [], []
    for seed in range(60):
        _, dev, found = best_tier(study(seed, 0.0), units_of(8), Draws(seed, 60))
        assert dev is not None and found.value is not None and found.p is not None
        ps.append(found.p)
        chosen.append(dev)
        reported.append(found.value)
    assert np.mean(np.array(ps) < 0.05) < 0.12
    assert np.mean(chosen) > 0.2 and abs(np.mean(reported)) < 0.1


def test_the_gain_of_every_tier_is_what_its_name_says() -> None:
    values = np.arange(20.0)  # the criterion is the value itself
    gains = dict(zip(TIERS, tier_gains(values, np.argsort(-values)[None])[0], strict=True))
    assert gains["up", "top 1"] == 19 - 9.5 and gains["down", "top 3"] == 1 - 9.5
    assert gains["both ways", "top 5"] == pytest.approx(0) and gains["up", "10 %"] == 18.5 - 9.5


def test_few_features_and_missing_ones_are_counted() -> None:
    saes = study(1, 0.0)
    short = Scored(*(v[:9] for v in (saes[0].criterion, saes[0].dev, saes[0].test)))
    holes = Scored(saes[1].criterion, np.where(np.arange(20) < 12, np.nan, saes[1].dev), saes[1].test)
    found = best_tier([short, holes, *saes[2:]], units_of(8), Draws(0, 50))[2]
    assert (found.n, found.dropped) == (6, 2)
    few = best_tier([short, holes, *saes[2:4]], units_of(4), Draws(0, 50))
    assert few[0] == "" and few[1] is None and few[2].state == "too_few"
