"""Exact and partial matching beside dense solvers: the tables of docs/benchmarks.md.

    python benchmarks/matching.py decoders --run demo --out DIR [--widths 2048 8192 16384] [--batch 2048]
                    TopK SAEs (k 32) at sites 15 and 16, from the activations that `make demo` left
    python benchmarks/matching.py peers --out DIR --python PEERS/bin/python [--families real independent ...]
                    [--widths 2048 4096 8192 16384] [--repeats 5] [--limit 300] [--methods saelab matrix scipy ...]
                    [--minutes 15]    every solver on the same features, in turns; what is measured already is kept in
                    DIR/peers.jsonl, so that the next call goes on; then the table, and which cells are missing
    python benchmarks/matching.py table --out DIR                     the table alone
    python benchmarks/matching.py synthetic [--n 65536]               a full matching of synthetic decoders, d 576
    python benchmarks/matching.py partial [--n 131072]                null-calibrated partial matching of such

Everyone starts from two decoders and ends at a permutation, so the same work is counted: saelab makes and certifies
what it needs; a dense solver needs the matrix, in float64 (`matrix`: two threads, once per repeat), and that and the
solver's own time are added. Every method is a process, which opens its input and warms up, then solves when it is its
turn. Seconds are wall and processor time (all threads); peak memory is the process's. Who needs 20 times as long as
saelab is run once, who is past the limit not at all on more features.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import product
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
PEER_SCRIPT = Path(__file__).with_name("matching_peers.py")
SLOW = 20  # times saelab's seconds: run once
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
    began, cpu = time.perf_counter(), time.process_time()
    if method == "saelab":
        result = assign(costs)
        found |= {"method": result.method, "rounds": result.rounds, "edges per row": round(result.edges_per_row, 1)}
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


def in_process(command: list[str]) -> dict[str, Any]:
    """The figures that a new process prints."""
    return json.loads(subprocess.check_output(command, text=True, input="go\n").splitlines()[-1])


class Worker:
    """A process that solves one problem each time it is asked."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def solve(self, limit: float) -> dict[str, Any]:
        """What it prints; past the limit it is ended."""
        assert self.process.stdin and self.process.stdout
        timer = threading.Timer(limit + 60, self.process.kill)  # a minute to open its input
        timer.start()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        timer.cancel()
        return json.loads(line) if line else {"s": limit, "cpu s": limit, "over": True}

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


Cell = tuple[str, int]


def peers(asked: argparse.Namespace) -> None:
    """Every cell as far as the time goes, then the table."""
    kept, stop = asked.out / "peers.jsonl", time.monotonic() + 60 * asked.minutes
    for family, n in product(asked.families, sorted(asked.widths)):
        if time.monotonic() < stop:
            beside((family, n), asked, kept, stop)
    table(kept, asked)


def beside(cell: Cell, asked: argparse.Namespace, kept: Path, stop: float) -> None:
    """What is missing of one cell, method by method in turns; every figure is written as it comes."""
    family, n = cell
    if not list(missing(cell, asked, read(kept))):
        return
    about = ["--n", str(n), "--family", family, "--out", str(asked.out), "--threads", str(asked.threads)]
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory(dir=asked.out) as folder:
        matrix = str(Path(folder) / "costs.npy")
        ours, peer = [sys.executable, __file__, "one"], [str(asked.python), str(PEER_SCRIPT)]
        if set(asked.methods) & set(PEERS):
            in_process([*ours, "matrix", *about, "--save", matrix])
        for _ in range(asked.repeats):
            turn = list(dict.fromkeys(missing(cell, asked, read(kept))))
            for method in turn:
                if time.monotonic() > stop or method not in missing(cell, asked, read(kept)):
                    continue
                command = [*peer, method, matrix] if method in PEERS else [*ours, method, *about]
                if method not in workers:
                    workers[method] = Worker(command)
                found = {"family": family, "n": n, "solver": method} | workers[method].solve(asked.limit)
                found |= {"load": os.getloadavg()[0], "threads": asked.threads}
                with kept.open("a") as file:
                    file.write(json.dumps(found) + "\n")
                if "over" in found:
                    workers.pop(method).end()
        for worker in workers.values():
            worker.end()


