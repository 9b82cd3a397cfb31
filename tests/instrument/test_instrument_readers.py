"""Readers: the discriminant's formula, embeddings, and the real sentence encoder."""

import numpy as np
import pytest

from saelab.core.errors import FetchError
from saelab.core.seeds import numpy_generator
from saelab.instrument.readers import Background, Features, described, read_back, unit
from saelab.judges import embedding
from saelab.judges.embedding import MiniLM


def features(contexts: np.ndarray, terms: np.ndarray, discriminants: np.ndarray | None = None) -> Features:
    k = len(contexts)
    given = np.eye(k) if discriminants is None else discriminants
    return Features(tuple(map(str, range(k))), given, given, contexts, terms, ("",) * k, np.full(k, np.nan))


def test_the_discriminant_by_hand() -> None:
    windows = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    found = Background.of(windows, ridge=0.0)
    # The covariance is diag(8/3, 2/3): a feature's weight along an axis is its distance over the variance.
    np.testing.assert_allclose(found.discriminants(np.array([[4.0, 1.0]])), [[4 / (8 / 3), 1 / (2 / 3)]])
    ridged = Background.of(windows)
    mean_eigenvalue = (8 / 3 + 2 / 3) / 2
    np.testing.assert_allclose(ridged.inverse[0, 0], 1 / (8 / 3 + 0.1 * mean_eigenvalue))


def test_the_discriminant_discounts_what_varies_anyway() -> None:
    rng = numpy_generator("lda")
    windows = rng.normal(size=(500, 8)) * np.array([10.0, *[1.0] * 7])
    shifted = np.zeros((1, 8))
    shifted[0, :2] = 3.0
    found = Background.of(windows).discriminants(shifted)[0]
    assert abs(found[1]) > 3 * abs(found[0])
    one = features(np.eye(2), np.full((2, 2), np.nan), np.stack([found, -found]))
    read = read_back(np.stack([shifted[0], np.full(8, np.nan)]), one)
    assert read[0, 0] > 0 > read[0, 1] and np.isnan(read[1]).all()


def test_described_adds_two_standardised_likenesses() -> None:
    vectors = unit(numpy_generator("described").normal(size=(50, 6)))
    contexts, terms = unit(np.eye(6)[:2]), unit(np.eye(6)[2:4])
    found = described(vectors, features(contexts, terms))
    likeness = [(c - c.mean()) / c.std() for c in (vectors[:, 0], vectors[:, 2])]
    np.testing.assert_allclose(found[:, 0], likeness[0] + likeness[1])
    terms[1] = np.nan  # a feature without terms is read by its contexts alone
    alone = described(vectors, features(contexts, terms))
    np.testing.assert_allclose(alone[:, 0], found[:, 0])
    np.testing.assert_allclose(alone[:, 1], (vectors[:, 1] - vectors[:, 1].mean()) / vectors[:, 1].std())


def test_the_sentence_encoder_knows_what_texts_are_about() -> None:
    embed = MiniLM()
    vectors = embed(
        ["The patient was given antibiotics.", "She took medicine for the infection.", "def main(): pass", " "]
    )
    assert vectors.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0], atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.3 > vectors[0] @ vectors[2]
    alone = embed(["The patient was given antibiotics."])
    np.testing.assert_allclose(alone[0], vectors[0], atol=1e-5)  # padding does not show


def test_an_encoder_that_cannot_be_had_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(reference: str) -> None:
        raise FetchError(f"{reference} could not be downloaded.")

    monkeypatch.setattr(embedding, "fetch", refuse)
    with pytest.raises(FetchError, match="sentence embeddings"):
        MiniLM()
