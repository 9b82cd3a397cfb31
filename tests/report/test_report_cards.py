"""Feature cards: chosen by the rule they state, and true to the tables."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from report_run import NAMES

from saelab.core.errors import ArtefactError
from saelab.report import feature_card
from saelab.report.feature_card import Pick
from saelab.report.material import Evidence
from saelab.report.names import Names

NOTHING = Evidence(None, None, None, None, None, None)


def candidates(n: int = 60, saes: int = 12) -> pl.DataFrame:
    rng = np.random.default_rng(5)
    return pl.DataFrame({
        "sae": [f"s{i % saes}" for i in range(n)],
        "feature": range(n),
        "description": [f"d{i}" for i in range(n)],
        "balanced_accuracy": rng.uniform(0.5, 0.9, n),
        "auroc": rng.uniform(0.5, 0.9, n),
        "test_score": rng.uniform(0.2, 1.5, n),
    })  # fmt: skip


def planted(table: pl.DataFrame, feature: int, interpretable: float, steers: float) -> pl.DataFrame:
    here = pl.col("feature") == feature
    return table.with_columns(
        balanced_accuracy=pl.when(here).then(interpretable).otherwise("balanced_accuracy"),
        test_score=pl.when(here).then(steers).otherwise("test_score"),
    )


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((1.0, 2.0), "interpretable and steers"),
        ((1.0, 0.0), "interpretable, does not steer"),
        ((0.4, 2.0), "steers, not interpretable"),
    ],
)
def test_a_planted_feature_is_found_for_its_reason(scores: tuple[float, float], reason: str) -> None:
    """The most extreme feature of a kind is the first of its kind; unplanted, it is not among them."""
    table = candidates()
    first = next(p for p in feature_card.choose(planted(table, 37, *scores)) if p.reason == reason)
    assert first.feature == 37
    assert 37 not in [p.feature for p in feature_card.choose(table) if p.reason == reason]


def test_the_choice_is_fair_and_repeatable() -> None:
    """Ten different features, at most two of one SAE, no description twice, whatever the order of the rows."""
    table = candidates()
    picks = feature_card.choose(table)
    assert len(picks) == len({(p.sae, p.feature) for p in picks}) == 10
    assert max(sum(p.sae == s for p in picks) for s in {p.sae for p in picks}) <= 2
    assert picks == feature_card.choose(table.sample(fraction=1.0, shuffle=True, seed=1))
    same = feature_card.choose(table.with_columns(description=pl.lit("one")))
    assert len(same) == 10, "the rules give way when nothing else is left"


def test_few_features_are_all_shown() -> None:
    assert len(feature_card.choose(candidates(4, 1))) == 4
    unsteered = candidates().with_columns(test_score=pl.lit(None, pl.Float64))
    assert {p.reason for p in feature_card.choose(unsteered)} == {"drawn at random"}


def test_shading_is_the_share_of_the_largest_activation() -> None:
    contexts = pl.DataFrame({
        "feature": [7, 7, 8], "rank": [0, 1, 0], "tokens": [["a", " b", "c"]] * 3,
        "activations": [[0.0, 8.0, 2.0], [4.0, 0.0, -1.0], [99.0, 0.0, 0.0]], "peak": [1, 0, 0],
    })  # fmt: skip
    card = feature_card.make(Pick("s", 7, "x"), Evidence(None, contexts, None, None, None, None), NAMES)
    assert [[t.share for t in c.tokens] for c in card.contexts] == [[0.0, 1.0, 0.25], [0.5, 0.0, 0.0]]
    assert [[t.peak for t in c.tokens] for c in card.contexts] == [[False, True, False], [True, False, False]]
    assert [c.activation for c in card.contexts] == ["8.0", "4.0"]


def test_a_context_whose_parts_do_not_fit_is_refused() -> None:
    contexts = pl.DataFrame({"feature": [7], "rank": [0], "tokens": [["a"]], "activations": [[1.0, 2.0]], "peak": [0]})
    with pytest.raises(ArtefactError, match="1 tokens, 2 activations"):
        feature_card.make(Pick("s", 7, "x"), Evidence(None, contexts, None, None, None, None), NAMES)


def test_steered_text_stands_beside_its_own_unsteered_text() -> None:
    """Held-out instructions only, the chosen factor only, the same instruction on both sides."""
    rows = [
        ("g1", -1, "unsteered", 0.0, 1, "test", "plain one"), ("g2", -1, "unsteered", 0.0, 2, "test", "plain two"),
        ("g3", 7, "sae_feature", 2.0, 2, "test", "river two"), ("g4", 7, "sae_feature", 4.0, 2, "test", "too strong"),
        ("g5", 7, "sae_feature", 2.0, 1, "dev", "dev text"), ("g6", 8, "sae_feature", 2.0, 2, "test", "another"),
    ]  # fmt: skip
    names = ["generation", "feature", "method", "factor", "instruction_id", "split", "text"]
    texts = pl.DataFrame(rows, names, orient="row").with_columns(instruction=pl.lit("Do."))
    utility = pl.DataFrame({"feature": [7], "method": ["sae_feature"], "factor": [2.0], "test_score": [1.0],
                            "n_missing": [1], "state": ["ok"]})  # fmt: skip
    judged = pl.DataFrame({"generation": ["g3", "g3"], "rubric": ["concept", "fluency"], "state": ["ok", "refused"],
                           "value": [1.5, None]})  # fmt: skip
    card = feature_card.make(Pick("s", 7, "x"), Evidence(None, None, None, utility, texts, judged), NAMES)
    assert len(card.trials) == 1
    shown = {t.title: "".join(piece for piece, _ in t.pieces) for t in card.trials[0].texts}
    assert shown == {"Unsteered": "plain two", "Steered, factor 2": "river two"}
    scores = dict(card.trials[0].texts[1].scores)
    assert scores["concept"].text == "1.5"
    assert (scores["fluency"].kind, scores["fluency"].note) == ("missing", "the judge refused")
    assert "missing (1)" in dict(card.scores)["steering score"].note


def test_a_card_without_evidence_says_what_is_missing() -> None:
    card = feature_card.make(Pick("s", 7, "x"), NOTHING, NAMES)
    assert card.absent == ("contexts", "effects", "steered text")
    assert all(cell.kind == "missing" for _, cell in card.scores)


def test_a_card_has_the_scores_that_the_arms_chose_by() -> None:
    labels = {name: record["label"] for name, record in NAMES.measures.items()}
    effects = pl.DataFrame({"feature": [7]} | {arm["by"]: [0.5] for arm in NAMES.arms.values() if arm["by"]})
    card = feature_card.make(Pick("s", 7, "x"), replace(NOTHING, effects=effects), NAMES)
    shown = {label for label, cell in card.scores if cell.text == "0.50"}
    assert shown == {labels[arm["by"]] for arm in NAMES.arms.values() if arm["by"]}
    assert not shown & {label for label, _ in feature_card.make(Pick("s", 7, "x"), NOTHING, Names()).scores}


def test_terms_are_marked_as_whole_words() -> None:
    """The pieces are the text again; "art" is not found in "heart", whatever the case of "Art" is."""
    text = "Art is the heart of art."
    pieces = feature_card.marked(text, [" art", "x", " "])
    assert "".join(p for p, _ in pieces) == text
    assert [p for p, term in pieces if term] == ["Art", "art"]
    assert feature_card.marked(text, []) == [(text, False)]
    assert [p for p, term in feature_card.marked("a (b) c", ["(b)"]) if term] == ["(b)"]
