"""What text and harvest cost and give on the real SmolLM2-135M: the numbers of docs/data.md.

    python benchmarks/harvest.py [--contexts 512] [--threads 2] [--sites 14 15 16]
    python benchmarks/harvest.py --stream 2000000 --tiny     # memory of training from the stream

Prints the sets of the embedded corpus, tokens/s of a harvest in bfloat16 and float32, how many positions are attention
sinks and how large, what bfloat16 weights do to the activations, and the rate of shuffled batches. With --stream an SAE
is trained as the LM runs (--tiny: a random LM of width 64), and the memory of the process is printed on the way.
"""

import argparse
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from saelab.activations.harvest import harvest
from saelab.activations.live import open_stream
from saelab.activations.shards import ActivationShards
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.saes.catalogue import training_config
from saelab.text.corpora import CorpusConfig, Document, iter_documents
from saelab.text.embedded import CODE_CHARACTERS, SETS
from saelab.text.pack import PackedText, pack_for
from saelab.training.sweep import train

SAMPLE = 100  # documents per set whose tokens are counted


def corpus(lm: LanguageModel) -> list[Document]:
    began = time.perf_counter()
    documents = list(iter_documents(CorpusConfig()))
    print(f"embedded corpus read in {time.perf_counter() - began:.1f} s: {len(documents):,} documents")
    by_set: dict[str, list[str]] = {name: [] for name in SETS}
    for document in documents:
        by_set[document.id.split("/")[0]].append(document.text)
    tokens = Counter[str]()
    print(f"{'set':30}{'documents':>10}{'characters':>12}{'tokens':>10}")
    for name, texts in by_set.items():
        some = texts[:SAMPLE]
        rate = sum(map(len, lm.tokenize(some, bos=False))) / sum(map(len, some))
        tokens[name] = round(rate * sum(map(len, texts)))
        print(f"{name:30}{len(texts):>10,}{sum(map(len, texts)):>12,}{tokens[name]:>10,}")
    code = sum(n for name, n in tokens.items() if SETS[name] == CODE_CHARACTERS)
    print(f"about {tokens.total():,} tokens, {code / tokens.total():.0%} of them code")
    return documents


def rates(lm: LanguageModel, packed: PackedText, sites: list[str]) -> None:
    for dtype in ("bfloat16", "float32"):
        model = lm if dtype == "float32" else lm.to_dtype(dtype)
        with tempfile.TemporaryDirectory() as folder:
            began, cpu = time.perf_counter(), time.process_time()
            found = harvest(model, packed, sites, folder)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            tokens = packed.tokens.numel()
            print(f"{dtype}: {tokens / seconds:,.0f} tokens/s, {tokens / cpu:,.0f} per second of processor time")
            for shards in found.values():
                describe(shards)
            began, steps = time.perf_counter(), 200
            for _ in found[sites[0]].batches(2048, steps=steps):
                pass
            print(f"  batches of 2,048 rows: {steps * 2048 / (time.perf_counter() - began):,.0f} rows/s with loading")


def describe(shards: ActivationShards) -> None:
    counts, moments = shards.counts, shards.moments
    share = 1e4 * counts.sinks / (counts.positions - counts.special)
    print(
        f"  {shards.site}: {counts.rows:,} rows, {share:.1f} sinks per 10,000, largest {counts.largest_norm:.0f} x the "
        f"median norm {shards.manifest.median_norm:.0f}; "
        f"variance / mean square {moments.variance / moments.mean_square:.2f}"
    )


def bfloat16_effect(lm: LanguageModel, packed: PackedText, sites: list[str]) -> None:
    tokens, counts = packed.tokens[:32].long(), packed.counts[:32]
    full, half = lm.run_to(tokens, sites), lm.to_dtype("bfloat16").run_to(tokens, sites)
    for site in sites:
        x, y = full[site][counts], half[site][counts].float()
        norms = x.norm(dim=1)
        kept = norms < 10 * norms.median()
        error = (x - y)[kept]
        relative = error.norm(dim=1) / norms[kept]
        share = error.square().sum() / (x[kept] - x[kept].mean(0)).square().sum()
        print(
            f"  {site}: bfloat16 weights move an activation by {relative.median():.2%} (median; 99th percentile "
            f"{relative.quantile(0.99):.2%}), {share:.2%} of the variance"
        )


def stream(lm: LanguageModel, packed: PackedText, site: str, tokens: int, batch: int = 1024) -> None:
    """Train one TopK SAE on so many tokens; memory at eight points."""
    live, steps = open_stream(lm, site, text=packed, sample_contexts=128).at(site), tokens // batch
    began, cpu = time.perf_counter(), time.process_time()

    def watched() -> Iterator[torch.Tensor]:
        for i, rows in enumerate(live.batches(batch, steps=steps), 1):
            yield rows
            if i % (steps // 8) == 0:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                now, peak = pages * resource.getpagesize(), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                rate = f"{i * batch / (time.process_time() - cpu):,.0f} tokens per second of a processor"
                size = f"{now / 2**20:,.0f} MiB, at most {peak / 2**20:,.0f}"
                print(f"{i * batch:>9,} tokens: {size}; {rate}", flush=True)

    d = lm.width(lm.site(site))
    train([training_config("topk", level=16, d_in=d, d_sae=4 * d)], watched(), steps=steps)
    print(f"{time.perf_counter() - began:.0f} s, text of {packed.tokens.numel():,} tokens, {site} of {lm.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sites", type=int, nargs="+", default=[14, 15, 16])
    parser.add_argument("--stream", type=int, metavar="TOKENS")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    lm = tiny_lm("gemma2", n_layers=2, d_model=64) if asked.tiny else LanguageModel.load("smollm2-135m")
    sites = ["resid_post.1"] if asked.tiny else [f"resid_post.{layer}" for layer in asked.sites]
    if asked.stream:
        documents = iter_documents(CorpusConfig())
        return stream(lm, pack_for(lm, documents, context=128, n_contexts=asked.contexts), sites[0], asked.stream)
    documents = corpus(lm)
    began = time.perf_counter()
    separator = lm.tokenizer.eos_token_id
    packed = pack_for(lm, documents, context=128, n_contexts=asked.contexts, separator_id=separator)
    print(f"packed {packed.tokens.numel():,} tokens of {len(packed.documents)} documents", end=" ")
    print(f"in {time.perf_counter() - began:.1f} s; {packed.counts.float().mean():.1%} count")
    bfloat16_effect(lm, packed, sites)
    rates(lm, packed, sites)


if __name__ == "__main__":
    main()
