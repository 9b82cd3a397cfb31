"""Material of a small dictionary from random sparse codes on a random text, and the same codes as a table."""

import numpy as np
import torch

from saelab.interp.features.codes import Codes
from saelab.interp.features.material import MaterialSource
from saelab.interp.features.windows import Passages, WindowConfig, WindowFinder

N, T, F, D, VOCAB = 30, 48, 40, 16, 90


def codes_of(dense: np.ndarray, read: np.ndarray) -> Codes:
    """The codes of a dense table [rows, features] at the places that were read."""
    feature, row = np.nonzero(dense.T)
    starts = np.concatenate([[0], np.cumsum((dense > 0).sum(axis=0))])
    return Codes(starts.astype(np.int64), read[row], dense.T[feature, row].astype(np.float32), len(read))


def source_of(density: float = 0.1, *, dead: float = 0.1, bos: bool = True) -> tuple[MaterialSource, np.ndarray]:
    """Random sparse codes on a random text, and the same as a table [places, features]."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(1, VOCAB, (N, T))
    documents = np.repeat(np.arange(N)[:, None], T, axis=1)
    if bos:
        tokens[:, 0], documents[:, 0] = 0, -1
    read = np.flatnonzero(documents.reshape(-1) >= 0)
    dense = np.zeros((N * T, F))
    values = rng.exponential(2.0, (len(read), F)) * (rng.random((len(read), F)) < density)
    values[:, rng.random(F) < dead] = 0
    dense[read] = values.astype(np.float32)
    codes = codes_of(dense[read], read)
    passages = Passages(tokens, documents)
    source = MaterialSource(
        codes,
        passages,
        read,
        [f"t{i} " for i in range(VOCAB)],
        decoder=torch.from_numpy(rng.standard_normal((F, D)).astype(np.float32)),
        thresholds=WindowFinder.over(passages, WindowConfig()).thresholds(codes),
        described=lambda features: {f: f"feature number {f}" for f in features if f % 2},
        lens=lambda features: [((("up", 2.0 + f),), (("down", -1.0),)) for f in features],
    )
    return source, dense
