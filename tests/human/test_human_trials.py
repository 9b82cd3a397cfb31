"""Trials: the same for everybody, blind, in balance, and true to the texts."""

from collections import Counter
from dataclasses import replace

import numpy as np
import polars as pl
from some_sets import some_set, some_sets

from saelab.human.answers import AnswerFile
from saelab.human.session import RatingSession
from saelab.human.trials import NONE, OTHER, SIDES, BlindTrial, trials_of
from saelab.instrument.readers import HEADLINE, OUTCOMES
from saelab.store.folders import HumanFolder

JUDGE = f"{HEADLINE} by hand"


def test_a_run_has_the_same_trials_for_everybody_and_another_seed_has_others() -> None:
    trials = trials_of(some_sets(), 0)
    assert trials == trials_of(some_sets(), 0) and len({t.key for t in trials}) == len(trials) == 4 * 24
    assert [t.key for t in trials] != [t.key for t in trials_of(some_sets(), 1)]


def test_texts_that_changed_are_other_trials() -> None:
    one = some_sets()[0]
    changed = replace(one, texts=one.texts.with_columns(pl.col("text") + " more"))
    assert not {t.key for t in trials_of([changed], 0)} & {t.key for t in trials_of([one], 0)}


def test_an_unsteered_text_comes_again_only_when_all_have_come() -> None:
    """Else a rater would know it for a foil."""
    foils = [t.right if t.steered == "left" else t.left for t in trials_of(some_sets(), 0) if t.foil == NONE]
    per_prompt = 10  # of each set; some_set writes the unsteered texts of every set anew
    seen = Counter(foils)
    assert len(foils) > 20 and max(seen.values()) <= -(-len(foils) // per_prompt)
    one = [t.right if t.steered == "left" else t.left for t in trials_of([some_set("sae", 8)], 0) if t.foil == NONE]
    assert len(one) == len(set(one)) > 5


def test_a_trial_shows_the_steered_text_and_a_foil_of_the_same_prompt() -> None:
    sets = {one.name: one for one in some_sets()}
    for trial in trials_of(list(sets.values()), 0):
        one = sets[trial.set]
        rows = {row["text"]: row for row in one.texts.iter_rows(named=True)}
        k = one.features["feature"].to_list().index(trial.feature)
        texts = {"left": trial.left, "right": trial.right}
        steered = rows[texts.pop(trial.steered)]
        foil = rows[texts.popitem()[1]]
        assert steered["owner"] == k and steered["prompt"] == foil["prompt"] == trial.prompt
        assert foil["owner"] != k and (foil["owner"] == -1) == (trial.foil == NONE)
        assert trial.about == one.features["about"][k]
        for outcome in OUTCOMES:
            readings = one.features[outcome][k]
            places = one.texts["text"].to_list()
            left, right = (readings[places.index(text)] for text in (trial.left, trial.right))
            assert trial.judges[one.judges[outcome]] == (None if left == right else SIDES[int(right > left)])


def test_sides_foils_sets_and_arms_are_in_balance() -> None:
    trials = trials_of([some_set(f"sae{i}", 40) for i in range(5)] + [some_set("random", 96, control=True)], 0)
    first = trials[:100]
    assert Counter((t.control, t.foil) for t in first) == {
        (False, OTHER): 40, (False, NONE): 40, (True, OTHER): 10, (True, NONE): 10,
    }  # fmt: skip
    assert 0.4 < np.mean([t.steered == "left" for t in trials]) < 0.6
    per = Counter((t.set, "delta_confidence" in t.arms) for t in first if not t.control)
    assert len(per) == 10 and set(per.values()) == {8}
    assert not np.array_equal([t.control for t in first[:10]], [t.control for t in first[10:20]]), "no fixed places"


def test_texts_that_are_alike_or_empty_make_no_trial() -> None:
    one = some_set("sae", 4)
    same = replace(one, texts=one.texts.with_columns(text=pl.lit("the same ")))
    assert not trials_of([same], 0)
    empty = pl.when(pl.col("owner") == 0).then(pl.lit(" ")).otherwise(pl.col("text"))
    trials = trials_of([replace(one, texts=one.texts.with_columns(text=empty))], 0)
    assert {t.feature for t in trials} == {3, 6, 9} and all(t.left.strip() and t.right.strip() for t in trials)


def test_foils_that_an_asked_judge_has_read_come_first_and_the_others_are_no_answer() -> None:
    one = some_set("sae", 12)
    own = one.texts["owner"].to_numpy()
    asked = [[v if own[j] == k or j % 7 == 0 else float("nan") for j, v in enumerate(row)]
             for k, row in enumerate(one.features[HEADLINE].to_list())]  # fmt: skip
    trials = trials_of([replace(one, features=one.features.with_columns(pl.Series(HEADLINE, asked)))], 0)
    assert len(trials) == 24 and all(t.judges[JUDGE] for t in trials)
    blind = one.features.with_columns(pl.Series(HEADLINE, [[float("nan")] * len(own)] * 12))
    assert all(t.judges[JUDGE] is None for t in trials_of([replace(one, features=blind)], 0))


def test_the_page_is_told_nothing_that_gives_a_text_away(tmp_path: object) -> None:
    trials = trials_of(some_sets(), 0)
    session = RatingSession(trials, AnswerFile(HumanFolder(tmp_path), "anna"), 8)  # pyright: ignore[reportArgumentType]  (a path)
    seen = session.now()
    assert set(seen) == {"rater", "done", "total", "trial"} and seen["total"] == 8
    assert set(seen["trial"]) == {"key", "terms", "examples", "prompt", "answer", "left", "right"}
    hidden: BlindTrial = trials[0]
    assert seen["trial"]["terms"] == hidden.about.split("\n")[0]
    assert seen["trial"]["examples"] == hidden.about.partition("as in: ")[2].split(" | ")
