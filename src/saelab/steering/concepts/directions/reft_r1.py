"""ReFT-r1 (AxBench, arXiv 2501.17148, section 4): one unit vector that detects and steers, trained jointly.

    a_t = ReLU(h_t . w),   h_t <- h_t + mean(top-8 of a over the text) w,   |w| = 1
    loss = NLL of the answers + lambda * mean of the other a_t,   lambda from 0 to 0.005 over training

Trained on texts that show the concept and texts that do not.
"""

from dataclasses import replace

import torch
from torch import Tensor

from saelab.core.seeds import seed_of
from saelab.steering.concepts.directions.likelihood import train
from saelab.steering.concepts.directions.linear import pointed
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples
from saelab.steering.direction import Direction

TOP, PENALTY, CLIP = 8, 0.005, 1.0


def reft_r1(examples: Examples, using: Fitting) -> Direction:
    """The trained direction."""
    generator = torch.Generator().manual_seed(
        seed_of(using.seed, "steering", "reft_r1", examples.site, examples.concept)
    )
    vector = torch.randn(examples.lm.width(examples.site), generator=generator).to(examples.lm.device)
    vector = vector / vector.norm()

    def change(hidden: Tensor, editable: Tensor, done: float) -> tuple[Tensor, Tensor]:
        direction = vector / vector.norm()
        score = torch.relu(hidden.float() @ direction) * editable
        top = score.topk(min(TOP, score.shape[1]), dim=-1)
        push = top.values.mean(-1)[:, None, None] * direction
        rest = score.sum(-1) - top.values.sum(-1)
        count = (editable.sum(-1) - TOP).clamp(min=1)
        penalty = done * PENALTY * (rest / count).mean()
        return hidden + (editable[..., None] * push).to(hidden.dtype), penalty

    fit = replace(using.fit, clip=CLIP)
    trained = train(examples, vector, change, fit, both=True, seed=using.seed, name="reft_r1")
    return pointed(trained.cpu().float(), examples, "reft_r1")
