"""Fuzzing: can a judge tell from a description at which tokens of a window the feature fires?

Of every test window in which the feature is active a right version has the active tokens marked, a wrong one as many
of its silent tokens, drawn at random. So only the place can tell them apart, which detection never asks. Scores are
those of detection (balanced accuracy and AUROC, 0.5 by chance); the cut is set on the describing windows. Source:
EleutherAI's automated interpretability, 2410.13928, section 4 (there the wrong marks stand in other texts).
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from saelab.core.records import Description
from saelab.core.seeds import numpy_generator
from saelab.interp.features.codes import Codes
from saelab.interp.features.contexts import values_at
from saelab.interp.features.detection import Trial
from saelab.interp.features.windows import DESCRIBE, TEST, WindowFinder, window_places
from saelab.judges.marks import marked

Marked = tuple[tuple[str, ...], ...]


def fuzzing_trials(
    codes: Codes, finder: WindowFinder, strings: Sequence[str], descriptions: Mapping[int, Description], seed: int
) -> Iterable[Trial]:
    """A trial for every described feature that has windows enough on both sides; ask with the task `FUZZING`.

    strings: how each id of the vocabulary reads.
    """
    for feature, description in descriptions.items():
        sides = [_versions(codes, finder, strings, feature, side, seed) for side in (DESCRIBE, TEST)]
        if all(len(windows) >= 2 * finder.config.least_active for windows, _ in sides):
            (shown, shown_right), (test, test_right) = sides
            yield Trial(feature, description, shown, shown_right, test, test_right)


def _versions(
    codes: Codes, finder: WindowFinder, strings: Sequence[str], feature: int, side: int, seed: int
) -> tuple[Marked, np.ndarray]:
    """Every active window twice: marked where it fires, and elsewhere."""
    windows = finder.find(codes, feature, side)
    places = window_places(windows.centres[windows.active], finder.config.radius)
    tokens = finder.passages.tokens.reshape(-1)[places]
    fires = values_at(*codes.of(feature), places) > finder.threshold(codes, feature)
    generator = numpy_generator(seed, "fuzzing", feature, side)
    found: list[tuple[str, ...]] = []
    rows: list[list[int]] = tokens.tolist()
    for ids, right in zip(rows, fires, strict=True):
        silent = generator.permutation(np.flatnonzero(~right))[: right.sum()]
        if not right.any() or len(silent) < right.sum():
            continue  # as many silent tokens as active ones do not exist
        wrong = np.zeros(len(ids), bool)
        wrong[silent] = True
        texts = [strings[i] for i in ids]
        found += [marked(texts, right.tolist()), marked(texts, wrong.tolist())]
    return tuple(found), np.arange(len(found)) % 2 == 0
