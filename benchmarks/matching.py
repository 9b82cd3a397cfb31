"""Exact and partial matching beside dense solvers: the tables of docs/benchmarks.md.

    python benchmarks/matching.py decoders --run demo --out DIR [--widths 2048 8192 16384] [--batch 2048]
                    TopK SAEs (k 32) at sites 15 and 16, from the activations that `make demo` left
    python benchmarks/matching.py peers --out DIR --python PEERS/bin/python [--families real independent ...]
                    [--widths 2048 4096 8192 16384] [--repeats 5] [--limit 300] [--methods saelab scipy ...]
                    every solver on the same features, in turns; the peers in an environment of their own
    python benchmarks/matching.py synthetic [--n 65536]               a full matching of synthetic decoders, d 576
    python benchmarks/matching.py partial [--n 131072]                null-calibrated partial matching of such

Every measurement is a process of its own. Seconds are wall and processor time (all threads); peak memory is the
process's, rows and, for the dense solvers, their cost matrix included. saelab goes from features to a matching with its
certificate; the dense solvers start from the matrix, in float64, whose making is a line of its own. Who needs 20 times
as long as saelab is run once, who is past the limit not at all on more features.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
WIDTHS = (2048, 4096, 8192, 16384)
FAMILIES = ("real", "independent", "clustered 256", "clustered 576", "duplicates", "replaced", "rectangular")
PEERS = ("scipy", "lapx", "lapjv", "laprust", "lapcpp", "fastlap")
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


def made(family: str, n: int) -> Costs:
    """Features of a synthetic family. Most of b are noisy copies of rows of a, in another order."""
    if family == "replaced":
        return synthetic(n)[0]
    d = 256 if family == "clustered 256" else D
    g = torch.Generator().manual_seed(seed_of("benchmark", family, n))
    unit = torch.nn.functional.normalize
    a = unit(torch.randn(n, d, generator=g), dim=1)
    if family == "independent":
        return Costs(a, unit(torch.randn(n, d, generator=g), dim=1))
    if family.startswith("clustered"):
        centres = unit(torch.randn(n // 64, d, generator=g), dim=1)
        a = a.add_(centres[torch.randint(len(centres), (n,), generator=g)], alpha=1.5)
    if family == "duplicates":
        a = a[torch.randint(n // 2, (n,), generator=g)]
        b = a.clone()
        b[: n // 4] = unit(torch.randn(n // 4, d, generator=g), dim=1)
    else:
        b = a + torch.randn(n, d, generator=g) * d**-0.5 * (0.2 + 1.3 * torch.rand(n, 1, generator=g))
    return Costs(a[: 3 * n // 4] if family == "rectangular" else a, b[torch.randperm(n, generator=g)])


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


def measure(method: str, costs: Costs, truth: np.ndarray | None, save: str | None) -> dict[str, Any]:
    """One solution and what it took."""
    found: dict[str, Any] = {}
    matrix = np.empty(0)
    assign(made("independent", 600))  # what is loaded at first use
    began, cpu = time.perf_counter(), time.process_time()
    if method == "saelab":
        result = assign(costs)
        found |= {"rounds": result.rounds, "edges per row": round(result.edges_per_row, 1)}
        found |= {"relative gap": result.gap / result.cost, "cost": result.cost}
    elif method == "matrix":
        matrix = dense(costs)
    else:
        rho = null_reject(costs)
        found["null s"] = time.perf_counter() - began
        permutation, found["cost"] = match_partially(costs, rho)
        matched = permutation >= 0
        found |= {"rho": rho, "matched": float(matched.mean())}
        if truth is not None:
            found["true of matched"] = float((permutation == truth)[matched].mean())
            found["found of true"] = float((permutation == truth)[truth >= 0].mean())
            found["matched of replaced"] = float(matched[truth < 0].mean())
    found |= {"s": time.perf_counter() - began, "cpu s": time.process_time() - cpu}
    if save:
        np.save(save, matrix)
    return found | {"peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def in_process(command: list[str], limit: float) -> dict[str, Any]:
    """The figures that a new process prints; after `limit` seconds it is given up."""
    try:
        text = subprocess.check_output(command, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"s": limit, "over": True}
    return json.loads(text.splitlines()[-1])


def beside(family: str, n: int, asked: argparse.Namespace, too_slow: set[tuple[str, str]]) -> None:
    """One family at one size: every method in turns, and a line of Markdown for each."""
    ours = [sys.executable, __file__, "one"]
    about = ["--n", str(n), "--family", family, "--out", str(asked.out), "--threads", str(asked.threads)]
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        matrix = str(Path(folder) / "costs.npy")
        for repeat in range(asked.repeats):
            for method in ["matrix", *asked.methods]:
                known = runs.setdefault(method, [])
                slow = known and known[0]["s"] > 20 * runs["saelab"][0]["s"]
                if slow or (family, method) in too_slow or (method, family) == ("lapjv", "rectangular"):
                    continue
                peer = [str(asked.python), str(Path(__file__).with_name("matching_peers.py")), method, matrix]
                keep = ["--save", matrix] if method == "matrix" and not repeat else []
                command = [*ours, method, *about, *keep] if method in ("saelab", "matrix") else peer
                known.append(in_process(command, 3600 if method in ("saelab", "matrix") else asked.limit))
                if known[-1].get("over"):
                    too_slow.add((family, method))
    cost = runs["saelab"][0]["cost"]
    for method, known in runs.items():
        for found in known:
            if abs(found.get("cost", cost) - cost) > 1e-9 * cost:
                print(f"{method} has another cost: {found['cost']}", flush=True)
        if known:
            show(n, f"{family} | {method} | {len(known)}", known)


def show(n: int, what: str, runs: list[dict[str, Any]]) -> None:
    """Medians of the runs, as a line of Markdown."""
    figures = {k: statistics.median(r[k] for r in runs) if len(runs) > 1 else v for k, v in runs[0].items()}
    text = " | ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
    print(f"| {n:,} | {what} | {text} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["decoders", "peers", "synthetic", "partial", "one"])
    parser.add_argument("method", nargs="?")
    parser.add_argument("--run", type=Path, default=Path("demo"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--n", type=int)
    parser.add_argument("--family", default="replaced")
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--batch", type=int, default=2048, help="tokens a step of the decoders' training")
    parser.add_argument("--python", type=Path, help="of the environment with the peers")
    parser.add_argument("--methods", nargs="+", default=["saelab", *PEERS])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", help="where the matrix is to lie")
    asked = parser.parse_args()
    if asked.what == "decoders":
        decoders(asked.run, asked.out, asked.widths, asked.batch)
    elif asked.what == "peers":
        too_slow: set[tuple[str, str]] = set()
        for family in asked.families:
            for width in asked.widths:
                beside(family, width, asked, too_slow)
    elif asked.what == "one":
        torch.set_num_threads(asked.threads)
        if asked.family == "replaced":
            costs, truth = synthetic(asked.n)
        else:
            costs, truth = (real(asked.out, asked.n) if asked.family == "real" else made(asked.family, asked.n)), None
        print(json.dumps(measure(asked.method, costs, truth, asked.save)))
    else:
        n = asked.n or (65_536 if asked.what == "synthetic" else 131_072)
        method = "saelab" if asked.what == "synthetic" else "partial"
        command = [sys.executable, __file__, "one", method, "--n", str(n), "--threads", str(asked.threads)]
        show(n, method, [in_process(command, max(asked.limit, 3600))])


if __name__ == "__main__":
    main()
