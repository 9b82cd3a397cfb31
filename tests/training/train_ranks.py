"""Two processes train SAEs together: `torchrun --nproc-per-node 2 train_ranks.py <folder>`.

Writes what `saelab.train` gives for every architecture, and the files of three runs with checkpoints: one whole, one
that fails on all ranks and is called again, one where a SIGTERM reaches the second rank only.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from planted import Stored, batches

from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.saes.ranks import Ranks
from saelab.store.tensors import write_tensors
from saelab.training.config import TrainingConfig
from saelab.training.distributed import joined
from saelab.training.run import run
from saelab.training.sweep import train

STEPS, ROWS = 24, 64


class Interrupted(Stored):
    """Activations that end the run at batch 17: with an error on every rank, or a signal to the last one."""

    def __init__(self, how: str, ranks: Ranks):
        super().__init__(batches(20, ROWS, 16))
        self.how, self.ranks = how, ranks

    def batches(self, batch_size: int, /, *, steps: int, seed: int, start: int) -> Iterator[torch.Tensor]:
        for i, x in enumerate(super().batches(batch_size, steps=steps, seed=seed, start=start), start):
            if i == 17 and self.how == "error":
                raise ConnectionError("the data went away")
            if i == 17 and self.how == "signal" and self.ranks.index == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield x


def configs(steps: int = STEPS) -> dict:
    """Every architecture; latents die early enough for AuxK."""
    dead = {"dead_tokens": steps * ROWS // 8}
    return {a: training_config(a, level=3, d_in=16, d_sae=48, **dead) for a in ARCHITECTURES}


def stored(folder: Path, how: str, ranks: Ranks) -> None:
    """A run with a checkpoint after every few steps."""
    config = TrainingConfig(steps=STEPS, batch=ROWS, checkpoint_seconds=0, precision="float32")
    source = Interrupted(how, ranks)
    run(config, configs(), source, saes=folder / "saes", folder=folder / "training", seed=3, ranks=ranks)


def main(folder: Path) -> None:
    """Everything, in one start of torch."""
    torch.set_num_threads(1)
    with joined() as ranks:
        saes = train(list(configs().values()), batches(8, ROWS, 16), steps=STEPS, precision="float32", ranks=ranks)
        for name, sae in zip(configs(), saes, strict=True):
            write_tensors(folder / f"rank{ranks.index}" / f"{name}.safetensors", sae.weights())
        stored(folder / "whole", "", ranks)
        for how, expected in (("error", ConnectionError), ("signal", SystemExit)):
            try:
                stored(folder / how, how, ranks)
            except expected:
                assert (folder / how / "training" / "checkpoints").exists()
                stored(folder / how, "", ranks)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
