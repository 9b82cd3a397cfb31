"""Supervised steering vector (AxBench's SSV): the vector whose addition makes the concept's texts most likely.

w = argmin  mean NLL of the answers under  h + w        (w free of norm, from a small random start)
"""

import torch
from torch import Tensor

from saelab.core.seeds import seed_of
from saelab.steering.concepts.directions.likelihood import train
from saelab.steering.concepts.directions.linear import pointed
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples
from saelab.steering.direction import Direction


def ssv(examples: Examples, using: Fitting) -> Direction:
    """The trained vector's direction; strength by its largest training score, as for every fitted direction."""
    generator = torch.Generator().manual_seed(seed_of(using.seed, "steering", "ssv", examples.site, examples.concept))
    vector = 0.01 * torch.randn(examples.lm.width(examples.site), generator=generator).to(examples.lm.device)

    def change(hidden: Tensor, editable: Tensor, done: float) -> tuple[Tensor, Tensor]:
        del done
        return hidden + editable[..., None] * vector.to(hidden.dtype), vector.new_zeros(())

    trained = train(examples, vector, change, using.fit, both=False, seed=using.seed, name="ssv")
    return pointed(trained.cpu().float(), examples, "ssv")
