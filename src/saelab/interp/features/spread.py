"""Contexts from the whole range of a feature: its largest activations, and some of every fifth of its values.

A context is the window round a local peak, a place with no larger value of the feature within the window. At the ends
of a packed context a window is clipped, not dropped. Fifths are those of all the values above zero; a peak lies in one
by its own value. No two contexts of a feature overlap or have the same seven tokens round the peak. Nothing here knows
files.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from saelab.core.seeds import numpy_generator
from saelab.interp.features.codes import Codes
from saelab.interp.features.windows import Passages

RADIUS, NEAR = 10, 3  # tokens on either side of a peak that are shown, and that tell two contexts apart
TOP, EACH = 6, 2  # contexts of the largest values, and of every fifth
TRIED = 32  # places looked at for each context
# Bands by number: the largest, then the fifths from the upper to the lower, as bounds in quantiles.
BANDS = ("top", "80-100 %", "60-80 %", "40-60 %", "20-40 %", "0-20 %")
EDGES = (0.8, 0.6, 0.4, 0.2)


@dataclass(frozen=True)
class ChosenContexts:
    """The contexts of one feature: flattened places of their peaks, and the band of each (its number in `BANDS`).

    edges: the values that part the fifths, falling; none where it is dead.
    """

    peaks: Int[np.ndarray, " C"]
    bands: Int[np.ndarray, " C"]
    edges: Float[np.ndarray, " E"]


@dataclass(frozen=True)
class Bounds:
    """Where a window may reach: the first and the last place but one of every place's context, its BOS left out."""

    first: Int[np.ndarray, " P"]
    stop: Int[np.ndarray, " P"]

    @classmethod
    def over(cls, passages: Passages) -> "Bounds":
        """Of a packed text. A first token that belongs to no document is a BOS."""
        n, length = passages.tokens.shape
        begins = np.arange(n) * length
        return cls(np.repeat(begins + (passages.documents[:, 0] < 0), length), np.repeat(begins + length, length))

    def windows(self, peaks: Int[np.ndarray, " C"], radius: int = RADIUS) -> tuple[np.ndarray, np.ndarray]:
        """First place and place after the last of the windows round these peaks."""
        return np.maximum(peaks - radius, self.first[peaks]), np.minimum(peaks + radius + 1, self.stop[peaks])


def local_peaks(codes: Codes, length: int, radius: int = RADIUS) -> Bool[np.ndarray, " NNZ"]:
    """Which codes no larger one of the same feature and context stands near; of equal ones the first.

    length: positions per context.
    """
    places, values, feature = codes.places, codes.values, codes.features()
    context = places // length
    peak = np.ones(len(places), bool)
    for step in range(1, radius + 1):
        if step >= len(places):
            break
        early, late = slice(None, -step), slice(step, None)
        near = (places[late] - places[early] <= radius) & (feature[late] == feature[early])
        near &= context[late] == context[early]
        peak[early] &= ~(near & (values[late] > values[early]))
        peak[late] &= ~(near & (values[early] >= values[late]))
    return peak


def choose(
    codes: Codes, tokens: Int[np.ndarray, " P"], length: int, names: Iterable[int], *, seed: int = 0
) -> list[ChosenContexts]:
    """The contexts of every feature of `codes`.

    tokens: flattened ids of the text. names: what the features are called, which their draws depend on.
    """
    peaks = local_peaks(codes, length)
    found = []
    for k, name in enumerate(names):
        places, values = codes.of(k)
        here = peaks[codes.starts[k] : codes.starts[k + 1]]
        found.append(_of_one(tokens, places, values, here, seed_name=(seed, name)))
    return found


def _of_one(
    tokens: Int[np.ndarray, " P"],
    places: Int[np.ndarray, " N"],
    values: Float[np.ndarray, " N"],
    peaks: Bool[np.ndarray, " N"],
    *,
    seed_name: tuple[int, int],
) -> ChosenContexts:
    taken, bands, seen = list[int](), list[int](), set[bytes]()
    edges = np.quantile(values, EDGES) if len(places) else np.zeros(0)
    if len(places):
        places, values = places[peaks], values[peaks]
        order = np.argsort(-values, kind="stable")
        _take(tokens, places[order[: TRIED * TOP]], TOP, taken, seen)
        bands = [0] * len(taken)
        band = (values[:, None] < edges).sum(axis=1)
        drawn = numpy_generator(*seed_name, "contexts of every fifth").permutation(len(places))
        for k in range(len(EDGES) + 1):
            inside = drawn[band[drawn] == k][: TRIED * EACH]
            _take(tokens, places[inside], EACH, taken, seen)
            bands += [k + 1] * (len(taken) - len(bands))
    return ChosenContexts(np.array(taken, np.int64), np.array(bands, np.int64), edges)


def _take(
    tokens: Int[np.ndarray, " P"], places: Int[np.ndarray, " N"], count: int, taken: list[int], seen: set[bytes]
) -> None:
    """Add up to `count` of the places, in their order, that overlap nothing taken and read otherwise."""
    added = 0
    for place in places.tolist():
        near = tokens[max(0, place - NEAR) : place + NEAR + 1].tobytes()
        if near in seen or any(abs(place - other) <= 2 * RADIUS for other in taken):
            continue
        taken.append(place)
        seen.add(near)
        added += 1
        if added == count:
            return
