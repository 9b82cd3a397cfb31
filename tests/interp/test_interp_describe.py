"""Descriptions: a planted feature is named by what drives it and found again; a shuffled one is not."""

from dataclasses import replace

import numpy as np
import torch

from saelab.interp.features.codes import Codes, encode_codes
from saelab.interp.features.describe import DescribeConfig, DescribingText, describe, quoted
from saelab.interp.features.detection import Trial, detect
from saelab.interp.features.windows import DESCRIBE, TEST, Passages, WindowConfig, WindowFinder, window_strings
from saelab.judges.lexical import LexicalJudge

STRINGS = [f" w{i}" for i in range(200)]
TOKEN, BIGRAM, AFTER, SHUFFLED, DEAD = range(5)


def text(n: int = 400, *, seed: int = 0) -> Passages:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, 200, (n, 64)).astype(np.int32)
    tokens[:, 0] = 0
    documents = (np.arange(n * 64) // 150).reshape(n, 64).astype(np.int32)
    documents[:, 0] = -1
    # the bigram (7, 8) must occur often enough to be learnt
    where = generator.random(tokens.shape) < 0.02
    where[:, :2] = False
    for row, column in zip(*np.nonzero(where), strict=True):
        tokens[row, column - 1 : column + 1] = 7, 8
    return Passages(tokens, documents)


def codes_for(passages: Passages) -> Codes:
    """Planted features: on token 5; on (7, 8) but not on 8 alone; on what follows 9; the first, shuffled; none."""
    flat = passages.tokens.reshape(-1)
    before = np.roll(flat, 1)
    generator = np.random.default_rng(3)
    fires = np.zeros((len(flat), 5), bool)
    fires[:, TOKEN] = flat == 5
    fires[:, BIGRAM] = (flat == 8) & (before == 7)
    fires[:, AFTER] = before == 9
    fires[:, SHUFFLED] = generator.permutation(fires[:, TOKEN])
    fires[passages.documents.reshape(-1) < 0] = False
    values = fires * generator.uniform(1, 3, fires.shape)
    return encode_codes(lambda x: x, torch.tensor(values, dtype=torch.float32), np.arange(len(flat)))


PASSAGES = text()
CODES = codes_for(PASSAGES)
FINDER = WindowFinder.over(PASSAGES, WindowConfig())
LARGEST = np.array([FINDER.threshold(CODES, f) * 100 for f in range(5)])


def describing(side: int = DESCRIBE) -> DescribingText:
    return DescribingText.over(PASSAGES, FINDER.sides == side, STRINGS)


def trials(described: dict) -> list[Trial]:
    flat = PASSAGES.tokens.reshape(-1)
    found = []
    for feature, description in described.items():
        sides = [FINDER.find(CODES, feature, side) for side in (DESCRIBE, TEST)]
        strings = [tuple(window_strings(flat, STRINGS, w.centres, 10)) for w in sides]
        found.append(Trial(feature, description, strings[0], sides[0].active, strings[1], sides[1].active))
    return found


def test_planted_features_are_described_by_what_drives_them() -> None:
    described = describe(CODES, describing(), LARGEST, DescribeConfig())
    assert described[TOKEN].terms[0].text == " w5" and described[TOKEN].text.startswith("“ w5”")
    assert described[BIGRAM].terms[0].text == " w7 w8" and described[BIGRAM].text.startswith("in “ w7 w8”")
    assert described[AFTER].terms[0].text == " w9" and described[AFTER].text.startswith("after “ w9”")
    assert all(
        described[f].terms[0].weight > 0.5 > 0.1 > t.weight
        for f in (TOKEN, BIGRAM, AFTER)
        for t in described[f].terms[1:]
    )
    assert DEAD not in described


def test_a_planted_feature_is_detected_and_a_shuffled_one_is_not() -> None:
    described = describe(CODES, describing(), LARGEST, DescribeConfig(least_gain=0.0, least_lift=1.0, least_count=1))
    found = {d.feature: d for d in detect(trials(described), LexicalJudge())}
    for feature in (TOKEN, BIGRAM, AFTER):
        assert (found[feature].auroc or 0) > 0.97 and (found[feature].balanced_accuracy or 0) > 0.95
    shuffled = [found[SHUFFLED].auroc or 0]
    assert 0.3 < np.mean(shuffled) < 0.7


def test_a_description_never_sees_the_test_side() -> None:
    """Changing every code and token of the test side leaves the descriptions as they were; control: the other side."""
    before = describe(CODES, describing(), LARGEST, DescribeConfig())
    there = FINDER.sides == TEST
    tokens = PASSAGES.tokens.reshape(-1).copy()
    tokens[there] = (tokens[there] + 50) % 200
    values = CODES.values.copy()
    values[there[CODES.places]] *= 7
    changed = DescribingText.over(
        Passages(tokens.reshape(PASSAGES.tokens.shape), PASSAGES.documents), FINDER.sides == DESCRIBE, STRINGS
    )
    codes = replace(CODES, values=values)
    assert describe(codes, changed, LARGEST, DescribeConfig()) == before
    assert describe(CODES, describing(TEST), LARGEST, DescribeConfig()) != before
    assert all(FINDER.threshold(codes, f) == FINDER.threshold(CODES, f) for f in range(5))


def test_terms_are_weighted_by_how_strongly_they_fire() -> None:
    flat = PASSAGES.tokens.reshape(-1)
    values = np.where(flat == 5, 4.0, np.where(flat == 6, 1.0, 0.0))[:, None]
    codes = encode_codes(lambda x: x, torch.tensor(values, dtype=torch.float32), np.arange(len(flat)))
    (description,) = describe(codes, describing(), np.array([4.0]), DescribeConfig()).values()
    assert [t.text for t in description.terms][:2] == [" w5", " w6"]
    assert description.terms[0].weight > 0.9 and 0.2 < description.terms[1].weight < 0.3


def test_tokens_are_printed_readably() -> None:
    assert quoted("\n\t x") == "“↵⇥ x”"
