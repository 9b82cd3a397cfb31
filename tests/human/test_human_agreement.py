"""What answers come to, with raters of whom it is known how they choose."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from some_sets import some_set, some_sets

from saelab.core.seeds import numpy_generator
from saelab.human.agreement import CONTROL, FINDS, SAES, agreement_of
from saelab.human.answers import Answered
from saelab.human.trials import OTHER, SIDES, BlindTrial, trials_of
from saelab.instrument.readers import HEADLINE

JUDGE = f"{HEADLINE} by hand"
AS = f"chooses as {JUDGE}"
TRIALS = trials_of([some_set(f"sae{i}", 20, copies=2) for i in range(4)] + [some_set("r", 40, control=True)], 0)


def follower(trials: Sequence[BlindTrial], p: float, *names: str | int) -> Answered:
    """Chooses the judge's side with probability p, the other else; any side where the judge has none."""
    rng = numpy_generator("follower", *names)
    found = {}
    for trial in trials:
        side = trial.judges[JUDGE] or SIDES[int(rng.integers(2))]
        found[trial.key] = side if rng.random() < p else SIDES[1 - SIDES.index(side)]
    return Answered(found)


def row(table: pl.DataFrame, what: str, of: str = SAES) -> dict[str, object]:
    return table.filter(what=what, of=of).row(0, named=True)


def test_a_rater_who_follows_a_judge_is_found_to_and_one_who_guesses_is_not() -> None:
    """The share and its interval recover p; control: one who guesses is not told from chance, 19 times in 20."""
    covered, told, guessed = [], [], []
    trials = TRIALS[:100]
    for n in range(60):
        for p, found in ((0.8, covered), (0.5, guessed)):
            mine = row(agreement_of(trials, {"anna": follower(trials, p, n, str(p))}), AS)
            assert mine["n"] == 80 and mine["chance"] == 0.5
            found.append(mine["low"] <= p <= mine["high"])
            if p == 0.8:
                told.append(mine["says"] == "above chance")
            else:
                assert (mine["says"] == "not told from chance") == found[-1]
    assert np.mean(covered) >= 0.9 and np.mean(guessed) >= 0.9 and np.mean(told) >= 0.98


def test_known_answers() -> None:
    trials = TRIALS[:50]
    truth = {t.key: t.steered for t in trials}
    skipped, neither, *rest = [t for t in trials if not t.control]
    given = Answered(truth | {skipped.key: "skip", neither.key: "neither"})
    table = agreement_of(trials, {"anna": given})
    finds = row(table, FINDS)
    assert (finds["value"], finds["n"], finds["neither"], finds["high"]) == (1.0, len(rest), 1, 1.0)
    assert finds["low"] < 1 and finds["says"] == "above chance"
    agrees = row(table, AS)
    same = np.mean([t.judges[JUDGE] == t.steered for t in rest])
    assert agrees["value"] == agrees["by_hits"] == pytest.approx(same), "who is always right agrees where the judge is"
    assert row(table, FINDS, f"foil: {OTHER}")["n"] == sum(t.foil == OTHER for t in rest)
    assert row(table, FINDS, "arm: delta_confidence")["n"] == sum("delta_confidence" in t.arms for t in rest)
    assert row(table, FINDS, CONTROL)["n"] == sum(t.control for t in trials)


def test_a_judge_without_an_answer_is_counted_and_no_number() -> None:
    trials = trials_of([some_set("sae", 12)], 0)
    blind = [BlindTrial(**(vars(t) | {"judges": dict.fromkeys(t.judges)})) for t in trials]
    mine = row(agreement_of(blind, {"anna": follower(blind, 0.8)}), AS)
    assert (mine["value"], mine["n"], mine["undecided"], mine["says"]) == (None, 0, 24, "too few")


def test_chance_of_two_who_both_find_the_steered_text_is_said() -> None:
    """Two hit rates of 0.8 agree in 0.68 without a view in common: `by_hits` says so, and lies below what is shared."""
    trials = [t for t in TRIALS if not t.control]
    rng = numpy_generator("hits")
    alone = Answered({t.key: t.steered if rng.random() < 0.8 else SIDES[1 - SIDES.index(t.steered)] for t in trials})
    apart, along = (row(agreement_of(trials, {"anna": a}), AS) for a in (alone, follower(trials, 0.95)))
    assert apart["low"] <= apart["by_hits"] <= apart["high"] and apart["says"] == "above chance"
    assert along["low"] > along["by_hits"], "control: a rater who follows the judge shares more than hits"


def test_two_raters_have_a_kappa() -> None:
    trials = [t for t in TRIALS if not t.control]
    guess = {n: follower(trials, 0.5, n) for n in ("anna", "ben")}
    apart = agreement_of(trials, guess).filter(what="agrees with ben (kappa)").row(0, named=True)
    assert apart["rater"] == "anna" and apart["says"] == "not told from chance" and abs(apart["value"]) < 0.25
    near = {"anna": follower(trials, 0.9, "a"), "ben": follower(trials, 0.9, "b")}
    both = agreement_of(trials, near).filter(what="agrees with ben (kappa)").row(0, named=True)
    assert both["says"] == "above chance" and both["low"] < 2 * (0.81 + 0.01) - 1 < both["high"]
    same = agreement_of(trials, {"anna": guess["anna"], "ben": guess["anna"]}).filter(what="agrees with ben (kappa)")
    assert same["value"][0] == pytest.approx(1.0)
    alike = {n: Answered({t.key: "neither" for t in trials}) for n in ("anna", "ben")}
    constant = agreement_of(trials, alike).filter(what="agrees with ben (kappa)").row(0, named=True)
    assert constant["value"] is None and constant["says"] == "constant"


def test_kappa_of_a_table_by_hand() -> None:
    """45 left/left, 15 left/right, 25 right/left, 15 right/right: 0.1304 (0.6 observed, 0.54 by chance)."""
    trials = trials_of([some_set(f"sae{i}", 25) for i in range(2)], 0)
    pairs = [("left", "left")] * 45 + [("left", "right")] * 15 + [("right", "left")] * 25 + [("right", "right")] * 15
    given = {n: Answered({t.key: pair[i] for t, pair in zip(trials, pairs, strict=True)})
             for i, n in enumerate(("anna", "ben"))}  # fmt: skip
    found = agreement_of(trials, given).filter(what="agrees with ben (kappa)").row(0, named=True)
    assert found["value"] == pytest.approx((0.6 - 0.54) / 0.46) and found["n"] == 100


def test_nobody_has_answered() -> None:
    assert agreement_of(trials_of(some_sets(), 0), {"anna": Answered()}).height == 0
