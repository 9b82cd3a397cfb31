"""SAEs less their random dictionaries: the interval covers what it speaks of, these SAEs or SAEs like these."""

from typing import Literal

import numpy as np
import pytest
from scipy import stats as scipy_stats

from saelab.core.seeds import numpy_generator
from saelab.stats.estimate import Estimate
from saelab.stats.less import less_than

Groups = list[np.ndarray]


def drawn(rng: np.random.Generator, *, between: float, apart: float = 0.0) -> tuple[Groups, np.ndarray]:
    """Twelve SAEs of 16 features with an effect of their own each, and 64 features of a dictionary."""
    effects = apart + between * rng.normal(size=12)
    return [e + rng.normal(size=16) for e in effects], rng.normal(size=64)


def less(ours: Groups, theirs: np.ndarray, units: Literal["features", "saes"] = "saes") -> Estimate:
    """All SAEs have the one dictionary."""
    return less_than(ours, ["one"] * len(ours), {"one": theirs}, units=units)


def test_with_one_dictionary_it_is_welchs_test_on_the_means_of_the_saes() -> None:
    ours, theirs = drawn(numpy_generator("less", 1), between=0.5, apart=1.0)
    means = np.array([g.mean() for g in ours])
    known = scipy_stats.ttest_ind(means, theirs, equal_var=False)
    low, high = known.confidence_interval(0.95)
    found = less(ours, theirs)
    assert (found.value, found.p) == pytest.approx((means.mean() - theirs.mean(), known.pvalue))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_false_positives_where_saes_differ_and_none_exceeds() -> None:
    """Of SAEs like these: 5 %. Control: with features as units far more, as these SAEs do differ."""
    wrong = {"saes": 0, "features": 0}
    for seed in range(400):
        ours, theirs = drawn(numpy_generator("less", seed), between=0.8)
        for units in ("saes", "features"):
            wrong[units] += (less(ours, theirs, units).p or 1) < 0.05
    assert 0.025 < wrong["saes"] / 400 < 0.085
    assert wrong["features"] / 400 > 0.2


def test_what_these_saes_do_is_covered_with_features_as_units() -> None:
    """The effects are given, features are drawn: 95 %. Control: that of SAEs like these is far longer."""
    held, longer = 0, []
    for seed in range(400):
        rng = numpy_generator("less of these", seed)
        effects = 0.8 * rng.normal(size=12)
        ours, theirs = [e + rng.normal(size=16) for e in effects], rng.normal(size=64)
        these, like = less(ours, theirs, "features"), less(ours, theirs)
        assert these.low is not None and these.high is not None and like.low is not None and like.high is not None
        held += these.low < effects.mean() < these.high
        longer.append((like.high - like.low) / (these.high - these.low))
    assert 0.925 < held / 400 < 0.975
    assert float(np.median(longer)) > 1.5


def sites(seed: int) -> tuple[Groups, list[str], dict[str, np.ndarray]]:
    """Twelve SAEs at a site where nothing steers, three where everything does, none more than its dictionary."""
    rng = numpy_generator("less sites", seed)
    levels = {"a": 0.0, "b": 0.4}
    own = ["a"] * 12 + ["b"] * 3
    others = {name: level + 0.25 * rng.normal(size=64) for name, level in levels.items()}
    return [levels[name] + 0.25 * rng.normal(size=20) for name in own], own, others


def test_every_sae_is_held_against_its_own_dictionary() -> None:
    """Control: all dictionaries pooled give a difference where there is none, for sites have unlike numbers of SAEs."""
    wrong, pooled = 0, 0
    for seed in range(300):
        ours, own, others = sites(seed)
        wrong += (less_than(ours, own, others, units="saes").p or 1) < 0.05
        pooled += (less(ours, np.concatenate(list(others.values()))).p or 1) < 0.05
    assert wrong / 300 < 0.085
    assert pooled / 300 > 0.3


def test_an_sae_without_a_dictionary_is_left_out_and_counted() -> None:
    ours, own, others = sites(0)
    found = less_than([*ours, np.full(20, 9.0)], [*own, "c"], others | {"c": np.zeros(2)})
    assert found.value == less_than(ours, own, others).value
    assert found.note == "1 without a random dictionary of their own are left out"
    assert less_than(ours, ["c"] * 15, {}).state == "too_few"


def test_missing_and_few_are_states() -> None:
    ours, theirs = drawn(numpy_generator("less", 2), between=0.0)
    holes = [np.append(g, np.nan) for g in ours]
    found = less(holes, theirs)
    assert less(ours[:2], theirs).state == "too_few" and less(ours[:2], theirs, "features").state == "ok"
    assert (found.value, found.dropped) == (less(ours, theirs).value, 12)
    assert less(ours, theirs[:2]).state == "too_few"
    assert less([], theirs).state == "too_few"
    assert less([np.full(16, np.nan)] * 4, theirs).state == "too_few"
    flat = less([np.ones(4)] * 3, np.zeros(4))
    assert (flat.value, flat.low, flat.p) == (1.0, None, None)


def test_the_noise_of_several_dictionaries_is_counted_once() -> None:
    """Four sites, three SAEs and a dictionary of five features each. Control: over all SAEs it is counted twice."""
    twice, found, value = [], [], []
    for seed in range(300):
        rng = numpy_generator("less twice", seed)
        own = [name for name in "abcd" for _ in range(3)]
        others = {name: rng.normal(size=5) for name in "abcd"}
        ours = [0.1 * rng.normal(size=40) for _ in own]
        like = less_than(ours, own, others, units="saes")
        assert like.se is not None
        found.append(like.se**2)
        value.append(like.value)
        apart = np.array([g.mean() - others[name].mean() for g, name in zip(ours, own, strict=True)])
        noise = sum(v.var(ddof=1) / v.size / 16 for v in others.values())
        twice.append(apart.var(ddof=1) / 12 + noise)
    truth = float(np.var(value))
    assert float(np.mean(found)) == pytest.approx(truth, rel=0.2)
    assert float(np.mean(twice)) > 1.12 * truth
    ours, own, others = [0.1 * np.arange(9.0) + i for i in range(4)], list("abcd"), {n: np.arange(3.0) for n in "abcd"}
    each = less_than(ours, own, others, units="saes")
    apart = np.array([g.mean() - others[n].mean() for g, n in zip(ours, own, strict=True)])
    assert each.se == pytest.approx(apart.std(ddof=1) / 2), "a dictionary of its own each: the SAEs' spread holds both"
