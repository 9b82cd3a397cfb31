"""Fitted directions: a planted direction is found by every method that should, and shuffled labels find nothing."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.lm.edit import Splice
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import SaeConfig
from saelab.steering.concepts.detection import bag_of_words, detect, direction_scores
from saelab.steering.concepts.directions.catalogue import METHODS, method_of
from saelab.steering.concepts.directions.likelihood import Fit
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples, Pair, TextRows, prefix_length, read, templated
from saelab.steering.direction import Direction, unit

LM, SITE, D = tiny_lm(), "resid_post.1", 32
CHEAP = ("diff_means", "pca", "lat", "probe")
TRUE = torch.nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(5)), dim=0)


def planted(n: int = 40, tokens: int = 12, *, push: float = 6.0, seed: int = 0) -> Examples:
    """Texts whose tokens are noise, and in half of the texts noise plus a random positive multiple of TRUE."""
    g = torch.Generator().manual_seed(seed)
    positive = torch.arange(n) % 2 == 0
    text = torch.arange(n).repeat_interleave(tokens)
    values = torch.randn(n * tokens, D, generator=g)
    values = values + push * torch.rand(n * tokens, 1, generator=g) * positive[text][:, None] * TRUE
    pairs = tuple(Pair(f"Say {i}.", "yes" if positive[i] else "no") for i in range(n))
    return Examples(LM, SITE, "planted", pairs, TextRows(values, text, n), positive)


def sae_with(direction: Tensor) -> ReluSae:
    """An SAE of random features, of which number 13 is the direction."""
    decoder = torch.nn.functional.normalize(torch.randn(20, D, generator=torch.Generator().manual_seed(2)), dim=-1)
    decoder[13] = direction
    weights = {"W_enc": decoder.T, "W_dec": decoder, "b_enc": torch.zeros(20), "b_dec": torch.zeros(D)}
    return ReluSae(SaeConfig(architecture="relu", d_in=D, d_sae=20, site=SITE), weights)


def shuffled(examples: Examples) -> Examples:
    order = torch.randperm(len(examples.positive), generator=torch.Generator().manual_seed(1))
    return replace(examples, positive=examples.positive[order])


@pytest.mark.parametrize("name", CHEAP)
def test_the_planted_direction_is_found_and_points_at_the_concept(name: str) -> None:
    found = method_of(name)(planted())
    assert float(found.vector @ TRUE) > 0.8
    assert float(found.vector.norm()) == pytest.approx(1)
    assert found.distance == pytest.approx(float((planted().shown @ found.vector).max()), rel=1e-5)
    assert found.method == name and found.site == SITE


@pytest.mark.parametrize("name", ["diff_means", "probe"])
def test_shuffled_labels_find_nothing(name: str) -> None:
    """Control: without the labels, the methods that use them point elsewhere."""
    found = METHODS[name](shuffled(planted()))
    assert abs(float(found.vector @ TRUE)) < 0.75
    fresh = planted(seed=9)
    kinds = ["positive" if p else "negative" for p in fresh.positive.tolist()]
    right = detect(direction_scores(METHODS[name](planted()), fresh.rows), kinds).auroc_easy
    assert right > 0.95 > detect(direction_scores(found, fresh.rows), kinds).auroc_easy


@pytest.mark.parametrize("name", ["pca", "lat"])
def test_the_sign_is_settled_on_the_labels(name: str) -> None:
    """Turned labels turn the direction (AxBench leaves the sign to chance)."""
    examples = planted()
    here = METHODS[name](examples)
    turned = replace(examples, rows=TextRows(-examples.rows.values, examples.rows.text, examples.rows.n_texts))
    assert float(here.vector @ TRUE) > 0 > float(METHODS[name](turned).vector @ TRUE)


@pytest.mark.parametrize("name", METHODS)
def test_the_same_examples_and_seed_give_the_same_direction(name: str) -> None:
    features = pl.DataFrame({"feature": [3], "max_activation": [1.0], "terms": [[{"text": " planted", "weight": 1.0}]]})
    examples, using = planted(8, 4), Fitting(3, Fit(), sae_with(TRUE), features)
    first, second = METHODS[name](examples, using), METHODS[name](examples, using)
    assert torch.equal(first.vector, second.vector) and first.distance == second.distance


@pytest.mark.parametrize("name", ["ssv", "reft_r1"])
def test_trained_vectors_make_the_concepts_texts_more_likely(name: str) -> None:
    """On held-out texts, adding the direction lowers the NLL of the concept's answers; its opposite raises it."""
    pairs = [Pair(f"Say {i}.", "aaaaaaaa" if i % 2 else "the red house") for i in range(24)]
    positive = torch.arange(24) % 2 == 1
    rows = read(LM, SITE, pairs)
    examples = Examples(LM, SITE, "a", tuple(pairs), rows, positive)
    direction = METHODS[name](examples, Fitting(fit=Fit(epochs=20, lr=0.1)))
    gain = [_nll(direction, s) for s in (0.0, 0.5, -0.5)]
    assert gain[1] < gain[0] - 0.05 and gain[1] < gain[2]


