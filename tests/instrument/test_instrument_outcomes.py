"""Outcomes: small matrices worked out by hand, the laws of lift, and each law's control that fails."""

import numpy as np
import pytest

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.instrument.lifts import difference_of, exchanged_readers, lift_of
from saelab.instrument.outcomes import UNSTEERED, Quality, Texts, by_feature, lifts, percentiles, quality, scores


def texts(owner: list[int], *, answer: bool = False, **columns: list[float]) -> Texts:
    n = len(owner)
    full = {"nll": [3.0] * n, "related": [np.nan] * n, "distinct": [1.0] * n} | columns
    arrays = {name: np.array(values, float) for name, values in full.items()}
    return Texts(np.array(owner), np.full(n, answer), **arrays)


def steered(n_features: int, each: int, *, strength: float, seed: int = 0) -> tuple[np.ndarray, Texts]:
    """Readings in which a text exceeds the others under its own reader by `strength`, among 40 unsteered texts."""
    owner = [k for k in range(n_features) for _ in range(each)] + [UNSTEERED] * 40
    values = numpy_generator("steered", seed).normal(size=(len(owner), n_features))
    for i, k in enumerate(owner):
        if k != UNSTEERED:
            values[i, k] += strength
    return values, texts(owner)


def test_percentiles_by_hand() -> None:
    values = np.array([[3.0, 0.0], [2.0, 5.0], [2.0, 5.0], [1.0, 9.0]])
    owner = np.array([0, 1, UNSTEERED, UNSTEERED])
    # Reader 0: the pool is 2, 2, 1. Its own text (3) is above all; 2 has one below and two equal; 1 has itself.
    # Reader 1: the pool is 0, 5, 9. Its own text (5) has one below and one equal.
    expected = [[1, 1 / 6], [4 / 6, 3 / 6], [4 / 6, 3 / 6], [1 / 6, 5 / 6]]
    np.testing.assert_allclose(percentiles(values, owner), expected)


def test_texts_of_the_feature_itself_are_not_in_its_pool() -> None:
    values = np.array([[9.0], [9.0], [9.0], [1.0]])
    alone = percentiles(values, np.array([0, 0, 0, UNSTEERED]))
    assert alone[0, 0] == 1.0
    # Control: were they in the pool, they would tie with each other.
    assert percentiles(values, np.array([0, 0, 0, UNSTEERED]), np.array([7]))[0, 0] < 1.0


def test_ratings_by_hand() -> None:
    owner = [0, 0, 0, *[UNSTEERED] * 30]
    plain = {"nll": [3.0] * 30, "related": [0.5] * 30, "distinct": [1.0] * 30}
    given = {"nll": [3.0, 4.0, np.nan], "related": [0.25, 1.0, np.nan], "distinct": [0.6, 1.0, 1.0]}
    found = quality(texts(owner, answer=True, **{k: given[k] + plain[k] for k in plain}))
    np.testing.assert_allclose(found.instruction[:3], [1.0, 2.0, np.nan])
    # 0.6 distinct bigrams allow (0.6 - 0.4)/0.4 of 2; one nat above usual costs half; no token is not fluent.
    np.testing.assert_allclose(found.fluency[:3], [1.0, 1.0, 0.0])


def test_the_harmonic_mean_by_hand() -> None:
    # p = 0.75 is c = 1; with i = 2 and f = 1: 3 / (1 + 1/2 + 1) for answers, 2 / (1 + 1) for openings.
    p = np.array([[0.75], [0.75], [0.4], [0.75], [0.75]])
    rated = Quality(np.array([2.0, np.nan, 2.0, np.nan, np.nan]), np.array([1.0, 1.0, 1.0, 1.0, 0.0]))
    found = scores(p, rated, np.array([True, False, True, True, True]))
    # Chance or less is 0; a missing part is missing; a broken text is 0 whatever is missing.
    np.testing.assert_allclose(found[:, 0], [1.2, 1.0, 0.0, np.nan, 0.0])


def test_instruction_is_missing_where_unsteered_answers_do_not_follow() -> None:
    owner = [0, *[UNSTEERED] * 30]
    found = quality(texts(owner, answer=True, related=[0.3, *[-0.1] * 30]))
    assert np.isnan(found.instruction).all()
    followed = quality(texts(owner, answer=True, related=[0.3, *[0.1] * 30]))
    assert followed.instruction[0] == 2.0


