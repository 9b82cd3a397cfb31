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
        "percentile": rng.uniform(0.3, 1.0, n),
        "lift": rng.uniform(-0.2, 1.0, n),
    })  # fmt: skip


def planted(table: pl.DataFrame, feature: int, interpretable: float, percentile: float, lift: float) -> pl.DataFrame:
    here = pl.col("feature") == feature
    changes = {"balanced_accuracy": interpretable, "percentile": percentile, "lift": lift}
    return table.with_columns(**{c: pl.when(here).then(v).otherwise(c) for c, v in changes.items()})


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ((1.0, 1.0, 2.0), "interpretable and steers"),
        ((1.0, 0.1, 0.0), "interpretable, not seen to steer"),
        ((0.4, 1.0, 2.0), "steers, not interpretable"),
    ],
)
def test_a_planted_feature_is_found_for_its_reason(scores: tuple[float, float, float], reason: str) -> None:
    """The most extreme feature of a kind is the first of its kind; unplanted, it is not among them."""
    table = candidates()
    first = next(p for p in feature_card.choose(planted(table, 37, *scores), gated=True) if p.reason == reason)
    assert first.feature == 37
    assert 37 not in [p.feature for p in feature_card.choose(table, gated=True) if p.reason == reason]


def test_a_label_comes_from_thresholds_and_not_from_ranks() -> None:
    """Features that all fail to steer are not said to, whoever is the best of them; where one does, it is said."""
    weak = candidates().with_columns(lift=pl.col("lift") * 0.0, percentile=pl.col("percentile") * 0.8)
    assert not [p for p in feature_card.choose(weak, gated=True) if "steers" in p.reason]
    strong = planted(weak, 37, 0.9, 0.95, 0.6)
    assert [p.feature for p in feature_card.choose(strong, gated=True) if p.reason == "interpretable and steers"] == [
        37
    ]


def test_without_the_gate_no_card_says_that_a_feature_steers() -> None:
    strong = planted(candidates(), 37, 1.0, 1.0, 2.0)
    assert any("steers" in p.reason for p in feature_card.choose(strong, gated=True))
    assert not any("steer" in p.reason for p in feature_card.choose(strong, gated=False))


def test_the_rate_of_steering_features_is_known() -> None:
    table = pl.DataFrame({"percentile": [0.95, 0.95, 0.5, None], "lift": [0.6, 0.4, 0.6, 0.6]})
    assert feature_card.rate(table) == pytest.approx(1 / 3)
    assert feature_card.rate(table.head(0)) is None and feature_card.rate(None) is None


def test_the_choice_is_fair_and_repeatable() -> None:
    """Ten different features, at most two of one SAE, no description twice, whatever the order of the rows."""
    table = candidates()
    picks = feature_card.choose(table, gated=True)
    assert len(picks) == len({(p.sae, p.feature) for p in picks}) == 10
    assert max(sum(p.sae == s for p in picks) for s in {p.sae for p in picks}) <= 2
    assert picks == feature_card.choose(table.sample(fraction=1.0, shuffle=True, seed=1), gated=True)
    same = feature_card.choose(table.with_columns(description=pl.lit("one")), gated=True)
    assert len(same) == 10, "the rules give way when nothing else is left"


def test_few_features_are_all_shown() -> None:
    assert len(feature_card.choose(candidates(4, 1), gated=True)) == 4
    none = pl.lit(None, pl.Float64)
    unsteered = candidates().with_columns(percentile=none, lift=none)
    assert {p.reason for p in feature_card.choose(unsteered, gated=True)} == {"drawn at random"}


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
    assert "missing (1)" in dict(card.scores)["rating"].note


def test_the_instruments_texts_stand_beside_an_unsteered_one_of_their_prompt() -> None:
    """Each prompt of the feature once, with its percentile and lift; a text of another feature never."""
    rows = [
        (7, "Do.", True, 0, "river one", 0.9, 0.7), (7, "The", False, 0, "river two", None, None),
        (8, "Do.", True, 0, "another", 0.8, 0.1), (-1, "Do.", True, 0, "plain", None, None),
        (-1, "The", False, 0, "plain too", None, None),
    ]  # fmt: skip
    names = ["feature", "prompt", "answer", "copy", "text", "described", "described_lift"]
    outcomes = pl.DataFrame({"feature": [7], "outcome": ["described"], "percentile": [0.9], "lift": [0.7],
                             "strength": [84.0], "share": [0.3], "state": ["ok"]})  # fmt: skip
    seen = replace(NOTHING, outcomes=outcomes, readings=pl.DataFrame(rows, names, orient="row"))
    card = feature_card.make(Pick("s", 7, "x"), seen, NAMES)
    assert [(t.kind, t.instruction) for t in card.trials] == [("Instruction", "Do."), ("Opening", "The")]
    assert [["".join(p for p, _ in text.pieces) for text in t.texts] for t in card.trials] == [
        ["plain", "river one"], ["plain too", "river two"],
    ]  # fmt: skip
    first, second = (dict(t.texts[1].scores) for t in card.trials)
    assert (first["percentile under its reader"].text, first["lift"].text) == ("0.90", "0.70")
    assert second["lift"].kind == "missing"
    assert dict(card.scores)["described"].note == "lift +0.70"


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
