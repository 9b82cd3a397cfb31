"""Exact and partial matching beside lapx and scipy: the tables of docs/benchmarks.md.

    python benchmarks/matching.py decoders --run demo --out DIR [--widths 2048 8192 16384] [--batch 2048]
                    TopK SAEs (k 32) at sites 15 and 16, from the activations that `make demo` left
    python benchmarks/matching.py real --out DIR [--widths 2048 8192 16384] [--repeats 3]
    python benchmarks/matching.py synthetic [--n 65536]               a full matching of synthetic decoders, d 576
    python benchmarks/matching.py partial [--n 131072]                null-calibrated partial matching of such

Every measurement is a process of its own. Seconds are wall and processor time (all threads); peak memory is the
process's, rows and, for the dense solvers, their cost matrix included; the dense solvers' time is without making it.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lap
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from saelab.activations.shards import ActivationShards
from saelab.core.seeds import seed_of
from saelab.matching.assignment import assign
from saelab.matching.cost import Costs, costs_between
from saelab.matching.fold import features_of
from saelab.matching.partial import match_partially, null_reject
from saelab.saes.catalogue import training_config
from saelab.saes.formats import load_sae
from saelab.training import run as training
from saelab.training.config import TrainingConfig

SITES = ("resid_post.15", "resid_post.16")
WIDTHS = (2048, 8192, 16384)
STEPS = 160
D = 576
REPLACED = 0.4  # share of synthetic features without a counterpart


def decoders(run: Path, out: Path, widths: Sequence[int], batch: int) -> None:
    for width in widths:
        for site in SITES:
            name = f"topk32.{width}.{site}"
            if (out / "saes" / name / "cfg.json").exists():
                continue
            shards = ActivationShards(run / "activations" / "smollm2-135m" / site)
            config = TrainingConfig(steps=STEPS, batch=batch)
            saes = {name: training_config("topk", d_in=shards.d, d_sae=width, level=32)}
            folder = out / "training" / name
            seed = seed_of("benchmark", site)
            training.run(config, saes, shards, saes=out / "saes", folder=folder, seed=seed, site=site)
            print(f"trained {name}", flush=True)


def real(out: Path, width: int) -> Costs:
    saes = [load_sae(str(out / "saes" / f"topk32.{width}.{site}")) for site in SITES]
    first, second = (features_of(s, "none") for s in saes)
    return costs_between(first, second, "decoder")


def synthetic(n: int) -> tuple[Costs, np.ndarray]:
    """Rows of log-normal norm, a noisy shuffled copy, 40 % of it replaced; and the true partner (-1: replaced)."""
    g = torch.Generator().manual_seed(seed_of("benchmark", n))
    a = torch.nn.functional.normalize(torch.randn(n, D, generator=g), dim=1)
    noise = torch.randn(n, D, generator=g) * D**-0.5 * (0.2 + 1.3 * torch.rand(n, 1, generator=g))
    b = torch.nn.functional.normalize(noise.add_(a), dim=1)
    fresh = int(REPLACED * n)
    b[:fresh] = torch.nn.functional.normalize(torch.randn(fresh, D, generator=g), dim=1)
    norms = torch.randn(n, 1, generator=g).mul(0.6).exp()
    a.mul_(norms)
    b.mul_(norms * torch.randn(n, 1, generator=g).mul(0.15).exp())
    order = torch.randperm(n, generator=g)
    shuffled = torch.empty_like(b)
    shuffled[order] = b
    truth = order.numpy().copy()
    truth[:fresh] = -1
    return Costs(a, shuffled), truth


def dense(costs: Costs) -> np.ndarray:
    """The whole matrix, in float64, as the dense solvers want it."""
    a, b = costs.a.double(), costs.b.double()
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    return squares.addmm_(a, b.T, alpha=-2).numpy()


def measure(method: str, costs: Costs, truth: np.ndarray | None) -> dict[str, Any]:
    """One solution and what it took."""
    found: dict[str, Any] = {}
    matrix = dense(costs) if method in ("lapx", "scipy") else np.empty((0, 0))
    began, cpu = time.perf_counter(), time.process_time()
    if method == "saelab":
        result = assign(costs)
        found |= {"rounds": result.rounds, "edges per row": round(result.edges_per_row, 1)}
        found |= {"relative gap": result.gap / result.cost, "cost": result.cost}
    elif method == "partial":
        rho = null_reject(costs)
        found["null s"] = time.perf_counter() - began
        permutation, found["cost"] = match_partially(costs, rho)
        matched = permutation >= 0
        found |= {"rho": rho, "matched": float(matched.mean())}
        if truth is not None:
            found["true of matched"] = float((permutation == truth)[matched].mean())
            found["found of true"] = float((permutation == truth)[truth >= 0].mean())
            found["matched of replaced"] = float(matched[truth < 0].mean())
    else:
        columns = lap.lapjv(matrix)[1] if method == "lapx" else linear_sum_assignment(matrix)[1]
        found["cost"] = float(costs.edges(np.arange(len(columns)), np.asarray(columns).astype(np.int64)).sum())
    found |= {"s": time.perf_counter() - began, "cpu s": time.process_time() - cpu}
    return found | {"peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def in_process(arguments: list[str], limit: float) -> dict[str, Any]:
    """`measure` in a new process; after `limit` seconds it is given up."""
    try:
        command = [sys.executable, __file__, "one", *arguments]
        text = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=limit, check=True).stdout
    except subprocess.TimeoutExpired:
        return {"s": f"over {limit:.0f}"}
    return json.loads(text.splitlines()[-1])


def show(n: int, method: str, runs: list[dict[str, Any]]) -> None:
    """Medians of the runs, as a line of Markdown."""
    figures = {k: statistics.median(r[k] for r in runs) if len(runs) > 1 else v for k, v in runs[0].items()}
    text = " | ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
    print(f"| {n:,} | {method} | {text} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["decoders", "real", "synthetic", "partial", "one"])
    parser.add_argument("method", nargs="?")
    parser.add_argument("--run", type=Path, default=Path("demo"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--n", type=int)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--batch", type=int, default=2048, help="tokens a step of the decoders' training")
    parser.add_argument("--methods", nargs="+", default=["saelab", "lapx", "scipy"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=3600)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    threads = ["--threads", str(asked.threads)]
    if asked.what == "decoders":
        decoders(asked.run, asked.out, asked.widths, asked.batch)
    elif asked.what == "real":
        for width in asked.widths:
            for method in asked.methods:
                again = 1 if method != "saelab" and width > WIDTHS[0] else asked.repeats
                arguments = [method, "--n", str(width), "--out", str(asked.out), *threads]
                show(width, method, [in_process(arguments, asked.limit) for _ in range(again)])
    elif asked.what == "one":
        torch.set_num_threads(asked.threads)
        costs, truth = synthetic(asked.n) if asked.out is None else (real(asked.out, asked.n), None)
        print(json.dumps(measure(asked.method, costs, truth)))
    else:
        n = asked.n or (65_536 if asked.what == "synthetic" else 131_072)
        method = "saelab" if asked.what == "synthetic" else "partial"
        show(n, method, [in_process([method, "--n", str(n), *threads], asked.limit)])


if __name__ == "__main__":
    main()