def test_lift_by_hand() -> None:
    score = np.array([[2.0, 0.5, 0.7], [1.0, 1.0, 1.0], [0.4, 1.6, 0.0], [1.0, 1.0, 2.0]])
    found = lifts(score, np.array([0, 2, 1, UNSTEERED]))
    np.testing.assert_allclose(found, [1.4, 0.0, 1.4, np.nan])
    with pytest.raises(UserError, match="at least two"):
        lifts(score[:, :1], np.array([0, 0, 0, 0]))


def test_a_broken_text_has_lift_zero_however_its_readers_read() -> None:
    values, plain = steered(6, 4, strength=5)
    whole = by_feature(values, plain)
    broken = np.where(plain.owner == UNSTEERED, 3.0, 9.0)
    rubble = by_feature(values, texts(plain.owner.tolist(), nll=broken.tolist()))
    assert rubble["lift"].to_list() == [0.0] * 6 and rubble["fluency"].to_list() == [0.0] * 6
    assert whole["lift"].min() > 0.5  # control: the same readings of texts that are not broken


def test_a_text_about_everything_has_lift_zero() -> None:
    values, plain = steered(6, 4, strength=0)
    values[plain.owner != UNSTEERED] = 50.0  # above all unsteered texts under every reader alike
    found = by_feature(values, plain)
    assert max(abs(v) for v in found["lift"]) < 1e-12 and found["score"].min() > 0
    values[plain.owner == 2, 2] += 1  # control: one feature's texts rise under their own reader
    assert by_feature(values, plain)["lift"][2] > 0.1


def test_shuffled_readers_see_nothing() -> None:
    own, shuffled = [], []
    for seed in range(20):
        values, plain = steered(8, 4, strength=2, seed=seed)
        own.append(by_feature(values, plain)["lift"].mean())
        shuffled.append(by_feature(np.roll(values, 1, axis=1), plain)["lift"].mean())
    # Below 0, not at it: one of the "other" readers is now the right one.
    assert np.mean(own) > 0.5 and np.mean(shuffled) < 0 and max(shuffled) < 0.2


def test_renaming_features_renames_the_outcomes() -> None:
    values, plain = steered(5, 3, strength=1)
    order = np.array([3, 0, 4, 1, 2])
    back = np.argsort(order)
    owner = [int(back[k]) if k != UNSTEERED else k for k in plain.owner.tolist()]
    columns = ["percentile", "fluency", "score", "wrong", "lift"]
    renamed = by_feature(values[:, order], texts(owner)).select(columns).to_numpy()
    straight = by_feature(values, plain).select(columns).to_numpy()
    np.testing.assert_allclose(renamed, straight[order], atol=1e-12)
    assert not np.allclose(renamed, straight)  # control


def test_missing_is_counted_and_never_a_number() -> None:
    values, plain = steered(4, 3, strength=1)
    values[plain.owner == 1, :] = np.nan
    found = by_feature(values, plain)
    assert found["lift"][1] is None and found["n_missing"].to_list() == [0, 3, 0, 0]
    control = lift_of("set", "described", found, seed=0)
    assert control.n == 3 and control.n_missing == 3
    assert lift_of("set", "described", found.head(2), seed=0).state == "too_few"


def test_too_few_references_are_refused() -> None:
    with pytest.raises(UserError, match="at least 24"):
        quality(texts([0, *[UNSTEERED] * 23]))
    quality(texts([0, *[UNSTEERED] * 29]))  # one of thirty was empty


def test_exchanged_readers_see_steering_and_only_steering() -> None:
    values, plain = steered(6, 6, strength=2)
    assert (exchanged_readers(values, plain, seed=0) or 1) == pytest.approx(1 / 720)
    values, plain = steered(8, 6, strength=2)
    assert (exchanged_readers(values, plain, seed=0) or 1) < 0.01
    # Under readers that know nothing p is even: no more than a few of 40 fall below 0.05.
    null = [exchanged_readers(*steered(5, 4, strength=0, seed=s), seed=0) or 1 for s in range(40)]
    assert sum(p <= 0.05 for p in null) <= 6 and 0.3 < np.mean(null) < 0.7


def test_a_difference_of_sets() -> None:
    tables = [by_feature(*steered(24, 2, strength=s, seed=i)) for i, s in enumerate((1.5, 0.0, 0.0))]
    apart = difference_of("a", "described", tables[0], tables[1], seed=0)
    same = difference_of("a", "described", tables[1], tables[2], seed=0)
    assert apart.low is not None and apart.low > 0 and (apart.p or 1) < 0.01
    assert same.low is not None and same.high is not None and same.low < 0 < same.high and (same.p or 0) > 0.01
