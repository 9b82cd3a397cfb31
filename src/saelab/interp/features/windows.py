"""Windows of text around a feature's activations: top, importance-weighted and random, on two sides that never touch.

One side of the text serves to describe a feature, the other to test the description. A side is made of whole
documents, so a test window shares no document with a description. Following SAEBench's automated interpretability
(spec of `autointerp`), a window is 21 tokens: a centre and 10 on either side, inside one context.

- top: peaks by value, no two within one window's length of each other;
- importance-weighted: drawn without replacement with probability proportional to value^2 below the smallest top value;
- random: drawn uniformly, and kept only where the feature is *inactive* in the whole window (SAEBench labels random
  windows inactive without looking, which mislabels them in proportion to the feature's density).

A feature is active in a window where its value exceeds the threshold: 1 % of its largest value on the describing side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from pydantic import Field

from saelab.core.config import Config
from saelab.core.seeds import numpy_generator
from saelab.interp.features.codes import Codes

DESCRIBE, TEST = 0, 1


class WindowConfig(Config):
    """How many windows of each kind on each side. The counts per side are SAEBench's, the random ones rechecked."""

    radius: int = Field(default=10, description="Tokens of a window on either side of its centre.")
    active_fraction: float = Field(
        default=0.01, description="Share of its largest value above which a feature counts as active in a window."
    )
    describe_top: int = Field(default=10, description="Describing side: windows of the largest values.")
    describe_weighted: int = Field(default=5, description="Further ones, drawn by the square of the value.")
    describe_random: int = Field(default=15, description="Random windows in which the feature is silent.")
    test_top: int = Field(default=4, description="Testing side: windows of the largest values.")
    test_weighted: int = Field(default=4, description="Further ones, drawn by the square of the value.")
    test_random: int = Field(default=20, description="Random windows in which the feature is silent.")
    least_active: int = Field(default=3, description="Active test windows below which a feature is not scored.")
    least_inactive: int = Field(default=3, description="Silent test windows below which it is not scored.")
    seed: int = Field(default=0, description="Names the draws of windows.")

    def counts(self, side: int) -> tuple[int, int, int]:
        """(top, weighted, random) windows of a side."""
        if side == DESCRIBE:
            return self.describe_top, self.describe_weighted, self.describe_random
        return self.test_top, self.test_weighted, self.test_random


@dataclass(frozen=True)
class Passages:
    """Packed text as it was read: token ids and document numbers of every position (negative at BOS and separators)."""

    tokens: Int[np.ndarray, "N T"]
    documents: Int[np.ndarray, "N T"]

    @property
    def length(self) -> int:
        """Positions per context."""
        return self.tokens.shape[1]


@dataclass(frozen=True)
class Windows:
    """Centres (flattened positions) of a feature's windows on one side, and whether the feature is active in each."""

    centres: Int[np.ndarray, " W"]
    active: Bool[np.ndarray, " W"]


