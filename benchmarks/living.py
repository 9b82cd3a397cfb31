"""How many latents of short JumpReLU runs live, and at what FVU. The numbers of docs/training.md.

    python benchmarks/living.py --activations RUN/activations/LM/SITE [RUN/activations/LM/SITE ...] [--l0 64 256]
        [--steps 200 1000] [--seeds 0 1] [--variants NAME ...] [--out FILE.jsonl] [--minutes 8]
        [--batch 512] [--d-sae 2048] [--options '{"bandwidth": 0.05}'] [--architecture jumprelu]

Stored activations of runs; the first 16,384 rows of each are held out. Of each SAE: L0, FVU and the share of latents
that fire on none of the held-out rows, and the lowest L0 of a step of training, which says whether the gates closed at
first. Variants are starts and schedules (`VARIANTS`; `--options` are said of all). With `--out` what is in the file is
not trained again, and `--minutes` says when no further SAE is begun. Last comes the frontier: means over seeds, FVU as
a multiple of the lowest, and a mark on those that no other has both less dead and less FVU than.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from saelab.activations.shards import ActivationShards
from saelab.saes.base import Sae
from saelab.saes.catalogue import training_config
from saelab.training.inputs import scaling_of
from saelab.training.step import Trainee
from saelab.training.sweep import resolve

HELD_OUT = 16_384
FAST = {"lr": 0.006, "lr_decay": 0.7}  # of the demo
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": FAST,
    "fast, held": FAST | {"held_from": 0.1},
    "fast, slow biases": FAST | {"bias_lr": 0.03},
    "fast, slow biases, held": FAST | {"bias_lr": 0.03, "held_from": 0.1},
    "fast, slow biases, held, reopened": FAST | {"bias_lr": 0.03, "held_from": 0.1, "reopen": True},
}
CASE = ("lm", "l0", "steps")
ASKED = (*CASE, "seed", "variant")
SHOWN = (*ASKED, "measured L0", "FVU", "dead", "lowest L0", "processor s")


def batches(rows: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    """Shuffled batches, pass after pass."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for part in torch.randperm(len(rows), generator=generator).split(size):
            if len(part) == size:
                yield rows[part].float()


def measured(asked: argparse.Namespace, rows: Tensor, case: dict[str, Any]) -> dict[str, Any]:
    """Train one SAE and measure it."""
    held, rest = rows[:HELD_OUT].float(), rows[HELD_OUT:]
    scaling, stream = scaling_of([rest]), batches(rest, asked.batch, case["seed"])
    own = VARIANTS[case["variant"]] | json.loads(asked.options)
    cfg = training_config(asked.architecture, level=case["l0"], d_in=rows.shape[1], d_sae=asked.d_sae, **own)
    sample, began = scaling(next(stream)), time.process_time()
    trainee = Trainee(cfg, sample, steps=case["steps"], seed=case["seed"], dtype=resolve("auto"))
    lowest = min(trainee.step(scaling(next(stream))).l0 for _ in range(case["steps"]))
    spent = time.process_time() - began
    sae = trainee.finish(scaling)
    assert isinstance(sae, Sae)
    codes, error = torch.zeros(asked.d_sae), 0.0
    with torch.inference_mode():
        for x in held.split(2048):
            found = sae.encode(x)
            codes += (found > 0).sum(0)
            error += float((sae.decode(found) - x).square().sum())
    fvu, dead = error / float((held - held.mean(0)).square().sum()), float((codes == 0).float().mean())
    l0 = float(codes.sum()) / len(held)
    return case | {"measured L0": l0, "FVU": fvu, "dead": dead, "lowest L0": lowest, "processor s": spent}


def told(row: dict[str, Any]) -> str:
    """A row of the table."""
    figures = [f"{row['measured L0']:.1f}", f"{row['FVU']:.4f}", f"{row['dead']:.1%}", f"{row['lowest L0']:.0f}"]
    return "| " + " | ".join([*(str(row[name]) for name in ASKED), *figures, f"{row['processor s']:.0f}"]) + " |"


def frontier(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Of every LM, L0 and length the variants by their mean share of dead latents, and which none is better than."""
    yield "| " + " | ".join((*CASE, "variant", "seeds", "dead", "FVU", "of the lowest", "no other is better")) + " |"
    for case in dict.fromkeys(tuple(row[name] for name in CASE) for row in rows):
        own = [row for row in rows if tuple(row[name] for name in CASE) == case]
        points = {}
        for variant in dict.fromkeys(row["variant"] for row in own):
            of = [row for row in own if row["variant"] == variant]
            points[variant] = (mean(r["dead"] for r in of), mean(r["FVU"] for r in of), len(of))
        lowest = min(fvu for _, fvu, _ in points.values())
        for variant, (dead, fvu, seeds) in sorted(points.items(), key=lambda item: item[1]):
            beaten = any(d <= dead and f <= fvu and (d, f) != (dead, fvu) for d, f, _ in points.values())
            cells = [variant, str(seeds), f"{dead:.1%}", f"{fvu:.4f}", f"{fvu / lowest:.3f}", "" if beaten else "*"]
            yield "| " + " | ".join([*map(str, case), *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", nargs="+", required=True)
    parser.add_argument("--architecture", default="jumprelu")
    parser.add_argument("--options", default="{}", help="settings of the training config, as JSON")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    for name, value in {"batch": 512, "d-sae": 2048}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, several in {"l0": [64, 256], "steps": [200], "seeds": [0]}.items():
        parser.add_argument(f"--{name}", type=int, nargs="+", default=several)
    parser.add_argument("--out", type=Path, help="where the figures are kept")
    parser.add_argument("--minutes", type=float, default=1e9, help="after which no further SAE is begun")
    asked = parser.parse_args()
    kept = asked.out.read_text().splitlines() if asked.out and asked.out.exists() else []
    rows, began = [json.loads(line) for line in kept], time.monotonic()
    print("| " + " | ".join(SHOWN) + " |")
    data = {Path(p).parent.name: ActivationShards(Path(p)) for p in asked.activations}
    read = {lm: torch.cat([s.read(k).rows for k in range(len(s.manifest.shards))]) for lm, s in data.items()}
    order = [(n, level, seed, lm, v) for n in asked.steps for seed in asked.seeds for level in asked.l0
             for lm in read for v in asked.variants]  # fmt: skip
    for steps, level, seed, lm, variant in order:
        case = {"lm": lm, "l0": level, "steps": steps, "seed": seed, "variant": variant}
        if any(case.items() <= row.items() for row in rows) or time.monotonic() - began > 60 * asked.minutes:
            continue
        rows.append(row := measured(asked, read[lm], case))
        print(told(row), flush=True)
        if asked.out:
            with asked.out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print("\n".join(frontier(rows)))


if __name__ == "__main__":
    main()
