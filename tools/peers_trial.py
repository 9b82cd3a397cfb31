"""SAEs of sae-lens, dictionary_learning, sparsify and saelab, trained alike, judged by one command (docs/evaluate.md).

    python tools/peers_trial.py data WORK                # text in two halves, and SmolLM2's activations on the first
    PYTHON tools/peers_trial.py LIBRARY WORK             # saelab, sae_lens, dictionary_learning, sparsify: in its own
                                                         # environment (pins: benchmarks/training.py)
    python tools/peers_trial.py judge WORK               # on the second half of the text; prints the page's table

d_sae 2,048, L0 32, the same 784 batches of 1,024 from 200,000 tokens of resid_post.15 (four passes in seeded order),
with each library's own learning rate, input scaling and dead-latent loss, warm-ups cut to the run. BatchTopK, but for
sparsify, which has TopK alone. Each SAE is left in its library's own files. Must never be imported by the library.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import training_worker as workers

LM, SITE, HUB_NAME = "smollm2-135m", "resid_post.15", "HuggingFaceTB/SmolLM2-135M-Instruct"
TOKENS, CONTEXT, D_SAE, L0, BATCH, PASSES = 200_000, 128, 2048, 32, 1024, 4
STEPS = PASSES * TOKENS // BATCH + 3


def data(work: Path) -> None:
    """train.jsonl, judged.jsonl, activations.npy."""
    from saelab.activations.site import read_site
    from saelab.lm.model import LanguageModel
    from saelab.text.corpora import CorpusConfig, Document, iter_documents
    from saelab.text.pack import pack_for

    work.mkdir(parents=True, exist_ok=True)
    documents = list(iter_documents(CorpusConfig()))
    for name, half in (("train", documents[0::2]), ("judged", documents[1::2])):
        lines = (json.dumps({"id": d.id, "text": d.text}) for d in half)
        (work / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    lm = LanguageModel.load(LM, dtype="bfloat16")
    text = (Document(d.id, d.text) for d in documents[0::2])
    packed = pack_for(lm, text, context=CONTEXT, n_contexts=TOKENS // (CONTEXT - 1) + 40)
    rows = [read_site(lm, part, SITE).rows for part in packed_parts(packed)]
    np.save(work / "activations.npy", torch.cat(rows)[:TOKENS].float().numpy())


def packed_parts(packed: Any, size: int = 64) -> Any:
    """Some contexts at a time."""
    from dataclasses import replace

    for start in range(0, len(packed.tokens), size):
        here = slice(start, start + size)
        yield replace(packed, tokens=packed.tokens[here], document_ids=packed.document_ids[here])


class Sparsify:
    """sparsify's SparseCoder under the loop of its Trainer.fit: Adam at its rate, unit decoder rows."""

    def __init__(self, s: dict[str, Any], sample: torch.Tensor):
        from sparsify import SparseCoder, SparseCoderConfig
        from transformers import get_linear_schedule_with_warmup

        self.sae = SparseCoder(s["d_in"], SparseCoderConfig(num_latents=s["d_sae"], k=s["l0"]), dtype=torch.float32)
        self.sae.b_dec.data = sample.mean(0)
        self.adam = torch.optim.Adam(self.sae.parameters(), lr=2e-4 / (s["d_sae"] / 2**14) ** 0.5)
        self.schedule = get_linear_schedule_with_warmup(self.adam, s["steps"] // 20, s["steps"])

    def step(self, x: torch.Tensor) -> None:
        if self.sae.cfg.normalize_decoder:
            self.sae.set_decoder_norm_to_unit_norm()
        self.sae(x).fvu.backward()
        if self.sae.cfg.normalize_decoder:
            self.sae.remove_gradient_parallel_to_decoder_directions()
        self.adam.step()
        self.schedule.step()
        self.adam.zero_grad()


def train(library: str, work: Path) -> None:
    """One library's SAE, left in WORK/LIBRARY as that library leaves it."""
    rows = np.load(work / "activations.npy")
    s = {"architecture": "batchtopk", "d_in": rows.shape[1], "d_sae": D_SAE, "l0": L0, "steps": STEPS, "batch": BATCH,
         "device": "cpu", "precision": "auto", "quality": True, "peer_lr": None, "sparse": False}  # fmt: skip
    out = work / library
    sys.argv[3:] = [str(out)]  # where the worker of sae-lens saves
    torch.manual_seed(0)
    kind = (workers.LIBRARIES | {"sparsify": Sparsify})[library]
    trainer = kind(s, torch.from_numpy(rows[:: len(rows) // 8192].copy()))
    stream, began = workers.batches(s, rows), time.perf_counter()
    for step in range(STEPS):
        trainer.step(next(stream))
        if step % 100 == 0:
            print(f"{library}: step {step}, {time.perf_counter() - began:.0f} s", flush=True)
    SAVED[library](trainer, out)


def _save_saelab(trainer: Any, out: Path) -> None:
    from saelab.saes.formats import save_sae

    trainer.finish()
    trainer.sae.cfg = trainer.sae.cfg.model_copy(update={"site": SITE, "lm": LM})
    save_sae(trainer.sae, out)


def _save_sae_lens(trainer: Any, out: Path) -> None:
    meta = trainer.trainer.sae.cfg.metadata
    meta.model_name, meta.hook_name = HUB_NAME, "blocks.15.hook_resid_post"
    trainer.finish()


def _save_dictionary_learning(trainer: Any, out: Path) -> None:
    trainer.finish()
    out.mkdir(parents=True, exist_ok=True)
    torch.save(trainer.sae.state_dict(), out / "ae.pt")
    config = trainer.trainer.config | {"layer": 15, "lm_name": HUB_NAME, "submodule_name": "resid_post_layer_15"}
    (out / "config.json").write_text(json.dumps({"trainer": config}, default=str))


SAVED = {
    "saelab": _save_saelab,
    "sae_lens": _save_sae_lens,
    "dictionary_learning": _save_dictionary_learning,
    "sparsify": lambda trainer, out: trainer.sae.save_to_disk(out / "layers.15"),
}


def judge(work: Path) -> None:
    """The two commands of a user, and what they took."""
    shutil.rmtree(work / "converted", ignore_errors=True)
    subprocess.run(["saelab", "convert", f"path:{work}/dictionary_learning", f"{work}/converted"], check=True)
    places = ["saelab", "sae_lens", "converted", "sparsify/layers.15"]
    began = time.perf_counter()
    command = ["saelab", "evaluate", *(f"path:{work}/{p}" for p in places), "--lm", LM, "--force-lm"]
    subprocess.run([*command, "--text", f"path:{work}/judged.jsonl", "--out", f"{work}/run"], check=True)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    what, place = sys.argv[1], Path(sys.argv[2]).resolve()
    {"data": data, "judge": judge}[what](place) if what in ("data", "judge") else train(what, place)
