"""How long an SAE takes to open, and how much memory, beside safetensors' own load of the same tensors.

    python benchmarks/loading.py                 (302 MB and 1.2 GB of weights in a temporary folder)

Every figure is a process of its own, the kinds in turn, after one that fills the page cache. safetensors maps the file
and reads nothing until it is used, so its figure is the load and one sum over every tensor. `load_sae` reads every
weight once, to see that it is finite. `ten latents` reads the weights of ten. Peak memory is what the process gained.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

SIZES = {"302 MB": (2304, 16_384), "1.2 GB": (2304, 65_536)}
KINDS = ("safetensors", "load_sae", "ten latents")


def written(folder: Path, d_in: int, d_sae: int) -> None:
    from saelab import save_sae
    from saelab.saes.architectures.jump_relu import JumpReluSae
    from saelab.saes.base import SaeConfig

    g = torch.Generator().manual_seed(0)
    weights = {"W_enc": torch.randn(d_in, d_sae, generator=g), "W_dec": torch.randn(d_sae, d_in, generator=g)}
    weights |= {"b_enc": torch.zeros(d_sae), "b_dec": torch.zeros(d_in), "threshold": torch.ones(d_sae)}
    save_sae(JumpReluSae(SaeConfig(architecture="jumprelu", d_in=d_in, d_sae=d_sae), weights), folder)


def measured(kind: str, folder: Path) -> dict[str, float]:
    from safetensors.torch import load_file

    from saelab import load_latents, load_sae

    before = peak_memory()
    start = time.perf_counter()
    if kind == "safetensors":
        held = load_file(folder / "sae_weights.safetensors")
        assert all(bool(torch.isfinite(t.sum())) for t in held.values())
    elif kind == "load_sae":
        assert load_sae(folder).cfg.d_sae > 0
    else:
        assert load_latents(folder, range(0, 1000, 100))["W_dec"].shape[0] == 10
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak": peak_memory() - before}


def peak_memory() -> int:
    """The most memory that this process has held, in bytes (getrusage would count what its parent held)."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measured(arguments.measure[0], Path(arguments.measure[1]))))
        return
    for name, (d_in, d_sae) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            written(Path(folder), d_in, d_sae)
            size = (Path(folder) / "sae_weights.safetensors").stat().st_size
            found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
            for run in range(arguments.runs + 1):
                for kind in KINDS:
                    command = [sys.executable, __file__, "--measure", kind, folder]
                    record = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                    found[kind] += [record] * (run > 0)
        base = median(r["seconds"] for r in found["safetensors"])
        for kind, records in found.items():
            seconds = sorted(r["seconds"] for r in records)
            print(
                f"{name}, {kind}: {median(seconds):.3f} s ({seconds[0]:.3f} to {seconds[-1]:.3f}), "
                f"{median(seconds) / base:.2f} times safetensors, "
                f"peak {max(r['peak'] for r in records) / size:.2f} times the file"
            )


if __name__ == "__main__":
    main()
