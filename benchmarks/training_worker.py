"""One trainer of one library in a process of its own, driven by benchmarks/training.py over lines of JSON.

    PYTHON training_worker.py LIBRARY SETTINGS

Runs in the library's own virtual environment, so it imports nothing of saelab unless that is the library. Every
trainer takes the same batches of raw activations; what a library does to its input (scaling) is part of its step. The
libraries' own defaults hold unless `SETTINGS` says otherwise; warm-ups are cut to the length of the run.
"""

import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

Settings = dict[str, Any]
DEAD_TOKENS = 10_000_000  # dictionary_learning's dead window
FAINT = 0.1  # what the encoder rows of latents that count as dead are multiplied by: positive codes, never the largest
LIVE_TOKENS = 200_000  # of the training stream, on which a latent that is not dead fires


class Product:
    """The encoder product alone: the yardstick."""

    def __init__(self, s: Settings, sample: torch.Tensor):
        place = sample.device
        self.weights = torch.randn(s["d_sae"], s["d_in"], device=place)
        self.bias = torch.zeros(s["d_sae"], device=place)
        self.out = torch.empty(s["batch"], s["d_sae"], device=place)

    def step(self, x: torch.Tensor) -> None:
        torch.addmm(self.bias, x, self.weights.T, out=self.out)


class Saelab:
    """saelab's Trainee."""

    def __init__(self, s: Settings, sample: torch.Tensor):
        from saelab.saes.catalogue import training_config
        from saelab.training.inputs import scaling_of
        from saelab.training.step import Trainee
        from saelab.training.sweep import resolve

        extra = {} if s["quality"] else {"dead_tokens": DEAD_TOKENS}
        extra |= s["options"]
        cfg = training_config(s["architecture"], level=s["l0"], d_in=s["d_in"], d_sae=s["d_sae"], **extra)
        self.scaling = scaling_of([sample])  # on the sample's device, and so are the weights
        dtype = resolve(s["precision"], s["device"])
        self.trainee = Trainee(cfg, self.scaling(sample[: s["batch"]]), steps=s["steps"], seed=s["seed"], dtype=dtype)

    def bury(self, dead: torch.Tensor) -> None:
        self.trainee.weights.encoder[dead] *= FAINT

    def hold(self, dead: torch.Tensor) -> None:
        self.trainee.silent.zero_()[dead] = DEAD_TOKENS

    def step(self, x: torch.Tensor) -> None:
        self.figures = self.trainee.step(self.scaling(x))

    def l0(self) -> float:
        return self.figures.l0

    def finish(self) -> None:
        self.sae = self.trainee.finish(self.scaling)


