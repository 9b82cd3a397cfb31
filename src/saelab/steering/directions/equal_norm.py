"""Two controls for a feature's direction, both moving the stream by exactly the same distance at every factor.

- `equal_norm_direction` (method `random_direction`): an isotropic random direction. What it achieves, any push of that
  size achieves.
- `equal_norm_feature` (method `random_feature`): another feature of the same SAE. What it achieves, any learnt
  direction achieves.
"""

import torch

from saelab.core.seeds import numpy_generator, seed_of
from saelab.saes.base import Sae
from saelab.steering.direction import Direction, unit
from saelab.steering.methods import RANDOM_DIRECTION, RANDOM_FEATURE


def equal_norm_direction(like: Direction, *, seed: int) -> Direction:
    """An isotropic direction with the site and the distance of `like`, the same for the same seed and origin."""
    generator = torch.Generator().manual_seed(seed_of(seed, "steering", "random_direction", like.site, like.origin))
    vector = torch.randn(like.vector.shape, generator=generator)
    source = f"equal to {like.method}"
    return unit(
        vector, site=like.site, distance=like.distance, method=RANDOM_DIRECTION, origin=like.origin, source=source
    )


def equal_norm_feature(sae: Sae, like: Direction, feature: int, candidates: list[int], *, seed: int) -> Direction:
    """The decoder row of a random other feature among `candidates`, moved as far as `like`."""
    others = sorted(set(candidates) - {feature})
    other = int(numpy_generator(seed, "steering", "random_feature", like.site, like.origin).choice(others))
    return unit(
        sae.W_dec[other],
        site=like.site,
        distance=like.distance,
        method=RANDOM_FEATURE,
        origin=f"feature {other} in place of {like.origin}",
        source=f"equal to {like.method}",
    )
