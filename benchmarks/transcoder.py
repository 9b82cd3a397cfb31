"""A transcoder of one MLP of SmolLM2 beside an SAE of the same MLP's output: FVU and cross-entropy at one L0, one seed.

    python benchmarks/transcoder.py [--layer 15] [--contexts 512] [--steps 1200]

Both are TopK with k = 32 and 2,048 latents, on the same tokens. FVU is of mlp_out; CE recovered counts from the MLP's
output set to zero, on held-out text.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from saelab.activations.harvest import harvest
from saelab.activations.pairs import PairedShards
from saelab.activations.site import read_site, spliced_ce
from saelab.interp.fidelity.measures import baselines_of
from saelab.lm.model import LanguageModel
from saelab.saes.catalogue import training_config
from saelab.text.corpora import CorpusConfig, DocumentCounts, iter_documents
from saelab.text.pack import pack_split
from saelab.training.sweep import train, train_transcoders

K, D_SAE, BATCH, HELD_OUT = 32, 2048, 1024, 16


def main() -> None:
    """Harvest both sites in one pass, train both, and print the table."""
    parser = argparse.ArgumentParser()
    for name, usual in (("layer", 15), ("contexts", 512), ("steps", 1200)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    asked = parser.parse_args()
    read, written = f"mlp_in.{asked.layer}", f"mlp_out.{asked.layer}"
    lm = LanguageModel.load("smollm2-135m", dtype="auto")
    documents = iter_documents(CorpusConfig(), DocumentCounts())
    text, held_out = pack_split(lm, documents, context=128, n_contexts=asked.contexts, n_held_out=HELD_OUT)
    with tempfile.TemporaryDirectory() as folder:
        shards = harvest(lm, text, [read, written], Path(folder))
        pair = PairedShards(shards[read], shards[written])
        print(f"{pair.n:,} rows", flush=True)
        own = {"level": K, "d_sae": D_SAE}
        sizes = {"steps": asked.steps, "batch": BATCH}
        across = training_config("topk", d_in=shards[read].d, d_out=shards[written].d, **own)
        found = train_transcoders([across], pair, **sizes)[0]
        sae = train([training_config("topk", d_in=shards[written].d, **own)], shards[written], **sizes)[0]
    lm = lm.to_dtype("float32")
    x, y = (read_site(lm, held_out, site) for site in (read, written))
    kept = x.kept & y.kept
    base = baselines_of(lm, y)
    print(f"CE {base.clean:.3f} clean, {base.zero_ablated:.3f} with the MLP's output zero")
    print("| | L0 | FVU of mlp_out | CE | CE recovered |\n|---|---|---|---|---|")
    target = y.hidden[kept]
    for name, codes, rebuilt in (
        ("transcoder", found.encode(x.hidden[kept]), found(x.hidden[kept])),
        ("SAE of mlp_out", sae.encode(target), sae(target)),
    ):
        fvu = float((rebuilt - target).square().sum() / (target - target.mean(0)).square().sum())
        hidden = y.hidden.clone()
        hidden[kept] = rebuilt
        ce = spliced_ce(lm, type(y)(written, y.tokens, hidden, kept, y.scored, y.batch_size, y.stream), None)
        l0 = float((codes > 0).float().sum(1).mean())
        print(f"| {name} | {l0:.1f} | {fvu:.3f} | {ce:.3f} | {base.recovered(ce)[1]:.3f} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
