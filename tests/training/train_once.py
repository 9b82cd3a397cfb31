"""A small training run in a process of its own, to be killed.

A server that forks, so that torch is imported once: each line of standard input is "<folder> <die at the n-th write>";
the answer is the child's process id, then, when it has ended, its exit status (negative for a signal). With the
argument `stream` the activations are those of a tiny language model as it runs, at two sites.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from live_tiny import streamed
from planted import Stored, batches

from saelab.saes.catalogue import training_config
from saelab.store import files, tables, tensors
from saelab.training.config import TrainingConfig
from saelab.training.run import Share, run_shares


def once(folder: Path, die_at: int, shares: Callable[[], list[Share]]) -> None:
    """Train three tiny SAEs, a checkpoint after every few steps; die as by SIGKILL in the middle of a file write."""
    torch.set_num_threads(1)
    writes = 0
    plain = files.replacing

    def counted(path: Path):
        nonlocal writes
        writes += 1
        if writes == die_at:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.part").write_bytes(b"half")
            os._exit(137)
        return plain(path)

    for module in (files, tables, tensors):
        module.replacing = counted
    config = TrainingConfig(steps=40, batch=64, metrics_every=7, checkpoint_seconds=0)
    run_shares(config, shares(), saes=folder / "saes", folder=folder / "training", seed=3)


def stored() -> list[Share]:
    configs = {a: training_config(a, level=3, d_in=16, d_sae=48) for a in ("gated", "jumprelu", "matryoshka")}
    return [Share(configs, Stored(batches(20, 64, 16)), seed=3)]


def main() -> None:
    """Serve runs until standard input ends."""
    torch.set_num_threads(1)
    say, shares = sys.stdout, streamed() if "stream" in sys.argv else stored
    for line in sys.stdin:
        folder, die_at = line.rsplit(" ", 1)
        child = os.fork()
        if child == 0:
            once(Path(folder), int(die_at), shares)
            os._exit(0)
        say.write(f"{child}\n")
        say.flush()
        _, status = os.waitpid(child, 0)
        say.write(f"{os.waitstatus_to_exitcode(status)}\n")
        say.flush()


if __name__ == "__main__":
    main()