def read(kept: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []


def missing(cell: Cell, asked: argparse.Namespace, known: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The methods that have yet to be run on a cell, once for each time."""
    family, n = cell
    of_family = [k for k in known if k["family"] == family]
    own = [k["s"] for k in of_family if (k["n"], k["solver"]) == (n, "saelab")]
    for method in asked.methods:
        runs = [k for k in of_family if (k["n"], k["solver"]) == (n, method)]
        over = any(k.get("over") and k["solver"] == method and k["n"] <= n for k in of_family)
        slow = bool(runs and own) and runs[0]["s"] > SLOW * own[0]
        if over or slow or (method, family) == ("lapjv", "rectangular"):
            continue
        yield from [method] * (asked.repeats - len(runs))


def table(kept: Path, asked: argparse.Namespace) -> None:
    """Medians as Markdown: seconds by the clock, the fastest dense solver with its matrix, and the ratio to it."""
    known = read(kept)
    print("| n | family | saelab s | fastest dense s | ratio | by processor time | matrix s | solvers s | GB | load |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for n, family in product(sorted(asked.widths), asked.families):
        runs = {m: [k for k in known if (k["family"], k["n"], k["solver"]) == (family, n, m)] for m in asked.methods}
        done = {m: r for m, r in runs.items() if r and not r[0].get("over")}
        if "saelab" not in done or "matrix" not in done:
            continue
        wall, cpu = ({m: statistics.median(k[t] for k in r) for m, r in done.items()} for t in ("s", "cpu s"))
        costs = [k["cost"] for r in done.values() for k in r if "cost" in k]
        if max(costs) - min(costs) > 1e-9 * max(costs):
            print(f"costs differ: {sorted(set(costs))}")
        dense_ones = [m for m in done if m in PEERS]
        best, least = (min(dense_ones, key=t.__getitem__, default=None) for t in (wall, cpu))
        line = [f"{n:,}", family, f"{wall['saelab']:.3g}"]
        if best is not None and least is not None:
            whole, used = wall[best] + wall["matrix"], cpu[least] + cpu["matrix"]
            line += [f"{whole:.3g} ({best})", f"{whole / wall['saelab']:.2f}", f"{used / cpu['saelab']:.2f}"]
        else:
            line += ["", "", ""]
        each = [f"{m} {wall[m]:.3g}" for m in sorted(dense_ones, key=wall.__getitem__)]
        each += [f"{m} over {r[0]['s']:.0f}" for m, r in runs.items() if r and r[0].get("over")]
        peak, load = max(k["peak GB"] for k in done["saelab"]), max(k["load"] for k in done["saelab"])
        line += [f"{wall['matrix']:.3g}", ", ".join(each), f"{peak:.2g}", f"{load:.1f}"]
        print(f"| {' | '.join(line)} |", flush=True)
    left = {(f, n): list(missing((f, n), asked, known)) for f, n in product(asked.families, sorted(asked.widths))}
    for (family, n), methods in left.items():
        if methods:
            print(f"missing: {family} {n:,}: " + ", ".join(f"{m} x{methods.count(m)}" for m in dict.fromkeys(methods)))


def show(n: int, what: str, runs: list[dict[str, Any]]) -> None:
    """Medians of the runs, as a line of Markdown."""
    figures = {k: statistics.median(r[k] for r in runs) if len(runs) > 1 else v for k, v in runs[0].items()}
    text = " | ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
    print(f"| {n:,} | {what} | {text} |", flush=True)


def serve(asked: argparse.Namespace) -> None:
    """Open one problem, and solve it each time a line comes."""
    torch.set_num_threads(asked.threads)
    if asked.family == "replaced":
        costs, truth = synthetic(asked.n)
    else:
        costs, truth = (real(asked.out, asked.n) if asked.family == "real" else made(asked.family, asked.n)), None
    assign(made("independent", 600))  # what is loaded at first use
    for _ in sys.stdin:
        print(json.dumps(measure(asked.method, costs, truth, asked.save)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("what", choices=["decoders", "peers", "table", "synthetic", "partial", "one"])
    parser.add_argument("method", nargs="?")
    parser.add_argument("--run", type=Path, default=Path("demo"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--n", type=int)
    parser.add_argument("--family", default="replaced")
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--batch", type=int, default=2048, help="tokens a step of the decoders' training")
    parser.add_argument("--python", type=Path, help="of the environment with the peers")
    parser.add_argument("--methods", nargs="+", default=["saelab", "matrix", *PEERS])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=300)
    parser.add_argument("--minutes", type=float, default=600, help="after which no solver is begun")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", help="where the matrix is to lie")
    asked = parser.parse_args()
    if asked.what == "decoders":
        decoders(asked.run, asked.out, asked.widths, asked.batch)
    elif asked.what == "peers":
        peers(asked)
    elif asked.what == "table":
        table(asked.out / "peers.jsonl", asked)
    elif asked.what == "one":
        serve(asked)
    else:
        n = asked.n or (65_536 if asked.what == "synthetic" else 131_072)
        method = "saelab" if asked.what == "synthetic" else "partial"
        command = [sys.executable, __file__, "one", method, "--n", str(n), "--threads", str(asked.threads)]
        show(n, method, [in_process(command)])


if __name__ == "__main__":
    main()
