"""The control criterion: a number that knows nothing of the feature. What beats it by chance is chance."""

import torch
from jaxtyping import Float
from torch import Tensor

from saelab.core.seeds import seed_of


def blind_score(features: int, seed: int) -> Float[Tensor, "F"]:
    """Uniform scores in [0, 1), the same for the same seed."""
    generator = torch.Generator().manual_seed(seed_of(seed, "selection", "random_control"))
    return torch.rand(features, generator=generator)
