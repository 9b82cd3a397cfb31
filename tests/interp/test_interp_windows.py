"""Windows: two sides that share no document, kinds that are what they say, draws that depend on names alone."""

import numpy as np
import pytest
import torch

from saelab.core.bytetext import byte_text
from saelab.core.errors import ArtefactError
from saelab.core.records import Term
from saelab.interp.features.codes import Codes, encode_codes, gather_codes
from saelab.interp.features.contexts import contexts_table, values_at
from saelab.interp.features.windows import (
    DESCRIBE,
    TEST,
    Passages,
    WindowConfig,
    WindowFinder,
    centres_of,
    sides_of,
    top_peaks,
    window_places,
)

T = 64


def passages(n: int = 120, *, length: int = 150, seed: int = 0) -> Passages:
    """Contexts of random tokens; documents of `length` tokens run on from context to context, -1 at BOS."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, 50, (n, T)).astype(np.int32)
    documents = (np.arange(n * T) // length).reshape(n, T).astype(np.int32)
    documents[:, 0] = -1
    return Passages(tokens, documents)


def codes_of(values: np.ndarray) -> Codes:
    """Codes from dense values [P, F]; every position is a row."""
    return encode_codes(lambda x: x, torch.tensor(values, dtype=torch.float32), np.arange(len(values)))


def planted(text: Passages, token: int, *, seed: int = 0) -> Codes:
    """Feature 0 fires on a token with random strength, feature 1 never."""
    flat = text.tokens.reshape(-1)
    strength = np.random.default_rng(seed).uniform(1, 5, len(flat))
    values = np.zeros((len(flat), 2))
    values[:, 0] = np.where(flat == token, strength, 0)
    return codes_of(values)


def test_codes_do_not_depend_on_the_block_size() -> None:
    x = torch.randn(500, 40, generator=torch.Generator().manual_seed(1))
    made = [encode_codes(torch.relu, x, np.arange(500), block=b) for b in (7, 64, 500)]
    for other in made[1:]:
        for name in ("starts", "places", "values"):
            assert np.array_equal(getattr(made[0], name), getattr(other, name))
    dense = np.zeros((500, 40), np.float32)
    dense[made[0].places, made[0].features()] = made[0].values
    assert np.array_equal(dense, torch.relu(x).numpy())


def test_codes_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ArtefactError, match="NaN"):
        gather_codes([(torch.tensor([[float("nan")]]), np.arange(1))])


def test_sides_are_made_of_whole_documents() -> None:
    text = passages()
    sides, documents = sides_of(text), text.documents.reshape(-1)
    assert 0.2 < sides.mean() < 0.45
    shared = set(documents[sides == DESCRIBE]) & set(documents[sides == TEST])
    assert shared <= {-1}


def test_a_text_of_one_document_is_cut_by_contexts() -> None:
    text = Passages(np.zeros((32, T), np.int32), np.zeros((32, T), np.int32))
    sides = sides_of(text).reshape(32, T)
    assert 0.3 < sides.mean() < 0.35
    assert (sides == sides[:, :1]).all()


def test_windows_lie_inside_one_context_and_one_side_without_bos() -> None:
    text = passages(length=37)
    sides = sides_of(text)
    centres = np.flatnonzero(centres_of(text, sides, 10))
    windows = window_places(centres, 10)
    assert len(centres)
    assert (windows // T == (centres // T)[:, None]).all()
    assert (windows % T > 0).all()
    assert (sides[windows] == sides[centres][:, None]).all()


def test_windows_of_the_two_sides_share_no_document() -> None:
    text = passages()
    finder = WindowFinder.over(text, WindowConfig())
    codes = planted(text, 7)
    documents = text.documents.reshape(-1)
    seen = [set(documents[window_places(finder.find(codes, 0, side).centres, 10)].ravel()) for side in (0, 1)]
    assert seen[0] and seen[1] and not seen[0] & seen[1]


@pytest.mark.parametrize("side", [DESCRIBE, TEST])
def test_windows_are_what_they_say(side: int) -> None:
    text, config = passages(), WindowConfig()
    finder, codes = WindowFinder.over(text, config), planted(text, 7)
    found = finder.find(codes, 0, side)
    n_top, n_weighted, n_random = config.counts(side)
    heights = values_at(*codes.of(0), window_places(found.centres, 10))
    assert found.active.sum() == n_top + n_weighted and (~found.active).sum() == n_random
    assert np.array_equal(heights.max(1) > finder.threshold(codes, 0), found.active)
    top = heights[:n_top, 10]
    assert (np.diff(top) <= 0).all()
    assert heights[n_top : n_top + n_weighted, 10].max() < top.min()
    centres = np.sort(found.centres[found.active])
    assert (np.diff(centres) > 20).all()


def test_importance_weighted_windows_prefer_larger_values() -> None:
    """Control: a draw that ignores the values would leave the mean where it was."""
    text = passages(6000)
    finder, codes = WindowFinder.over(text, WindowConfig(test_weighted=60, test_random=1)), planted(text, 7)
    found = finder.find(codes, 0, TEST)
    values = codes.of(0)[1]
    drawn = values_at(*codes.of(0), found.centres[4:, None])
    # density 1/4 on [1, 5], weight v^2: mean = (int v^3 / 4) / (int v^2 / 4) = 3.77
    assert abs(drawn.mean() - 3.77) < 0.25 and abs(values.mean() - 3.0) < 0.1


def test_a_dense_feature_has_no_inactive_windows() -> None:
    text = passages()
    codes = codes_of(np.ones((text.tokens.size, 1)))
    assert WindowFinder.over(text, WindowConfig()).find(codes, 0, TEST).active.all()


def test_draws_depend_on_seed_side_and_feature_alone() -> None:
    text = passages()
    codes = planted(text, 7)
    find = [WindowFinder.over(text, WindowConfig(seed=s)).find(codes, 0, TEST).centres for s in (0, 0, 1)]
    assert np.array_equal(find[0], find[1]) and not np.array_equal(find[0], find[2])


def test_top_peaks_keep_their_distance() -> None:
    assert top_peaks(np.array([0, 5, 30]), np.array([1.0, 2.0, 0.5]), 3, 21).tolist() == [5, 30]


def test_a_context_that_repeats_is_shown_once() -> None:
    """Control: the repeated passage holds all the largest values."""
    text = passages()
    tokens = text.tokens.copy()
    tokens[:40, 20:40] = tokens[0, 20:40]
    values = np.zeros((tokens.size, 1))
    values[np.arange(40) * T + 30] = 9.0
    values[np.arange(50, 60) * T + 30] = 1.0
    finder = WindowFinder.over(Passages(tokens, text.documents), WindowConfig())
    table = contexts_table(codes_of(values), finder, [f" {i}" for i in range(50)], [0], count=2)
    assert table["rank"].to_list() == [0]
    table = contexts_table(codes_of(values), finder, [f" {i}" for i in range(50)], [0], count=12)
    assert [max(a) for a in table["activations"]] == [9.0] + [1.0] * (table.height - 1) and table.height > 4


@pytest.mark.parametrize(
    ("term", "raw"), [(" 60", ""), (" 60 61", ""), (" 61", ""), ("\u6f22", byte_text(b"\xe6")), (" 62", "")]
)
def test_the_first_term_of_a_description_stands_in_a_context(term: str, raw: str) -> None:
    """It fires more often on " 60 61" and on what follows, or on a part of a character, than it does strongly."""
    text = passages()
    tokens, values = text.tokens.copy(), np.zeros((text.tokens.size, 1))
    strong, often, edge = (np.arange(k, 120, 3) * T for k in range(3))
    values[strong + 30] = 9.0
    tokens.reshape(-1)[often + 29] = 60
    tokens.reshape(-1)[often + 30] = 61
    values[often + 30] = values[often + 31] = np.linspace(1, 2, len(often))[:, None]
    tokens.reshape(-1)[edge[:, None] + [2, 29, 30, 31]] = [62, 63, 64, 65]
    values[edge + 2] = values[edge + 29] = 1.0
    parts = [byte_text(bytes([b])) for b in "\u6f22".encode()]
    strings = [*(f" {i}" for i in range(63)), *parts]
    finder = WindowFinder.over(Passages(tokens, text.documents), WindowConfig())

    def shown(terms: dict[int, Term] | None = None) -> tuple[list[str], list[float]]:
        table = contexts_table(codes_of(values), finder, strings, [0], terms=terms)
        return ["".join(t) for t in table["tokens"]], [max(a) for a in table["activations"]]

    plain, heights = shown()
    assert heights == [9.0] * 8 and not any(term in context for context in plain), "control"
    found, heights = shown({0: Term(term, 0.9, raw)})
    assert found[:7] == plain[:7] and heights == sorted(heights, reverse=True)
    if term == " 62":
        assert found == plain, "only where no window fits round it"
    else:
        assert term in found[7] and heights[7] == (1.0 if raw else 2.0), "the strongest that does"
