"""What steering with one SAE takes: texts written, read, embedded, scored, by part, on one language model.

    python benchmarks/instrument.py --sae path:demo/saes/topk.l0_32.resid_post.15 --dtype bfloat16
    python benchmarks/instrument.py --sae path:demo/saes/topk.l0_32.resid_post.15 --dtype float32

96 features x 2 texts and 60 unsteered ones of at most 24 tokens, as in a study; what a site's SAEs share (its text, its
gate) is opened before and counted apart. Quiet cores only: wall-clock seconds, with those of the processor beside them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saelab.activations.harvest import HarvestConfig, harvest
from saelab.instrument.bench import Bench
from saelab.instrument.config import InstrumentConfig
from saelab.instrument.dose import Probe
from saelab.instrument.features import Dictionary
from saelab.instrument.site import place_at
from saelab.judges.embedding import MiniLM
from saelab.lm.model import LanguageModel
from saelab.saes.formats import load_sae
from saelab.text.corpora import CorpusConfig, iter_documents
from saelab.text.pack import pack_for


class Clock:
    """Seconds by part: wall and processor."""

    def __init__(self) -> None:
        self.parts: dict[str, list[float]] = {}

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            wall, processor = time.perf_counter(), time.process_time()
            found = work(*given, **named)
            part = self.parts.setdefault(name, [0.0, 0.0])
            part[0] += time.perf_counter() - wall
            part[1] += time.process_time() - processor
            return found

        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", default="smollm2-135m")
    parser.add_argument("--site", default="resid_post.15")
    parser.add_argument("--sae", required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--features", type=int, default=96)
    parser.add_argument("--contexts", type=int, default=320)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock, embed = Clock(), MiniLM()
    lm, sae = LanguageModel.load(given.lm, dtype=given.dtype), load_sae(given.sae)
    config = InstrumentConfig(prompts=1, test_copies=8, unsteered_copies=30, contexts=given.contexts, probe_contexts=2)
    with tempfile.TemporaryDirectory() as folder:
        packed = pack_for(lm, iter_documents(CorpusConfig()), context=128, n_contexts=given.contexts)
        shards = harvest(lm, packed, [given.site], Path(folder), config=HarvestConfig())[given.site]
        place = clock.timed("site, once", lambda: place_at(config, lm, packed, shards, embed=embed))()
        clock.timed("site, once", lambda: place.text.background)()
    _watch(clock)
    whole = clock.timed("one SAE", lambda: one(place, sae, config, given.features))
    steered, unsteered = whole()
    print(f"{lm.name}, {lm.dtype}, {given.threads} threads: {steered} + {unsteered} texts")
    for name, (wall, processor) in clock.parts.items():
        print(f"| {name} | {wall:.1f} | {processor:.1f} |")


def _watch(clock: Clock) -> None:
    """Time the parts of a desk's work."""
    lm = LanguageModel
    lm.generate_ids = clock.timed("written", lm.generate_ids)
    lm.nll = clock.timed("read: answers after their instructions", lm.nll)
    lm.read = clock.timed("read: likelihoods and states", lm.read)
    Probe.kl = clock.timed("KL of the features", Probe.kl)
    MiniLM.__call__ = clock.timed("embedded", MiniLM.__call__)
    Dictionary.of = clock.timed("readers: encoded", Dictionary.of)
    Bench.read = clock.timed("scored", Bench.read)


def one(place: Any, sae: Any, config: InstrumentConfig, count: int) -> tuple[int, int]:
    """The work of one SAE, its unsteered texts included."""
    dictionary = Dictionary.of(sae.encode, sae.W_dec.detach(), place.text)
    features = dictionary.features(dictionary.drawn(count, 0), place.embed)
    bench = Bench(config, place.desk, place.probe, lambda name, write: write())
    strength = 0.3 * place.probe.norm
    found = bench.measured("sae", features, 0.3, range(config.feature_copies), strength)
    for direction in features.directions:
        place.probe.kl(direction, strength)
    return len(found.steered), len(bench.unsteered)


if __name__ == "__main__":
    main()
