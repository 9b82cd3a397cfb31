"""Two ways to read from a text whether it is about a feature, as a matrix texts x features.

    described   z(cos(text, the feature's contexts)) + z(cos(text, the feature's terms))        z over the texts
    read_back   w_f . mean state of the text,     w_f = inv(S) (mu_f - mu)

`described` asks whether there is what the feature is about, by sentence embeddings. `read_back` asks whether the
unsteered language model sees what was written: mu_f is the mean of the windows of text on which the feature is active,
S the covariance of all window means plus a tenth of its mean eigenvalue (linear discriminant analysis, Fisher 1936).
Pure arrays: no model, no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from saelab.core.errors import UserError
from saelab.core.names import Measure

MEASURES = (
    Measure("described", "steering (described)", "percentile"),
    Measure("read_back", "steering (read back)", "percentile"),
)
OUTCOMES = tuple(measure.name for measure in MEASURES)
HEADLINE = OUTCOMES[0]
CLASSES, RANDOM = "classes", "random_dictionary"  # sets of features that every gate steers with
RIDGE = 0.1
FEWEST_WINDOWS = 5
EXAMPLES, EXAMPLE = 3, 160  # shown to a reader that is asked, and characters of each


@dataclass(frozen=True)
class Background:
    """What window means of ordinary text look like at a site: their mean and the inverse of their covariance."""

    mean: Float[np.ndarray, " D"]
    inverse: Float[np.ndarray, "D D"]

    @classmethod
    def of(cls, windows: Float[np.ndarray, "W D"], ridge: float = RIDGE) -> "Background":
        """From the means of windows; `ridge` is the share of the mean eigenvalue that is added to the diagonal."""
        if len(windows) < 2:
            raise UserError(f"A reader needs the means of many windows of text, not of {len(windows)}.")
        wide = windows.astype(np.float64)
        covariance = np.cov(wide.T)
        d = wide.shape[1]
        return cls(wide.mean(0), np.linalg.inv(covariance + np.eye(d) * ridge * np.trace(covariance) / d))

    def discriminants(self, means: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "K D"]:
        """w_f of the features whose windows have these means."""
        return (means - self.mean) @ self.inverse


@dataclass(frozen=True, eq=False)
class Features:
    """K features of one set: which way each steers, and how each is read.

    names: what each is called. directions: unit vectors. discriminants: w_f of `read_back`. contexts: unit vectors
    of the mean embedding of what the feature is about; terms: unit embeddings of its terms, NaN where it has none.
    about: what it is about in words, for a reader that is asked. peaks: its largest activation, NaN where it has none.
    """

    names: tuple[str, ...]
    directions: Float[np.ndarray, "K D"]
    discriminants: Float[np.ndarray, "K D"]
    contexts: Float[np.ndarray, "K E"]
    terms: Float[np.ndarray, "K E"]
    about: tuple[str, ...]
    peaks: Float[np.ndarray, " K"]

    def __len__(self) -> int:
        return len(self.names)


def joined(parts: Sequence[Features]) -> Features:
    """Sets put together as one, in order."""
    return Features(
        names=tuple(name for part in parts for name in part.names),
        directions=np.concatenate([part.directions for part in parts]),
        discriminants=np.concatenate([part.discriminants for part in parts]),
        contexts=np.concatenate([part.contexts for part in parts]),
        terms=np.concatenate([part.terms for part in parts]),
        about=tuple(text for part in parts for text in part.about),
        peaks=np.concatenate([part.peaks for part in parts]),
    )


def in_words(terms: str, examples: Sequence[str]) -> str:
    """What a feature is about, for a reader that is asked: its terms, and the beginnings of some examples."""
    shown = " | ".join(" ".join(text.split())[:EXAMPLE] for text in examples[:EXAMPLES])
    return f"{terms}\nas in: {shown}" if terms else f"what these have in common: {shown}"


def unit(vectors: Float[np.ndarray, "K D"]) -> Float[np.ndarray, "K D"]:
    """The rows at unit norm; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def read_back(states: Float[np.ndarray, "N D"], features: Features) -> Float[np.ndarray, "N K"]:
    """Each text under each feature's discriminant. states: a text's mean state, NaN where it has no token."""
    return states.astype(np.float64) @ features.discriminants.T


def described(vectors: Float[np.ndarray, "N E"], features: Features) -> Float[np.ndarray, "N K"]:
    """Each text's likeness to what each feature is about. vectors: embeddings of the texts, NaN where there is none."""
    found = _standard(vectors @ features.contexts.T, vectors)
    worded = np.isfinite(features.terms).all(1)
    found[:, worded] += _standard(vectors @ features.terms[worded].T, vectors)
    return found


def _standard(values: Float[np.ndarray, "N K"], vectors: Float[np.ndarray, "N E"]) -> Float[np.ndarray, "N K"]:
    """Columns less their mean over the texts, in standard deviations; a constant column is zero."""
    known = values[np.isfinite(vectors).all(axis=1)]
    spread = known.std(0)
    return (values - known.mean(0)) / np.where(spread > 0, spread, 1)
