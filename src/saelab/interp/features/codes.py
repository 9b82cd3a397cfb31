"""The sparse codes of one SAE over a text: one encode pass, kept as (feature, position, value) triplets by feature.

Everything that reads activations afterwards (contexts, descriptions, detection) reads these and never the LM or the SAE
again. A code counts as active when it is above zero; codes are in raw activation units.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saelab.core.errors import ArtefactError

Encode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Codes:
    """Active codes in compressed columns: those of feature i are `[starts[i]:starts[i + 1]]`, by ascending place.

    places: position of each active code in the flattened text (context * T + position).
    n_rows: rows of activations that were encoded, active or not.
    """

    starts: Int[np.ndarray, " S"]
    places: Int[np.ndarray, " NNZ"]
    values: Float[np.ndarray, " NNZ"]
    n_rows: int

    @property
    def n_features(self) -> int:
        return len(self.starts) - 1

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """Places (ascending) and values of one feature."""
        part = slice(self.starts[feature], self.starts[feature + 1])
        return self.places[part], self.values[part]

    def counts(self) -> np.ndarray:
        """How many rows each feature is active on: Int [F]."""
        return np.diff(self.starts)

    def only(self, features: Sequence[int]) -> "Codes":
        """The codes of these features alone, numbered in the order given."""
        parts = [self.of(f) for f in features]
        starts = np.concatenate([[0], np.cumsum([len(p) for p, _ in parts])]).astype(np.int64)
        places, values = (np.concatenate([part[i] for part in parts]) if parts else np.zeros(0) for i in (0, 1))
        return Codes(starts, places.astype(np.int64), values.astype(np.float32), self.n_rows)

    def features(self) -> np.ndarray:
        """The feature of every triplet: Int32 [NNZ]."""
        return np.repeat(np.arange(self.n_features, dtype=np.int32), self.counts())


def encode_codes(
    encode: Encode, rows: Float[Tensor, "N D"], places: Int[np.ndarray, " N"], *, block: int = 4096
) -> Codes:
    """Encode rows in blocks and keep what is active. The result does not depend on `block`.

    places: where each row sits in the flattened text, ascending. Raises `ArtefactError` on codes that are not finite.
    """
    return gather_codes(_blocks(encode, rows, places, block))


def gather_codes(blocks: Iterable[tuple[Float[Tensor, "B F"], Int[np.ndarray, " B"]]]) -> Codes:
    """Collect dense codes block by block into triplets sorted by feature, then by place."""
    features, places, values, n_rows, width = [], [], [], 0, 0
    for codes, where in blocks:
        if not bool(torch.isfinite(codes.sum())):  # one pass over the block, where asking each entry takes five
            raise ArtefactError("The SAE gave codes that are NaN or infinite.", hint="Check its weights.")
        row, feature = (codes > 0).nonzero(as_tuple=True)
        values.append(codes[row, feature].float().cpu().numpy())
        features.append(feature.to(torch.int32).cpu().numpy())
        places.append(where[row.cpu().numpy()].astype(np.int64))
        n_rows, width = n_rows + len(codes), codes.shape[1]
    feature = np.concatenate(features) if features else np.zeros(0, np.int32)
    # Radix sort (stable) on 16 bits is several times faster than comparing 32.
    order = np.argsort(feature.astype(np.uint16) if width <= 1 << 16 else feature, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(feature, minlength=width))])
    joined = [np.concatenate(part)[order] if part else np.zeros(0) for part in (places, values)]
    return Codes(starts.astype(np.int64), joined[0].astype(np.int64), joined[1].astype(np.float32), n_rows)


def _blocks(
    encode: Encode, rows: Tensor, places: np.ndarray, block: int
) -> Iterable[tuple[Float[Tensor, "B F"], Int[np.ndarray, " B"]]]:
    with torch.inference_mode():
        for start in range(0, len(rows), block):
            yield encode(rows[start : start + block].float()), places[start : start + block]
