"""Texts of features are crossed with prompts: known components, and intervals that know of few prompts."""

import numpy as np
import pytest

from saelab.core.seeds import numpy_generator
from saelab.stats.association import Draws
from saelab.stats.crossed import by_prompt, crossed_difference
from saelab.stats.gains import gains_of
from saelab.stats.spread import spread_of
from saelab.stats.units import units_of

SAES, FEATURES = 8, 12


def tables(
    seed: int, *, prompts: int = 4, sae: float = 0.0, by: float = 0.0, saes: int = SAES, features: int = FEATURES
) -> list[np.ndarray]:
    """SAEs of features by prompts: a prompt's own level, an SAE's own (sd sae), SAE x prompt (sd by), and noise."""
    rng = numpy_generator("crossed", seed, prompts, f"{sae} {by}")
    level, own = rng.normal(size=prompts), sae * rng.normal(size=saes)
    both, feature = by * rng.normal(size=(saes, prompts)), 0.3 * rng.normal(size=(saes, features))
    noise = rng.normal(size=(saes, features, prompts))
    return list(level + own[:, None, None] + both[:, None] + feature[:, :, None] + noise)


def test_the_variance_of_prompts_within_saes_is_found_again() -> None:
    """Its share in an SAE's mean is the planted one; a prompt's own level is none of it. Control: nothing planted."""
    planted = by_prompt(tables(0, by=0.5, saes=100, prompts=5))
    nothing = by_prompt(tables(0, saes=100, prompts=5))
    assert planted is not None and nothing is not None
    assert planted.variance == pytest.approx(0.25 / 5, rel=0.15) and planted.p < 1e-6
    assert nothing.variance < 0.003 and nothing.p > 0.01


def test_prompts_inside_clusters_are_held_against_their_own() -> None:
    """Prompts that two LMs take differently are no SAE x prompt inside them. Control: without clusters they are."""
    one, other = tables(1, saes=20), [t[:, ::-1] + np.arange(4) for t in tables(2, saes=20)]
    inside, across = (by_prompt([*one, *other], c) for c in (["a"] * 20 + ["b"] * 20, []))
    assert inside is not None and across is not None
    assert inside.p > 0.01 and across.p < 1e-6


def test_what_cannot_be_had_is_none() -> None:
    few = tables(3)
    assert by_prompt([t[:, :1] for t in few]) is None and by_prompt([]) is None
    assert by_prompt([few[0], few[1][:, :3]]) is None, "SAEs of other prompts"
    assert by_prompt(few[:2], ["a", "b"]) is None, "no two SAEs of one cluster"
    holes = [np.where(np.arange(FEATURES)[:, None] == 0, np.nan, t) for t in few]
    assert by_prompt(holes) == by_prompt([t[1:] for t in few])


def test_reliability_over_prompts_like_these_is_lower_where_saes_differ_by_prompt() -> None:
    """SAEs that differ in nothing but which of four prompts suits them are told apart on these, and not in general."""
    crossed = tables(4, by=1.0, saes=60)
    found = spread_of([t.mean(axis=1) for t in crossed], [], crossed)
    assert found.reliability is not None and found.reliability_prompts is not None
    assert found.reliability > 0.6 > 0.3 > found.reliability_prompts
    real = tables(5, sae=0.6, saes=60)
    kept = spread_of([t.mean(axis=1) for t in real], [], real)
    assert kept.reliability_prompts == pytest.approx(kept.reliability, abs=0.05)
    assert spread_of([t.mean(axis=1) for t in real]).reliability_prompts is None


def test_saes_of_two_lms_are_told_apart_inside_them() -> None:
    """An LM's level alone is no difference between SAEs. Control: without clusters it is all of F."""
    groups = [t.mean(axis=1) + 3 * (i >= 4) for i, t in enumerate(tables(6))]
    inside, across = (spread_of(groups, c) for c in (["a"] * 4 + ["b"] * 4, []))
    assert inside.p is not None and inside.p > 0.01
    assert across.p is not None and across.p < 1e-9 and across.items == inside.items


@pytest.mark.parametrize("by", [0.0, 0.6])
def test_differences_know_that_prompts_are_few(by: float) -> None:
    """Two sets of features of five SAEs at four prompts, none better: found as often as said, also where a set is
    better at some prompts than at others. Control: an interval over features alone finds one there."""
    found, control = list[bool](), list[bool]()
    for i in range(80):
        rng = numpy_generator("differences", i, str(by))
        shift = by * rng.normal(size=4)  # of the set, by prompt, in all SAEs
        pairs = [(t[:5] + shift, t[5:]) for t in tables(1000 + i, saes=5)]
        row = crossed_difference(pairs)
        assert row.low is not None and row.high is not None
        found.append(row.low > 0 or row.high < 0)
        one, other = [a.mean(axis=1) for a, _ in pairs], [b.mean(axis=1) for _, b in pairs]
        rows = gains_of(one, other, units_of(5), Draws(i, 3))
        low, high = next((e.low, e.high) for scope, e in rows if scope == "these" and e.statistic == "difference")
        assert low is not None and high is not None
        control.append(low > 0 or high < 0)
    assert np.mean(found) < 0.12
    assert np.mean(control) > 0.3 if by else np.mean(control) < 0.12


def test_three_prompts_say_nothing_of_others() -> None:
    row = crossed_difference([(t[:5, :3], t[5:, :3]) for t in tables(7)])
    assert row.value is not None and row.low is None and "3 prompts" in (row.note or "")
    none = np.empty((0, 4))
    assert crossed_difference([]).state == crossed_difference([(none, tables(7)[0])]).state == "too_few"
    assert by_prompt([*tables(7), np.empty((3, 0))]) == by_prompt(tables(7)), "an SAE without texts"
