"""How many latents of short JumpReLU runs live, and at what FVU. The numbers of docs/benchmarks.md.

    python benchmarks/living.py --activations RUN/activations/LM/SITE [--l0 64 256] [--steps 200] [--batch 512]
        [--d-sae 2048] [--seeds 0 1] [--options '{"lr": 0.006, "lr_decay": 0.7}'] [--architecture jumprelu]

Stored activations of a run; the first 16,384 rows are held out. Of each SAE: L0, FVU and the share of latents that fire
on none of the held-out rows, and the lowest L0 of a step of training, which says whether the gates closed at first.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from saelab.activations.shards import ActivationShards
from saelab.saes.base import Sae
from saelab.saes.catalogue import training_config
from saelab.training.inputs import scaling_of
from saelab.training.step import Trainee
from saelab.training.sweep import resolve

HELD_OUT = 16_384


def batches(rows: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Shuffled batches, pass after pass."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for part in torch.randperm(len(rows), generator=generator).split(size):
            if len(part) == size:
                yield rows[part].float()


def row(asked: argparse.Namespace, rows: Tensor, level: int, seed: int) -> str:
    """Train one SAE and measure it."""
    held, rest = rows[:HELD_OUT].float(), rows[HELD_OUT:]
    scaling, stream = scaling_of([rest]), batches(rest, asked.batch, seed)
    shape = {"d_in": rows.shape[1], "d_sae": asked.d_sae}
    cfg = training_config(asked.architecture, level=level, **shape, **json.loads(asked.options))
    sample = scaling(next(stream))
    trainee = Trainee(cfg, sample, steps=asked.steps, seed=seed, dtype=resolve("auto"))
    lowest = min(trainee.step(scaling(next(stream))).l0 for _ in range(asked.steps))
    sae = trainee.finish(scaling)
    assert isinstance(sae, Sae)
    codes, error = torch.zeros(asked.d_sae), 0.0
    with torch.inference_mode():
        for x in held.split(2048):
            found = sae.encode(x)
            codes += (found > 0).sum(0)
            error += float((sae.decode(found) - x).square().sum())
    fvu = error / float((held - held.mean(0)).square().sum())
    cells = [str(level), str(asked.steps), str(seed), f"{float(codes.sum()) / len(held):.1f}", f"{fvu:.4f}"]
    return " | ".join([*cells, f"{float((codes == 0).float().mean()):.1%}", f"{lowest:.0f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", required=True)
    parser.add_argument("--architecture", default="jumprelu")
    parser.add_argument("--options", default="{}", help="settings of the training config, as JSON")
    for name, value in {"steps": 200, "batch": 512, "d-sae": 2048}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--l0", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    shards = ActivationShards(Path(asked.activations))
    rows = torch.cat([shards.read(k).rows for k in range(len(shards.manifest.shards))])
    print("| L0 asked | steps | seed | L0 | FVU | dead | lowest L0 |")
    for level in asked.l0:
        for seed in asked.seeds:
            print(f"| {row(asked, rows, level, seed)} |", flush=True)


if __name__ == "__main__":
    main()
