"""Learning rate and warm-ups as functions of the step.

Linear warm-up of the learning rate from lr / n to lr, linear decay to lr / m over the last share of the run (20 %); the
sparsity coefficient is ramped linearly from zero. A length below 1 is a share of the run, from 1 on a number of steps,
so the same config serves a run of 300 steps and one of 300,000.
"""


def length(value: float, steps: int) -> float:
    """A warm-up's length in steps, at least 1."""
    return max(1.0, value if value >= 1 else value * steps)


def learning_rate(lr: float, step: int, steps: int, *, warmup: float, decay: float) -> float:
    """Learning rate of step `step` (from 0) of `steps`."""
    up = min(1.0, (step + 1) / length(warmup, steps))
    down = min(1.0, (steps - step) / max(1.0, decay * steps))
    return lr * up * down


def ramp(step: int, steps: int, *, warmup: float) -> float:
    """Share of the sparsity coefficient applied at this step, from just above 0 to 1."""
    return min(1.0, (step + 1) / length(warmup, steps))
