"""The memory of training from the stream, over more and more of the text. The numbers of docs/training.md.

    python benchmarks/stream.py [--tokens 2000000] [--site resid_post.1] [--d-sae 2048] [--batch 2048] [--shares 10]

One TopK SAE on the running SmolLM2-135M and the embedded corpus, each token once. After every share of the steps: what
the process holds and the largest that it held so far (resident, MiB). Prints Markdown.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import saelab


def resident() -> float:
    """MiB of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@dataclass
class Watched:
    """A stream that says what the process holds."""

    stream: Any
    every: int
    began: float = field(default_factory=time.perf_counter)

    @property
    def moments(self) -> Any:
        return self.stream.moments

    def batches(self, batch: int, /, **asked: int) -> Iterator[Tensor]:
        for i, rows in enumerate(self.stream.batches(batch, **asked), 1):
            yield rows
            if i % self.every == 0:
                largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                minutes = (time.perf_counter() - self.began) / 60
                print(f"| {i * batch:,} | {resident():,.0f} | {largest:,.0f} | {minutes:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"tokens": 2_000_000, "d-sae": 2048, "batch": 2048, "shares": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--site", default="resid_post.1")
    asked = parser.parse_args()
    lm = saelab.LanguageModel.load("smollm2-135m")
    print(f"With the language model: {resident():,.0f} MiB.")
    stream = saelab.open_stream(lm, asked.site, tokens=asked.tokens).at(asked.site)
    print(f"With the packed text and the moments of the sample: {resident():,.0f} MiB.\n")
    print("| tokens | resident, MiB | largest so far, MiB | minutes |\n|---|---|---|---|")
    steps = asked.tokens // asked.batch
    cfg = saelab.TopKConfig(d_in=lm.d_model, d_sae=asked.d_sae, k=32)
    saelab.train([cfg], Watched(stream, max(1, steps // asked.shares)), steps=steps, batch=asked.batch)


if __name__ == "__main__":
    main()
