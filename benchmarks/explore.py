"""What the explorer's data cost: making the material of a large dictionary, opening it, searching it, one feature.

    python benchmarks/explore.py --features 131072 --tokens 120000 --l0 48 --width 64

Codes are drawn: features by a power law, values by an exponential, on a text of drawn words; so neither a language
model nor an SAE of that size is needed. The logit lens is left out; it takes 2 x features x width x vocabulary
multiplications. Prints one line of JSON a figure: seconds, bytes a feature, MB of memory above what was there before.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from saelab.core.seeds import numpy_generator
from saelab.explore.index import FeatureIndex
from saelab.explore.material import SaeMaterial
from saelab.interp.features.codes import Codes
from saelab.interp.features.material import MaterialSource, write_material
from saelab.interp.features.windows import Passages
from saelab.store.folders import MaterialFolder

CONTEXT, VOCABULARY = 128, 50_000
QUERIES = ("maybe", "w12", "w7 w9", '"w101 w"', "zebra", "w4 maybe w3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--tokens", type=int, default=120_000)
    parser.add_argument("--l0", type=int, default=48)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = drawn(arguments)
    with tempfile.TemporaryDirectory() as folder:
        before = peak()
        made = timed(
            "making", lambda: write_material(source, MaterialFolder(Path(folder))), features=arguments.features
        )
        size = sum(p.stat().st_size for p in made)
        show("kept", bytes_a_feature=round(size / arguments.features), memory_mb=round(peak() - before))
        material = timed("opening", lambda: SaeMaterial(Path(folder)))
        index = timed("index", lambda: index_of(material))
        timed("preparing a first search", index.warm)
        for query in QUERIES:
            pages = [timed(None, lambda q=query: index.search(q, sort="density", limit=100)) for _ in range(5)]
            show("search", query=query, found=pages[0][1].total, seconds=round(max(s for s, _ in pages), 4))
        asked = numpy_generator(0, "benchmark", "features").choice(material.live, 50).tolist()
        times = [timed(None, lambda f=f: material.feature(f))[0] for f in asked]
        show("a feature", median=round(float(np.median(times)), 4), worst=round(max(times), 4))
        show("all", peak_mb=round(peak()))


def drawn(arguments: argparse.Namespace) -> MaterialSource:
    """Codes in which a feature's frequency falls with its number, so that the last are dead."""
    rng = numpy_generator(0, "benchmark", "explore")
    n, f = arguments.tokens // CONTEXT * CONTEXT, arguments.features
    chance = 1 / np.arange(20, 20 + f) ** 0.7
    bounds = np.cumsum(chance) / chance.sum()
    feature = np.searchsorted(bounds, rng.random((n, arguments.l0))).astype(np.int32)
    place = np.repeat(np.arange(n), arguments.l0)
    pairs = np.unique(feature.reshape(-1).astype(np.int64) * n + place)
    starts = np.searchsorted(pairs // n, np.arange(f + 1))
    values = rng.exponential(2.0, len(pairs)).astype(np.float32)
    codes = Codes(starts, pairs % n, values, n)
    tokens = np.minimum(rng.zipf(1.3, (n // CONTEXT, CONTEXT)), VOCABULARY - 1)
    documents = np.repeat(np.arange(n // CONTEXT)[:, None], CONTEXT, axis=1)
    return MaterialSource(
        codes,
        Passages(tokens, documents),
        np.arange(n),
        [f"w{i} " for i in range(VOCABULARY)],
        decoder=torch.from_numpy(rng.standard_normal((f, arguments.width)).astype(np.float32)),
        thresholds=np.zeros(f, np.float32),
        described=lambda features: {i: f"“ maybe”, “ w{i % 997}”" for i in features},
        lens=lambda features: [
            (
                tuple((f" up{i * k % 5003}", 1.0) for k in range(10)),
                tuple((f" not{i % (k + 1)}", -1.0) for k in range(10)),
            )
            for i in features
        ],
    )


def index_of(material: SaeMaterial) -> FeatureIndex:
    table = material.columns(["feature", "density", "max_activation", "description"])
    return FeatureIndex(table.with_columns(pl.lit("drawn").alias("sae")), {"drawn": material})


def timed(name: str | None, work: Callable[[], Any], **about: Any) -> Any:
    """What work returns, its time printed under a name; without one, the time and what it returns."""
    start = time.perf_counter()
    found = work()
    took = time.perf_counter() - start
    if name is None:
        return took, found
    show(name, seconds=round(took, 3), **about)
    return found


def show(name: str, **figures: Any) -> None:
    print(json.dumps({"figure": name} | figures), flush=True)


def peak() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