def _nll(direction: Direction, factor: float) -> float:
    ids = [templated(LM, Pair("Tell me.", "aaaaaaaa"))]
    edits = [direction.edit(factor)] if factor else []
    tokens = torch.tensor(ids)
    logits = LM.logits(tokens, edits=edits)[0, :-1]
    start = len(LM.chat("Tell me."))
    return float(torch.nn.functional.cross_entropy(logits[start - 1 :], tokens[0, start:]))


def test_rows_are_the_models_own_and_leave_the_template_out() -> None:
    """Read in batches of any size: the captured stream, without the template's beginning."""
    pairs = [Pair("One.", "a b c"), Pair("Another one?", "longer than the first answer"), Pair("x", "y")]
    rows, alone = read(LM, SITE, pairs), read(LM, SITE, pairs, batch_tokens=1)
    torch.testing.assert_close(rows.values, alone.values, atol=1e-5, rtol=1e-5)
    skip = prefix_length(LM)
    for i, pair in enumerate(pairs):
        ids = templated(LM, pair)
        hidden = LM.run_to(torch.tensor([ids]), [SITE])[SITE][0, skip:]
        mine = rows.values[rows.text == i]
        assert len(mine) <= len(hidden)
        assert all(float((hidden - row).norm(dim=-1).min()) < 1e-4 for row in mine)


def test_templates_round_trip() -> None:
    """One BOS, the answer's text at the end, and nothing that closes the turn."""
    ids = templated(LM, Pair("Say it.", " yes indeed"))
    assert ids.count(LM.bos_id) == 1 and ids[0] == LM.bos_id
    assert LM.decode(ids).endswith("yes indeed")
    assert 0 < prefix_length(LM) < len(LM.chat("One."))


def test_the_feature_of_the_highest_auroc() -> None:
    """The SAE feature along TRUE is found among noise."""
    direction = METHODS["sae_auroc"](planted(), Fitting(sae=sae_with(TRUE)))
    assert direction.feature == 13
    torch.testing.assert_close(direction.vector, TRUE)


def test_hard_negatives_are_counted_under_their_own_name() -> None:
    """AxBench's published AUROC drops them by accident; here both numbers exist and differ."""
    kinds = ["positive"] * 4 + ["negative"] * 4 + ["hard negative"] * 4
    scores = np.array([5, 6, 7, 8, 0, 1, 2, 3, 5.5, 6.5, 7.5, 8.5], dtype=float)
    found = detect(scores, kinds)
    assert found.auroc_easy == 1.0 and found.auroc_all < 0.8
    assert found.hard_accuracy == 0.5
    assert (found.n_positive, found.n_negative, found.n_hard) == (4, 4, 4)
    assert detect(scores[:8], kinds[:8]).hard_accuracy is None
    with pytest.raises(UserError, match="Unknown kinds"):
        detect(scores, [*kinds[:-1], "hard negative seen"])
    with pytest.raises(UserError, match="plain"):
        detect(scores[:4], kinds[:4])


def test_bag_of_words_reads_words() -> None:
    texts = ["the sea is blue", "a wave of the sea", "the red house", "a house of stone"] * 3
    scores = bag_of_words(texts, [True, True, False, False] * 3, ["blue sea", "stone house"])
    assert scores[0] > 0 > scores[1]


def test_directions_refuse_what_has_no_scale() -> None:
    with pytest.raises(UserError, match="positive"):
        unit(TRUE, site=SITE, distance=0.0, method="m", origin="o", source="s")
    with pytest.raises(UserError, match="zero vector"):
        unit(torch.zeros(D), site=SITE, distance=1.0, method="m", origin="o", source="s")
    with pytest.raises(UserError, match="unit norm"):
        Direction(2 * TRUE, SITE, 1.0, "m", "o", "s")
    with pytest.raises(UserError, match="diff_means"):
        method_of("diff_mean")
    with pytest.raises(UserError, match="do not"):
        replace(planted(), positive=torch.ones(40, dtype=torch.bool))


def test_an_edit_moves_by_exactly_its_strength() -> None:
    """Doubling the factor doubles the distance, and the stream moves along the direction by factor x distance."""
    direction = unit(TRUE * 3, site=SITE, distance=2.5, method="m", origin="o", source="s")
    tokens = torch.tensor(LM.tokenize(["The cat sat."]))
    clean = LM.run_to(tokens, [SITE])[SITE]
    moved: list[Tensor] = []
    for factor in (1, 2):
        seen: list[Tensor] = []
        LM.logits(tokens, edits=[direction.edit(factor), Splice(SITE, lambda x, s=seen: s.append(x) or x)])
        moved.append(seen[0] - clean)
    torch.testing.assert_close(moved[0], (2.5 * TRUE).expand_as(clean), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved[1], 2 * moved[0], atol=1e-5, rtol=1e-5)
