"""Supervised steering vector (AxBench's SSV): the vector whose addition makes the concept's texts most likely.

w = argmin  mean NLL of the answers under  h + w        (w free of norm, from a small random start)
"""

import torch
from torch import Tensor

from saelab.core.seeds import seed_of
from saelab.steering.direction import Direction
from saelab.steering.directions.likelihood import Fit, train
from saelab.steering.directions.linear import pointed
from saelab.steering.examples import Examples


def ssv(examples: Examples, *, seed: int = 0, fit: Fit | None = None) -> Direction:
    """The trained vector's direction; strength by its largest training score, as for every fitted direction."""
    generator = torch.Generator().manual_seed(seed_of(seed, "steering", "ssv", examples.site, examples.concept))
    vector = 0.01 * torch.randn(examples.lm.d_model, generator=generator).to(examples.lm.device)

    def change(hidden: Tensor, editable: Tensor, done: float) -> tuple[Tensor, Tensor]:
        del done
        return hidden + editable[..., None] * vector.to(hidden.dtype), vector.new_zeros(())

    trained = train(examples, vector, change, fit or Fit(), both=False, seed=seed, name="ssv")
    return pointed(trained.cpu().float(), examples, "ssv")
