"""Hits a requested L0: a controller for the sparsity coefficient, and a last phase that pins L0.

    log c ← log c + κ η log(L0 / T),   applied c · (L0 / T)       (integral and proportional part; η the learning rate)

The plant (how L0 answers to c) is as slow as the learning rate, so the integral gain is proportional to it: one setting
serves any lr and length. Fixed penalties do not do this: Adam normalises their gradient, and L0 saturates (spec A.5).
In the last tenth of a run the decayed learning rate leaves c little authority; there the threshold
(of ReLU and Gated the bias) is moved by damped Newton steps on L0, the slope read from the codes
just above it, while the weights still adapt.
"""

from dataclasses import dataclass
from math import exp, log

import torch
from torch import Tensor

from saelab.saes.ranks import ALONE, Ranks

PIN_SHARE = 0.1  # share of the run in which L0 is pinned
GAIN = 8.0  # integral gain per unit of learning rate
DAMPING = 0.5  # share of a Newton step taken: of less, short runs end with what the last updates took from L0


@dataclass
class SparsityController:
    """The coefficient's state. `log_c` is all that a checkpoint needs."""

    target: int
    log_c: float

    def coefficient(self, l0: float | None, lr: float, ramp: float) -> float:
        """The coefficient for the next step from the L0 of the last one (None before the first)."""
        if l0 is None:
            return exp(self.log_c) * ramp
        error = self.error(l0)
        if ramp >= 1:
            self.log_c += GAIN * lr * error
        return exp(self.log_c + error) * ramp

    def error(self, l0: float) -> float:
        """log(L0 / T), limited to one e-fold."""
        return min(1.0, max(-1.0, log(max(l0, 1e-3) / self.target)))

    def offset(self, l0: float, codes: Tensor, tokens: int, ranks: Ranks = ALONE, target: float | None = None) -> float:
        """How far to lower (+) or raise (-) the threshold towards the target L0, or towards `target`; `codes`: heights
        above it, any shape; `tokens` of all ranks.
        """
        heights = codes[codes > 0]
        height, count = ranks.total(torch.stack([heights.sum(), heights.new_full((), heights.numel())])).tolist()
        if not count:
            return 0.0
        near = 0.2 * height / count
        slope = float(ranks.total((heights < near).sum())) / near / tokens  # dL0 / d(offset)
        if slope <= 0:
            return 0.0
        step = DAMPING * ((self.target if target is None else target) - l0) / slope
        return min(near, max(-near, step))