def sides_of(passages: Passages, *, runs: int = 16) -> Int[np.ndarray, " P"]:
    """DESCRIBE or TEST for every flattened position, by whole documents.

    Documents are dealt in order of first appearance in about `runs` runs of equal length, every third for testing, so
    that both sides see all of the text. A text of so few documents that this fails is cut by contexts instead.
    """
    documents = _filled(passages.documents.reshape(-1))
    names, first, inverse, counts = np.unique(documents, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first, kind="stable")
    before = np.concatenate([[0], np.cumsum(counts[order])[:-1]])
    run = max(1, documents.size // runs)
    side = np.empty(len(names), np.int8)
    side[order] = _dealt(before // run)
    dealt = side[inverse.reshape(-1)]
    if 0.15 <= dealt.mean() <= 0.5:
        return dealt
    contexts = np.arange(len(passages.tokens)) * runs // max(1, len(passages.tokens))
    return np.repeat(_dealt(contexts), passages.length)


def _dealt(run: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    return np.where(run % 3 == 2, TEST, DESCRIBE).astype(np.int8)


def centres_of(passages: Passages, sides: Int[np.ndarray, " P"], radius: int) -> Bool[np.ndarray, " P"]:
    """Positions whose whole window lies inside its context, on one side, without the context's first (BOS) token."""
    table = sides.reshape(passages.tokens.shape)
    # changes[t] counts side changes before t; a window is on one side when no change falls inside it
    changes = np.concatenate(
        [np.zeros((len(table), 1), np.int64), np.cumsum(table[:, 1:] != table[:, :-1], axis=1)], axis=1
    )
    found = np.zeros(table.shape, bool)
    low, high = radius + 1, passages.length - radius
    if high > low:
        found[:, low:high] = changes[:, low + radius : high + radius] == changes[:, low - radius : high - radius]
    return found.reshape(-1)


@dataclass(frozen=True)
class WindowFinder:
    """Finds the windows of features in one text. Draws depend on the seed, the side and the feature alone."""

    config: WindowConfig
    passages: Passages
    sides: Int[np.ndarray, " P"]
    is_centre: Bool[np.ndarray, " P"]
    pools: tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]

    @classmethod
    def over(cls, passages: Passages, config: WindowConfig) -> "WindowFinder":
        """Prepare a text once for all its features and SAEs."""
        sides = sides_of(passages)
        is_centre = centres_of(passages, sides, config.radius)
        pools = (np.flatnonzero(is_centre & (sides == DESCRIBE)), np.flatnonzero(is_centre & (sides == TEST)))
        return cls(config, passages, sides, is_centre, pools)

    def threshold(self, codes: Codes, feature: int) -> float:
        """1 % of the feature's largest value on the describing side; 0 where it is silent there."""
        places, values = codes.of(feature)
        described = values[self.sides[places] == DESCRIBE]
        return self.config.active_fraction * float(described.max()) if described.size else 0.0

    def thresholds(self, codes: Codes) -> Float[np.ndarray, " F"]:
        """Those of all features."""
        return np.array([self.threshold(codes, f) for f in range(codes.n_features)])

    def find(self, codes: Codes, feature: int, side: int) -> Windows:
        """The feature's windows on a side: top, then importance-weighted, then random inactive ones."""
        config = self.config
        n_top, n_weighted, n_random = config.counts(side)
        places, values = codes.of(feature)
        over = values > self.threshold(codes, feature)
        places, values = places[over], values[over]
        generator = numpy_generator(config.seed, "windows", side, feature)
        here = self.is_centre[places] & (self.sides[places] == side)
        top = top_peaks(places[here], values[here], n_top, 2 * config.radius + 1)
        weighted = self._weighted(places[here], values[here], top, n_weighted, generator)
        drawn = self._inactive(places, side, n_random, generator)
        centres = np.concatenate([top, weighted, drawn])
        return Windows(centres, np.arange(len(centres)) < len(top) + len(weighted))

    def _weighted(
        self, places: np.ndarray, values: np.ndarray, top: np.ndarray, count: int, generator: np.random.Generator
    ) -> np.ndarray:
        if not len(top) or not count:
            return np.zeros(0, np.int64)
        floor = values[np.searchsorted(places, top)].min()
        # nothing that a top window already shows
        below = (values < floor) & (distance(places, np.sort(top)) > 2 * self.config.radius)
        places, values = places[below], values[below].astype(np.float64)
        if not len(places):
            return np.zeros(0, np.int64)
        # Efraimidis and Spirakis: the largest log(u)/w are a weighted draw without replacement
        keys = np.log(generator.random(len(places))) / (values / values.max()) ** 2
        order = np.argsort(-keys, kind="stable")
        return np.array(apart(places[order], count, 2 * self.config.radius + 1), np.int64)

    def _inactive(self, active: np.ndarray, side: int, count: int, generator: np.random.Generator) -> np.ndarray:
        pool, radius = self.pools[side], self.config.radius
        if not len(pool) or not count:
            return np.zeros(0, np.int64)
        drawn = pool[generator.integers(0, len(pool), size=8 * count)]
        silent = np.searchsorted(active, drawn - radius) == np.searchsorted(active, drawn + radius, side="right")
        _, first = np.unique(drawn, return_index=True)
        fresh = np.zeros(len(drawn), bool)
        fresh[first] = True
        return drawn[silent & fresh][:count]


def top_peaks(
    places: Int[np.ndarray, " N"], values: Float[np.ndarray, " N"], count: int, distance: int
) -> Int[np.ndarray, "_"]:
    """The `count` largest values whose places are at least `distance` apart, largest first (ties by place)."""
    if not len(places) or not count:
        return np.zeros(0, np.int64)
    order = np.argsort(-values, kind="stable")
    return np.array(apart(places[order], count, distance), np.int64)


def apart(places: Int[np.ndarray, " N"], count: int, distance: int) -> list[int]:
    """The first `count` of `places`, in the given order, that are at least `distance` from those already taken."""
    taken: list[int] = []
    # A cell is as wide as the distance, so one place at most is taken in it, and only its neighbours can be too near.
    cells: dict[int, int] = {}
    width = max(1, distance)
    for place in places.tolist():
        cell = place // width
        if all(abs(place - cells.get(near, place + width)) >= distance for near in (cell - 1, cell, cell + 1)):
            cells[cell] = place
            taken.append(place)
            if len(taken) == count:
                break
    return taken


def window_places(centres: Int[np.ndarray, " W"], radius: int) -> Int[np.ndarray, "W R"]:
    """Flattened positions of every window: [W, 2 * radius + 1]."""
    return centres[:, None] + np.arange(-radius, radius + 1)


def window_strings(
    tokens: Int[np.ndarray, "_"], strings: Sequence[str], centres: Int[np.ndarray, " W"], radius: int
) -> list[tuple[str, ...]]:
    """The windows as tokens. tokens: flattened ids; strings: each id of the vocabulary, as `core.bytetext` has it."""
    return [tuple(map(strings.__getitem__, row)) for row in tokens[window_places(centres, radius)].tolist()]


def distance(places: Int[np.ndarray, " N"], marks: Int[np.ndarray, " M"]) -> Int[np.ndarray, " N"]:
    """Distance of each place to the nearest of the sorted marks."""
    right = np.searchsorted(marks, places)
    after = np.abs(marks[np.minimum(right, len(marks) - 1)] - places)
    return np.minimum(after, np.abs(places - marks[np.maximum(right - 1, 0)]))


def _filled(documents: Int[np.ndarray, " P"]) -> Int[np.ndarray, " P"]:
    """Positions of no document (BOS, separators) count with the document before them."""
    last = np.maximum.accumulate(np.where(documents >= 0, np.arange(len(documents)), 0))
    return documents[last]
