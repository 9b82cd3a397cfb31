"""Speed of the language model room, and what bfloat16 does to activations, on SmolLM2-135M-Instruct.

    OMP_NUM_THREADS=1 python benchmarks/lm.py

Every figure is per core-second (process time on one thread), so that neighbours on the machine do not count. The peer
is transformers itself: its whole forward pass, and its `generate`. Results: docs/lm.md.
"""

import time
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.text.corpora import CorpusConfig, iter_documents
from saelab.text.pack import pack_for

SITE = "resid_post.15"
ROWS, NEW = 32, 32


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The least core-seconds of a few repeats, after one run to warm up."""
    work()
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def theirs(lm: LanguageModel, prompt: list[int]) -> Callable[[], object]:
    """transformers' own greedy generation of the same prompt in every row."""
    tokens = torch.tensor([prompt] * ROWS)
    options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    return lambda: lm.model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)


def speeds(name: str, lm: LanguageModel, contexts: Tensor) -> None:
    took = seconds(lambda: lm.run_to(contexts, [SITE]))
    print(f"{name}: run_to({SITE}) {contexts.numel() / took:,.0f} tokens/s")
    took = seconds(lambda: lm.model.model(contexts, output_hidden_states=True))
    print(f"{name}: transformers, whole forward without head {contexts.numel() / took:,.0f} tokens/s")

    prefix = lm.prefill(lm.tokenize(["From my experience,"])[0], SITE)
    hidden = prefix.hidden + torch.randn(256, lm.d_model, generator=torch.Generator().manual_seed(0)).to(lm.dtype)
    took = seconds(lambda: lm.continue_from(prefix, hidden))
    print(f"{name}: continue_from, batch 256: {1e6 * took / 256:,.0f} us/row")
    took = seconds(lambda: lm.unembed(hidden))
    print(f"{name}:   of which the head: {1e6 * took / 256:,.0f} us/row")
    row = torch.tensor([prefix.tokens])
    took = seconds(lambda: (lm.model(row), lm.model(row)), repeats=10)
    print(f"{name}: two transformers forwards of the prefix (the obvious way): {1e6 * took:,.0f} us")

    prompt = lm.chat("Tell me about the sea.")
    vectors = torch.randn(ROWS, lm.d_model, generator=torch.Generator().manual_seed(1))
    for what, edits in (("unedited", []), ("one edit per row", [Add(SITE, vectors, 1.0)])):
        made = lm.generate_ids([prompt] * ROWS, edits=edits, sampling=Sampling(NEW))
        took = seconds(lambda edits=edits: lm.generate_ids([prompt] * ROWS, edits=edits, sampling=Sampling(NEW)), 2)
        print(f"{name}: generate, {what}: {sum(map(len, made)) / took:,.0f} tokens/s")
    took = seconds(theirs(lm, prompt), 2)
    print(f"{name}: transformers generate: {ROWS * NEW / took:,.0f} tokens/s")


def rounding(exact: LanguageModel, low: LanguageModel, contexts: Tensor) -> None:
    rows = contexts.tolist()
    a, b = (m.capture(rows, [SITE])[SITE] for m in (exact, low))
    norm = a.norm(dim=-1)
    kept = norm < 10 * norm.median()  # attention sinks left out, as harvesting does
    error = (b - a).norm(dim=-1)[kept] / norm[kept]
    share = (b - a)[kept].square().sum() / (a[kept] - a[kept].mean(0)).square().sum()
    quantiles = ", ".join(f"{q:.0%} {error.quantile(q):.4f}" for q in (0.5, 0.9, 0.99))
    print(f"bfloat16 at {SITE}: relative error {quantiles}; share of variance {share:.5f} ({int(kept.sum())} tokens)")


def main() -> None:
    torch.set_num_threads(1)
    lm = LanguageModel.load("smollm2-135m")
    low = lm.to_dtype("bfloat16")
    documents = islice(iter_documents(CorpusConfig()), 400)
    packed = pack_for(lm, documents, context=128, n_contexts=64)
    contexts = packed.tokens.long()
    rounding(lm, low, contexts)
    for name, model in (("float32", lm), ("bfloat16", low)):
        speeds(name, model, contexts[:ROWS])


if __name__ == "__main__":
    main()
