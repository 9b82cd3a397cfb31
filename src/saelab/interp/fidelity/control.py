"""The control of fidelity: a dictionary of random directions with an SAE's width and about its L0."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.seeds import seed_of


@dataclass(frozen=True)
class RandomDictionary:
    """The control: k of F random unit directions, chosen per token by projection, with one least-squares scale.

        z = TopK_k((x - mean) R^T),   xh = mean + s z R,   s = sum <x - mean, z R> / sum ||z R||^2

    the encoder is the decoder's transpose; nothing else is fitted.
    """

    directions: Float[Tensor, "F D"]
    mean: Float[Tensor, "D"]
    k: int
    scale: float

    @classmethod
    def fit(cls, rows: Float[Tensor, "M D"], n_features: int, k: int, *, seed: int = 0) -> "RandomDictionary":
        """Draw the directions from the seed and fit the scale on `rows`."""
        generator = torch.Generator().manual_seed(seed_of(seed, "random dictionary", n_features, rows.shape[1]))
        drawn = torch.randn(n_features, rows.shape[1], generator=generator)
        mean = rows.mean(0)
        plain = cls(torch.nn.functional.normalize(drawn, dim=-1).to(rows.device), mean, k, 1.0)
        dot, square = 0.0, 0.0
        for x in rows.split(4096):
            raw = plain.decode(plain.encode(x)) - mean
            dot, square = dot + float(((x - mean) * raw).sum()), square + float(raw.square().sum())
        return cls(plain.directions, mean, k, dot / square if square else 0.0)

    def encode(self, x: Float[Tensor, "M D"]) -> Float[Tensor, "M F"]:
        projections = torch.relu((x - self.mean) @ self.directions.T)
        top = projections.topk(min(self.k, projections.shape[-1]), dim=-1)
        return torch.zeros_like(projections).scatter_(-1, top.indices, top.values)

    def decode(self, codes: Float[Tensor, "M F"]) -> Float[Tensor, "M D"]:
        return self.mean + self.scale * (codes @ self.directions)


def control_k(l0: float) -> int:
    """The k of the random control for an SAE of this L0: the nearest half-octave (1, 2, 3, 4, 6, 8, 12, 16, ...).

    SAEs whose L0 are close then share one control, which halves the cost of a grid.
    """
    grid = sorted({1, 2, 3} | {2**i for i in range(2, 16)} | {3 * 2**i for i in range(1, 15)})
    return min(grid, key=lambda k: abs(math.log(k) - math.log(max(l0, 1.0))))
