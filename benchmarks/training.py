"""Training beside the peers: step times, memory, and what the SAEs are worth. The numbers of docs/benchmarks.md.

    python benchmarks/training.py --activations FILE.npy --dictionary-learning PYTHON --sae-lens PYTHON
        [--architectures topk batchtopk ...] [--steps 40] [--d-sae 16384] [--l0 80] [--threads 2] [--quality]
    python benchmarks/training.py --dead --activations FILE.npy [--sparsify PYTHON and the others]
    python benchmarks/training.py --harvest 1024 --activations FILE.npy
    python benchmarks/training.py --many 30 --activations RUN/activations/LM/SITE --d-sae 2048 --steps 40

Each library runs in its own virtual environment (`pip install torch==2.13.0` first, then dictionary-learning==0.1.0,
sae-lens==6.54.12 or eai-sparsify==1.3.3) as a worker process (training_worker.py) that does nothing until asked; they
are asked in turns, one step each, so that whatever else the machine does falls on all of them. Processor time is given
beside elapsed time: on a machine shared with other work only the former says what a step costs. `--harvest` writes
float32 activations of SmolLM2-135M at `--site` from the embedded corpus. `--many` trains so many SAEs side by side from
a run's stored activations and says what share of the processor time goes to anything but their own steps. `--dead` says
what AuxK costs: steps with shares of the latents counted as dead, beside one with none (`--architectures topk`).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import torch

PEERS = ("dictionary_learning", "sae_lens")
SHARES = (0.0, 0.05, 0.2, 0.6, 0.95)  # of dead latents
ARCHITECTURES = ("topk", "batchtopk", "relu", "gated", "jumprelu", "matryoshka")
WORKER = Path(__file__).with_name("training_worker.py")


class Worker:
    """A library's process."""

    def __init__(self, python: str, library: str, settings: dict[str, Any], folder: Path):
        self.library = library
        place = folder / f"{library}.sae"
        command = [python, "-W", "ignore", str(WORKER), library, json.dumps(settings), str(place)]
        env = os.environ | {"OMP_WAIT_POLICY": "passive"}  # waiting is not work: it must not count as processor time
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.seconds: list[float] = []  # elapsed, per step
        self.cpu: list[float] = []  # of processor time, on all threads
        self._answer()

    def ask(self, **what: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def step(self) -> None:
        """One optimiser step."""
        found = self.ask(do="step")
        self.seconds.append(found["seconds"])
        self.cpu.append(found["cpu"])

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries print too
                return json.loads(line)
        raise SystemExit(f"the worker of {self.library} ended")


def median_of(worker: Worker, *, cpu: bool = False, whole: bool = False) -> float:
    """Median seconds of a step over the second half of the run, or the whole; elapsed or of processor time."""
    seconds = worker.cpu if cpu else worker.seconds
    return statistics.median(seconds if whole else seconds[len(seconds) // 2 :])


def speed(asked: argparse.Namespace, architecture: str) -> None:
    """One row of the table of speeds."""
    workers = start(asked, architecture, ("product", "saelab", *PEERS))
    began = time.monotonic()
    for _ in range(asked.steps):
        for worker in workers.values():
            worker.step()
        if time.monotonic() - began > asked.minutes * 60:
            break
    steps = len(workers["saelab"].seconds)
    figures = {name: worker.ask(do="figures") for name, worker in workers.items()}
    for worker in workers.values():
        worker.close()
    own, peers = workers["saelab"], [workers[p] for p in PEERS if p in workers]
    cells = [architecture, str(steps)] + [f"{1000 * median_of(w, cpu=True):,.0f}" for w in workers.values()]
    for how in ({"cpu": True}, {"cpu": True, "whole": True}, {}, {"whole": True}):
        cells.append(f"{min(median_of(p, **how) for p in peers) / median_of(own, **how):.2f}" if peers else "-")
    cells.append(f"{median_of(own, cpu=True) / median_of(workers['product'], cpu=True):.2f}")
    cells += [f"{figures[name]['peak']:,}" for name in workers if name != "product"]
    lean = min((figures[p.library]["peak"] for p in peers), default=0)
    cells.append(f"{figures['saelab']['peak'] / lean:.0%}" if lean else "-")
    cells.append(f"{figures['saelab']['l0']:.0f}")
    print("| " + " | ".join(cells) + " |", flush=True)


def dead(asked: argparse.Namespace, architecture: str) -> None:
    """A row per library of what a step costs beside one without dead latents, all shares in turns."""
    for library in ("saelab", *PEERS, "sparsify"):
        workers = [w for s in SHARES for w in start(asked, architecture, (library,), dead=s).values()]
        if not workers:
            continue
        for _ in range(asked.steps):
            for worker in workers:
                worker.step()
        peak = max(worker.ask(do="figures")["peak"] for worker in workers)
        for worker in workers:
            worker.close()
        cells = [architecture, library]
        for how in ({"cpu": True}, {}):
            times = [median_of(worker, **how) for worker in workers]
            cells += [f"{1000 * times[0]:,.0f}", *(f"{t / times[0]:.2f}" for t in times[1:])]
        print("| " + " | ".join([*cells, f"{peak:,}"]) + " |", flush=True)


def quality(asked: argparse.Namespace, architecture: str) -> None:
    """Rows of the table of quality: the same tokens, the same number of steps, the same L0."""
    workers = start(asked, architecture, ("saelab", *PEERS))
    folder = Path(tempfile.mkdtemp())
    rows = np.load(asked.activations, mmap_mode="r")
    held = torch.from_numpy(rows[len(rows) - asked.held_out :].copy())
    variance = (held - held.mean(0)).square().sum()
    for name, worker in workers.items():
        for _ in range(asked.steps):
            worker.step()
        out = folder / f"{name}.npy"
        for k in (None, *asked.read_at):
            found = worker.ask(do="evaluate", out=str(out), k=k)
            error = (torch.from_numpy(np.load(out)) - held).square().sum()
            cells = [architecture, name, f"{found['l0']:.1f}", f"{float(error / variance):.4f}"]
            cells += [f"{found['live']:.1%}", f"{found['often']:.1%}"]
            if asked.tokens is not None:
                cells.append(f"{recovered(asked, out):.4f}")
            print("| " + " | ".join(cells) + " |", flush=True)
        worker.close()


def recovered(asked: argparse.Namespace, reconstruction: Path) -> float:
    """Share of the cross-entropy that ablating the site to its mean costs and the reconstruction gives back."""
    from saelab.lm.model import LanguageModel
    from saelab.lm.score import following_nll

    stored = torch.load(asked.tokens, weights_only=True)
    tokens, kept, site = stored["tokens"].long(), stored["counts"], stored["site"]
    rows = torch.from_numpy(np.load(reconstruction)).split(kept.sum(1).tolist())
    lm = LanguageModel.load("smollm2-135m")
    losses = torch.zeros(3, dtype=torch.float64)  # clean, ablated, spliced
    with torch.inference_mode():
        for ids, where, rebuilt in zip(tokens, kept, rows, strict=True):
            ids, clean = ids[None], lm.run_to(ids[None], [site])[site]
            for i, values in enumerate((clean[0, where], stored["mean"], rebuilt)):
                hidden = clean.clone()
                hidden[0, where] = values.to(hidden.dtype)
                losses[i] += float(following_nll(lm.run_from(hidden, site), ids, where[None]).sum())
    clean, ablated, spliced = losses.tolist()
    return (ablated - spliced) / (ablated - clean)


def many(asked: argparse.Namespace) -> None:
    """SAEs of all architectures on one stream: reading, shuffling, scaling, metrics and writing beside their steps."""
    from saelab.activations.shards import ActivationShards
    from saelab.saes.catalogue import training_config
    from saelab.training.config import TrainingConfig
    from saelab.training.run import run
    from saelab.training.step import Figures, Trainee

    torch.set_num_threads(asked.threads)
    spent: list[float] = []  # of each step, by the thread that takes it
    step = Trainee.step

    def timed(self: Trainee, x: torch.Tensor) -> Figures:
        began = time.thread_time()
        figures = step(self, x)
        spent.append(time.thread_time() - began)
        return figures

    Trainee.step = timed
    shards = ActivationShards(Path(asked.activations))
    names = [ARCHITECTURES[i % len(ARCHITECTURES)] for i in range(asked.many)]
    levels = [8 << (i // len(ARCHITECTURES)) for i in range(asked.many)]
    shape = {"d_in": shards.d, "d_sae": asked.d_sae}
    configs = {f"{n}.{k}": training_config(n, level=k, **shape) for n, k in zip(names, levels, strict=True)}
    config = TrainingConfig(steps=asked.steps, batch=asked.batch, precision=asked.precision)
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.monotonic(), time.process_time()
        run(config, configs, shards, saes=Path(folder) / "saes", folder=Path(folder) / "training")
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    print(
        f"{len(configs)} SAEs, {asked.steps} steps of {asked.batch:,}: {seconds:.0f} s, {cpu:.0f} s of processor time,"
    )
    print(f"{sum(spent):.0f} s of it in steps: {cpu / sum(spent) - 1:.1%} beside them")


def start(
    asked: argparse.Namespace, architecture: str, libraries: tuple[str, ...], dead: float = 0.0
) -> dict[str, Worker]:
    """The workers of the libraries that have a python. dead: the share of latents that count as dead."""
    settings = {
        "architecture": architecture,
        "activations": str(asked.activations),
        "held_out": asked.held_out,
        "d_in": int(np.load(asked.activations, mmap_mode="r").shape[1]),
        "quality": asked.quality,
        "dead": dead,
        "options": json.loads(asked.options),
        **{
            name: getattr(asked, name)
            for name in ("d_sae", "l0", "batch", "steps", "threads", "precision", "device", "sparse", "peer_lr", "seed")
        },
    }
    pythons = {"saelab": sys.executable, "product": sys.executable}
    pythons |= {name: getattr(asked, name) for name in (*PEERS, "sparsify") if getattr(asked, name)}
    folder = Path(tempfile.mkdtemp())
    return {name: Worker(pythons[name], name, settings, folder) for name in libraries if name in pythons}


def harvest(asked: argparse.Namespace) -> None:
    """Write float32 activations, and the tokens of the held-out rows (the last) for the cross-entropy."""
    from saelab.activations.harvest import HarvestConfig
    from saelab.activations.harvest import harvest as harvested
    from saelab.cli.progress import JsonLines
    from saelab.lm.model import LanguageModel
    from saelab.text.corpora import CorpusConfig, iter_documents
    from saelab.text.pack import pack_for

    torch.set_num_threads(asked.threads)
    lm = LanguageModel.load("smollm2-135m", dtype=asked.lm_dtype)
    documents, separator = iter_documents(CorpusConfig()), lm.tokenizer.eos_token_id
    packed = pack_for(lm, documents, context=128, n_contexts=asked.harvest, separator_id=separator)
    folder = Path(asked.activations).with_suffix(".shards")  # stays where the harvest is killed, which then goes on
    config, progress = HarvestConfig(dtype="float32"), JsonLines(sys.stderr)
    shards = harvested(lm, packed, [asked.site], folder, config=config, progress=progress)[asked.site]
    index, mean = shards.index, shards.moments.mean
    # Shard by shard into the file: two million rows would be held twice.
    rows = np.lib.format.open_memmap(asked.activations, "w+", np.float32, (len(index), shards.d))
    at = 0
    for k in range(len(shards.manifest.shards)):
        part = shards.read(k).rows.numpy()
        rows[at : at + len(part)] = part
        at += len(part)
    rows.flush()
    rmtree(folder)
    first = int(index[len(rows) - asked.held_out, 0]) + 1  # the held-out rows from the next whole context on
    held = index[:, 0] >= first
    counts = torch.zeros_like(packed.tokens, dtype=torch.bool)
    counts[index[held, 0].long(), index[held, 1].long()] = True
    out = Path(asked.activations).with_suffix(".tokens.pt")
    kept = {"tokens": packed.tokens[first:], "counts": counts[first:], "mean": mean.float(), "site": asked.site}
    torch.save(kept, out)
    print(f"{len(rows):,} rows; give --held-out {int(held.sum())} --tokens {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", required=True)
    parser.add_argument("--dictionary-learning", help="python of its virtual environment")
    parser.add_argument("--sae-lens", help="python of its virtual environment")
    parser.add_argument("--sparsify", help="python of its virtual environment, for --dead")
    parser.add_argument("--dead", action="store_true", help="what a step costs with dead latents")
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--harvest", type=int, help="contexts of 128 tokens to harvest first")
    parser.add_argument("--site", default="resid_post.15", help="to harvest")
    parser.add_argument("--lm-dtype", default="float32", help="of the LM that is harvested from")
    parser.add_argument("--tokens", help="the file --harvest writes beside the activations")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--device", default="cpu", help="cpu or cuda; peak memory is then the device's")
    parser.add_argument("--many", type=int, help="SAEs to train side by side; --activations is a run's folder then")
    parser.add_argument("--minutes", type=float, default=1e9, help="most time for one architecture")
    for name, value in {
        "steps": 40,
        "d-sae": 16384,
        "l0": 80,
        "batch": 2048,
        "threads": 2,
        "held-out": 4096,
        "seed": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--options", default="{}", help="further settings of saelab's training config, as JSON")
    parser.add_argument("--read-at", type=int, nargs="*", default=[], help="of saelab's TopK: levels to read it at too")
    parser.add_argument("--peer-lr", type=float, help="the peers' learning rate; by default each one's own")
    parser.add_argument("--sparse", action="store_true", help="sae-lens' own sparse activations (TopK only)")
    asked = parser.parse_args()
    if asked.harvest:
        return harvest(asked)
    if asked.many:
        return many(asked)
    names = [p for p in PEERS if getattr(asked, p)]
    if asked.dead:
        shares = " | ".join(f"{s:.0%}" for s in SHARES[1:])
        print(f"| architecture | library | none dead, ms | {shares} | elapsed: none dead, ms | {shares} | peak, MiB |")
    elif asked.quality:
        print(
            "| architecture | library | L0 | FVU | live | live on the held-out |"
            + (" CE recovered |" if asked.tokens else "")
        )
    else:
        milliseconds = " | ".join(f"{n}, ms" for n in ("product", "saelab", *names))
        memory = " | ".join(f"{n}, MiB" for n in ("saelab", *names))
        ratios = "ratio | whole run | elapsed | elapsed, whole run | saelab / product"
        print(f"| architecture | steps | {milliseconds} | {ratios} | {memory} | of the leaner | L0 |")
        print("ms: median processor time of a step, second half; ratio: faster peer / saelab", file=sys.stderr)
    for architecture in asked.architectures:
        (dead if asked.dead else quality if asked.quality else speed)(asked, architecture)


if __name__ == "__main__":
    main()