class DictionaryLearning:
    """dictionary_learning's trainers, inputs divided by their root mean square as its training loop does."""

    def __init__(self, s: Settings, sample: torch.Tensor):
        from dictionary_learning.trainers import batch_top_k, gdm, jumprelu, matryoshka_batch_top_k, standard, top_k

        steps, l0 = s["steps"], s["l0"]
        common = {"steps": steps, "activation_dim": s["d_in"], "dict_size": s["d_sae"], "layer": 15, "lm_name": "x"}
        common |= {
            "device": s["device"],
            "warmup_steps": max(1, steps // 20),
            "decay_start": int(0.8 * steps),
            "seed": 0,
        }
        common |= {"lr": s["peer_lr"]} if s["peer_lr"] else {}
        ramp = {"sparsity_warmup_steps": max(1, steps // 10)}
        kept = {"k": l0, "threshold_start_step": steps // 2}
        groups = {"group_fractions": [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]}
        self.trainer: Any = {
            "relu": lambda: standard.StandardTrainer(**common, **ramp),
            "gated": lambda: gdm.GatedSAETrainer(**common, **ramp),
            "topk": lambda: top_k.TopKTrainer(**common, **kept),
            "batchtopk": lambda: batch_top_k.BatchTopKTrainer(**common, **kept),
            "jumprelu": lambda: jumprelu.JumpReluTrainer(**common, **ramp, target_l0=float(l0)),
            "matryoshka": lambda: matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer(**common, **kept, **groups),
        }[s["architecture"]]()
        self.norm = float(sample.square().sum(1).mean().sqrt())
        self.done, self.x = 0, sample

    def step(self, x: torch.Tensor) -> None:
        self.x = x / self.norm
        self.trainer.update(self.done, self.x)
        self.done += 1

    def bury(self, dead: torch.Tensor) -> None:
        self.trainer.ae.encoder.weight.data[dead] *= FAINT

    def hold(self, dead: torch.Tensor) -> None:
        self.trainer.num_tokens_since_fired.zero_()[dead] = self.trainer.dead_feature_threshold

    def l0(self) -> float:
        with torch.no_grad():
            return float((self.trainer.ae.encode(self.x[:256]) > 0).sum(1).float().mean())

    def finish(self) -> None:
        self.sae = self.trainer.ae.cpu()
        self.sae.scale_biases(self.norm)


class SaeLens:
    """SAELens' SAETrainer.step, inputs scaled to mean norm sqrt(d)."""

    def __init__(self, s: Settings, sample: torch.Tensor):
        from sae_lens import saes
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        steps, width, lr = s["steps"], s["d_sae"], s["peer_lr"] or 3e-4
        shape = {"d_in": s["d_in"], "d_sae": width, "device": s["device"], "dtype": "float32"}
        shape |= {"normalize_activations": "expected_average_only_in"}
        widths = [width // n for n in (16, 8, 4, 2, 1)]
        l0 = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": float(s["l0"])}
        kind, own = {
            "relu": ("Standard", {"l1_coefficient": 5.0, "l1_warm_up_steps": max(1, steps // 20)}),
            "gated": ("Gated", {"l1_coefficient": 5.0, "l1_warm_up_steps": max(1, steps // 20)}),
            "topk": ("TopK", {"k": s["l0"], "use_sparse_activations": s["sparse"]}),
            "batchtopk": ("BatchTopK", {"k": s["l0"]}),
            "jumprelu": ("JumpReLU", {**l0, "l0_warm_up_steps": max(1, steps // 10)}),
            "matryoshka": ("MatryoshkaBatchTopK", {"k": s["l0"], "matryoshka_widths": widths}),
        }[s["architecture"]]
        sae = getattr(saes, f"{kind}TrainingSAE")(getattr(saes, f"{kind}TrainingSAEConfig")(**shape, **own))
        config = SAETrainerConfig(
            total_training_samples=steps * s["batch"],
            train_batch_size_samples=s["batch"],
            lr_decay_steps=steps // 5,
            lr=lr,
            lr_end=lr / 10,
            device=s["device"],
            logger=LoggingConfig(log_to_wandb=False),
        )
        self.trainer: Any = SAETrainer(config, sae, iter(()))
        self.trainer.activation_scaler.scaling_factor = s["d_in"] ** 0.5 / float(sample.norm(dim=1).mean())

    def step(self, x: torch.Tensor) -> None:
        self.output = self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def bury(self, dead: torch.Tensor) -> None:
        self.trainer.sae.W_enc.data[:, dead] *= FAINT

    def hold(self, dead: torch.Tensor) -> None:
        self.trainer.n_forward_passes_since_fired.zero_()[dead] = self.trainer.cfg.dead_feature_window + 1

    def l0(self) -> float:
        return float(self.output.feature_acts.to_dense().bool().float().sum(1).mean())

    def finish(self) -> None:
        from sae_lens.saes import SAE

        sae = self.trainer.sae
        sae.fold_activation_norm_scaling_factor(self.trainer.activation_scaler.scaling_factor)
        folder = Path(sys.argv[3])
        sae.save_inference_model(folder)
        self.sae = SAE.load_from_disk(folder)


class Sparsify:
    """sparsify's SparseCoder under Adam, with the loss and the order of its Trainer's step (TopK alone)."""

    def __init__(self, s: Settings, sample: torch.Tensor):
        from sparsify import SparseCoder, SparseCoderConfig

        self.sae: Any = SparseCoder(s["d_in"], SparseCoderConfig(num_latents=s["d_sae"], k=s["l0"]), s["device"])
        self.adam = torch.optim.Adam(self.sae.parameters(), lr=2e-4 / (s["d_sae"] / 2**14) ** 0.5)
        self.sae.b_dec.data = sample.mean(0)
        self.mask = torch.zeros(s["d_sae"], dtype=torch.bool, device=sample.device)

    def bury(self, dead: torch.Tensor) -> None:
        self.sae.encoder.weight.data[dead] *= FAINT

    def hold(self, dead: torch.Tensor) -> None:
        self.mask[dead] = True

    def step(self, x: torch.Tensor) -> None:
        self.sae.set_decoder_norm_to_unit_norm()
        out = self.sae(x, dead_mask=self.mask)
        (out.fvu + out.auxk_loss / 32).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.adam.step()
        self.adam.zero_grad()

    def l0(self) -> float:
        return float(self.sae.cfg.k)


MODULES = {"saelab": "saelab.training.sweep", "sae_lens": "sae_lens.training.sae_trainer"}
MODULES |= {"dictionary_learning": "dictionary_learning.trainers.batch_top_k", "product": "torch"}
MODULES |= {"sparsify": "sparsify"}
LIBRARIES = {
    "sparsify": Sparsify,
    "product": Product,
    "saelab": Saelab,
    "dictionary_learning": DictionaryLearning,
    "sae_lens": SaeLens,
}


def steer(trainer: Any, target: int) -> None:
    """Set a peer's L1 coefficient for the next step so that its L0 goes to the target (they have no such control)."""
    error = float(np.clip(np.log(max(trainer.l0(), 1e-3) / target), -1, 1))
    if isinstance(trainer, DictionaryLearning):
        trainer.log_c = getattr(trainer, "log_c", np.log(trainer.trainer.l1_penalty)) + 0.03 * error
        trainer.trainer.l1_penalty = float(np.exp(trainer.log_c + error))
    else:
        scheduler = trainer.trainer.coefficient_schedulers["l1"]
        trainer.log_c = getattr(trainer, "log_c", np.log(scheduler.final_value)) + 0.03 * error
        scheduler.final_value = float(np.exp(trainer.log_c + error))


def memory(field: str) -> int:
    """A field of this process's memory in MiB."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) >> 10


def wait(device: str) -> None:
    """Until what was asked of an accelerator is done."""
    if device != "cpu":
        torch.cuda.synchronize()


def batches(s: Settings, rows: np.ndarray) -> Any:
    """The same batches for every library: pass after pass in seeded order."""
    generator, order = np.random.default_rng(0), np.empty(0, dtype=np.int64)
    while True:
        if len(order) < s["batch"]:
            order = np.concatenate([order, generator.permutation(len(rows))])
        taken, order = order[: s["batch"]], order[s["batch"] :]
        yield torch.from_numpy(rows[taken])


@torch.no_grad()
def evaluate(trainer: Any, train: np.ndarray, held: np.ndarray, out: str, k: int | None = None) -> dict[str, float]:
    """Reconstruct held-out rows to `out`; L0, and the share of latents that fire on them or on `LIVE_TOKENS` more.

    On the CPU: `finish` leaves every library's SAE there, as `sae`. k: another level that saelab's is read at.
    """
    trainer.finish()
    sae = trainer.sae if k is None else trainer.sae.keeping(k)
    found, counts = [], torch.zeros((), dtype=torch.int64)
    for x in parts(held):
        z = sae.encode(x)
        found.append(sae.decode(z).float())
        counts = counts + (z > 0).sum(0)
    np.save(out, torch.cat(found).numpy())
    often, l0 = float((counts > 0).float().mean()), float(counts.sum()) / len(held)
    for x in parts(train[-LIVE_TOKENS:]):
        counts = counts + (sae.encode(x) > 0).sum(0)
    return {"l0": l0, "often": often, "live": float((counts > 0).float().mean())}


def parts(rows: np.ndarray) -> Iterator[torch.Tensor]:
    """Rows, 1,024 at a time."""
    for start in range(0, len(rows), 1024):
        yield torch.from_numpy(rows[start : start + 1024].copy())


def main() -> None:
    """Answer commands: `step`, `memory`, `evaluate`."""
    library, s = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(s["threads"])
    # Two million rows stay in the file; where memory is measured they are read before the measurement begins.
    rows = np.load(s["activations"], mmap_mode="r" if s["quality"] else None)
    train, held = rows[: len(rows) - s["held_out"]], rows[len(rows) - s["held_out"] :]
    stream = batches(s, train)
    device = s["device"]
    sample = torch.from_numpy(train[:: max(1, len(train) // 8192)].copy()).to(device)
    steered = s["quality"] and s["architecture"] in ("relu", "gated") and library in ("dictionary_learning", "sae_lens")
    importlib.import_module(MODULES[library])
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here: without imports and data
    before = memory("VmRSS")
    trainer = LIBRARIES[library](s, sample)
    buried = torch.from_numpy(np.random.default_rng(1).permutation(s["d_sae"])[: round(s["dead"] * s["d_sae"])])
    if len(buried):
        trainer.bury(buried)
    print(json.dumps({}), flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        answer: dict[str, Any] = {}
        if ask["do"] == "step":
            x = next(stream).to(device)
            if len(buried):
                trainer.hold(buried)
            wait(device)
            began, cpu = time.perf_counter(), time.process_time()
            trainer.step(x)
            wait(device)
            answer["cpu"] = time.process_time() - cpu
            answer["seconds"] = time.perf_counter() - began
            if steered:
                steer(trainer, s["l0"])
        elif ask["do"] == "figures":
            on_device = torch.cuda.max_memory_allocated() >> 20 if device != "cpu" else None
            answer["peak"] = memory("VmHWM") - before if on_device is None else on_device
            answer["l0"] = trainer.l0() if library != "product" else None
        elif ask["do"] == "evaluate":
            answer |= evaluate(trainer, train, held, ask["out"], ask["k"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
