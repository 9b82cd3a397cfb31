"""Effects of all features of an SAE: saelab's restart against the papers' procedure, on the same model and texts.

    python benchmarks/selection.py --lm smollm2-135m --site resid_post.15 --d-sae 16384      (about five minutes)
    python benchmarks/selection.py --features 2048 --sample 12 --threads 1                  (one core, about a minute)

Papers' procedure: for each feature, a hook on the block that adds alpha * W_dec[f], and two forward passes of the
prefix (with and without it) through transformers, batch 1, the score from the last position's probabilities. It is run
on a sample of features and given per feature. `--features` restarts only so many (the cost is linear in them). Prints
a Markdown table: milliseconds per feature (wall and processor), speed-up by processor time (what other processes take
does not count), the largest difference of any criterion on the sample, rank correlation of the bfloat16 mode (only
where the machine multiplies bfloat16), peak memory. The dictionary is random unit rows: cost and exactness do not
depend on what the features mean.
"""

import argparse
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from scipy.stats import spearmanr

from saelab.core.hardware import multiplies_bfloat16
from saelab.core.seeds import seed_of
from saelab.lm.model import LanguageModel
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import SaeConfig
from saelab.selection.criteria.catalogue import criteria_of, that_read, usual
from saelab.selection.criteria.observation import NextToken, Observation
from saelab.selection.effects import PREFIX, feature_effects

ALPHA, LENS_TOKENS = 10.0, 20
SCORED = tuple(c for c in usual() if c in that_read("effect"))


@dataclass
class Timed:
    """One way of doing it: the scores and what they cost per feature, in milliseconds."""

    name: str
    scores: pl.DataFrame
    wall: float
    processor: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", default="smollm2-135m")
    parser.add_argument("--site", default="resid_post.15")
    parser.add_argument("--d-sae", type=int, default=16384)
    parser.add_argument("--sample", type=int, default=64, help="features of the two-pass reference")
    parser.add_argument("--features", type=int, help="features restarted; all when not given")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lm = LanguageModel.load(arguments.lm)
    sae = random_sae(lm.d_model, arguments.d_sae, arguments.site)
    sample = list(range(0, arguments.d_sae, arguments.d_sae // arguments.sample))[: arguments.sample]
    many = range(arguments.d_sae if arguments.features is None else arguments.features)
    sample = sample if arguments.features is None else list(many)[: arguments.sample]
    print("| way | ms per feature | processor ms | times faster | largest difference | rank correlation |")
    print("|---|---|---|---|---|---|")
    half = lm.to_dtype("bfloat16") if multiplies_bfloat16() else None
    for positions in ("last", "all"):

        def fast(model: LanguageModel, features: Sequence[int], positions: str = positions) -> pl.DataFrame:
            return feature_effects(model, sae, alpha=ALPHA, positions=positions, criteria=SCORED, features=features)

        two_passes(lm, sae, sample[:1], positions)  # warm up both
        fast(lm, sample)
        plain = timed(f"hook, two passes, {positions}", len(sample), lambda p=positions: two_passes(lm, sae, sample, p))
        line(plain, plain)
        mine = timed(f"saelab, {positions}", len(many), lambda f=fast: f(lm, many))
        apart = max(float((plain.scores[c] - mine.scores[c].gather(sample)).abs().max()) for c in SCORED)
        line(mine, plain, f"{apart:.1e}")
        if half is not None:
            low = timed(f"saelab, {positions}, bfloat16", len(many), lambda f=fast: f(half, many))
            ranks = [f"{c} {spearmanr(mine.scores[c], low.scores[c]).statistic:.4f}" for c in SCORED]
            line(low, plain, "", ", ".join(ranks))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nPeak memory: {memory:.2f} GiB. Threads: {arguments.threads}. d_sae: {arguments.d_sae}.")


def timed(name: str, features: int, work: object) -> Timed:
    """Run once and divide by the number of features."""
    wall, processor = time.perf_counter(), time.process_time()
    scores = work()  # pyright: ignore[reportCallIssue]
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return Timed(name, scores, 1000 * wall / features, 1000 * processor / features)


def line(one: Timed, plain: Timed, apart: str = "", ranks: str = "") -> None:
    """One row of the table."""
    faster = f"{plain.processor / one.processor:.1f}"
    print(f"| {one.name} | {one.wall:.2f} | {one.processor:.2f} | {faster} | {apart} | {ranks} |", flush=True)


@torch.inference_mode()
def two_passes(lm: LanguageModel, sae: ReluSae, features: list[int], positions: str) -> pl.DataFrame:
    """The papers' procedure through transformers itself: a hook, two forward passes per feature, batch 1."""
    model, layer = lm.model, lm.site(str(sae.cfg.site)).layer
    tokens = torch.tensor(lm.tokenize([PREFIX]))
    block = model.model.layers[layer]
    rows = []
    for feature in features:

        def hook(module: object, inputs: object, output: object, row: torch.Tensor = sae.W_dec[feature]) -> object:
            hidden = output[0] if isinstance(output, tuple) else output
            new = hidden.clone()  # pyright: ignore[reportAttributeAccessIssue]
            new[:, -1 if positions == "last" else slice(None)] += ALPHA * row
            return (new, *output[1:]) if isinstance(output, tuple) else new

        base = model(tokens).logits[:, -1]
        handle = block.register_forward_hook(hook)
        steered = model(tokens).logits[:, -1]
        handle.remove()
        top = torch.topk(lm.unembed(sae.W_dec[feature]), LENS_TOKENS).indices[None]
        seen = Observation(NextToken(base), NextToken(steered), top)
        rows.append({c.name: float(c.score(seen)) for c in criteria_of(SCORED)})
    return pl.DataFrame(rows)


def random_sae(d_in: int, d_sae: int, site: str) -> ReluSae:
    """Random unit decoder rows."""
    generator = torch.Generator().manual_seed(seed_of("benchmarks", "selection", d_in, d_sae))
    decoder = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=generator), dim=-1)
    weights = {"W_enc": decoder.T, "W_dec": decoder, "b_enc": torch.zeros(d_sae), "b_dec": torch.zeros(d_in)}
    return ReluSae(SaeConfig(architecture="relu", d_in=d_in, d_sae=d_sae, site=site), weights)


if __name__ == "__main__":
    np.set_printoptions(precision=4)
    main()
