"""What one accelerator does with every heavy stage: first whether its numbers are the CPU's, then how fast it is.

    python benchmarks/gpu.py --device cuda --json gpu.json            (one card, no network, at most nine minutes)
    python benchmarks/gpu.py --device cpu --size toy                  (a try of the script itself, seconds)

Needs this repository, torch and transformers, and no weights: the language model has the config of Gemma 2 2B and
random weights, activations are drawn. Every part that would begin after `--minutes` is left out and named; a part that
stops is an error of one line, and the others go on. Prints the table of docs/gpu.md and a line of JSON a figure.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from saelab.core.hardware import device_of, multiplies_bfloat16
from saelab.lm.edit import Add
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.lm.shrink import lively_model, small_config
from saelab.lm.tiny import tiny_lm, tiny_tokenizer
from saelab.matching.match import match
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.catalogue import ARCHITECTURES, training_config
from saelab.saes.transcoder import on_device
from saelab.selection.effects import feature_effects
from saelab.training.inputs import scaling_of
from saelab.training.step import Trainee
from saelab.training.sweep import train

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How large everything is. batches: texts written together; widths: latents of an SAE."""

    d: int
    blocks: int
    context: int
    tokens: int
    widths: tuple[int, ...]
    rows: int
    steps: int
    stream: int
    batches: tuple[int, ...]
    new: int
    features: int
    matched: tuple[int, ...]


SIZES = {
    "card": Size(2304, 26, 128, 65536, (16384, 65536), 4096, 20, 30, (64, 256, 512), 64, 1024, (16384, 65536)),
    "toy": Size(32, 3, 16, 256, (64, 128), 64, 3, 3, (2, 4), 4, 8, (48,)),
}


@dataclass
class Bench:
    """A device and a size, and what was found."""

    device: torch.device
    size: Size
    dtype: torch.dtype
    rows: list[Row] = field(default_factory=list)

    def seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """The median of a few repeats, after one to warm up."""
        work()
        times = []
        for _ in range(repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return sorted(times)[len(times) // 2]

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def found(self, what: str, value: float | str, unit: str, aim: str = "") -> None:
        """Keep a figure and print it, with the device's memory at its peak."""
        peak = torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else None
        row = {"what": what, "value": value, "unit": unit, "aim": aim, "peak_gib": peak and round(peak, 2)}
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def drawn(self, *shape: int, seed: int = 0) -> torch.Tensor:
        """Normal numbers, the same on every machine."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same_training(bench: Bench) -> None:
    """Every architecture: the largest relative difference of FVU over some steps from the CPU's, in float32."""
    data = [bench.drawn(256, 32, seed=i) for i in range(8)]
    for name in sorted(ARCHITECTURES):
        cfg = training_config(name, level=4, d_in=32, d_sae=96, dead_tokens=257, lr=3e-3)
        fvu = []
        for place in (torch.device("cpu"), bench.device):
            scaling = scaling_of(data).to(place)
            trainee = Trainee(cfg, scaling(data[0]), steps=8, seed=0, dtype=torch.float32)
            fvu.append([trainee.step(scaling(x)).fvu for x in data])
        worst = max(abs(a - b) / a for a, b in zip(*fvu, strict=True))
        bench.found(f"training of {name}: FVU, difference from the CPU", worst, "relative", "under 1e-3")


def same_model(bench: Bench) -> None:
    """A tiny language model: logits, effects of features, texts, beside the CPU's. It is proved at load on both."""
    here = tiny_lm("gemma2")
    there = LanguageModel(tiny_lm("gemma2").model.to(bench.device), here.tokenizer, reference="tiny", name="tiny")
    tokens = torch.randint(4, 90, (4, 24), generator=torch.Generator().manual_seed(0))
    off = (there.logits(tokens).cpu() - here.logits(tokens)).abs().max()
    bench.found("tiny language model: logits, difference from the CPU", float(off), "absolute", "under 1e-3")
    sae = dictionary(bench, 32, 64)
    effects = [feature_effects(lm, sae, prefix="the cat", site="resid_post.1")["kl"].to_torch() for lm in (here, there)]
    bench.found("effects: KL, difference", float((effects[0] - effects[1]).abs().max()), "nats", "under 1e-3")
    prompts = [[256, 30 + i, 40] for i in range(8)]
    texts = [lm.generate_ids(prompts, Sampling(12, temperature=1.0, seed=1)) for lm in (here, there)]
    equal = sum(a == b for a, b in zip(*texts, strict=True)) / len(prompts)
    bench.found("sampled texts that are the CPU's", equal, "share", "near 1")


def language_model(bench: Bench) -> LanguageModel:
    """Random weights in the config of Gemma 2 2B, on the device; of the toy size, a small one of its family."""
    config = AutoConfig.for_model("gemma2")  # transformers' own defaults are those of the 2B
    if bench.size.d < config.hidden_size:
        small = small_config(config, bench.size.blocks)
        small.vocab_size = 384
        model = lively_model(small).to(bench.device, bench.dtype)
    else:
        config.num_hidden_layers = bench.size.blocks
        with torch.device(bench.device):
            model = AutoModelForCausalLM.from_config(config, dtype=bench.dtype)
    return LanguageModel(model, tiny_tokenizer(384), reference="random:gemma2", name="random gemma2")


def of_model(bench: Bench) -> None:
    """Harvest, steered and plain generation, transformers' own generation with a hook, effects."""
    lm, size = language_model(bench), bench.size
    site = f"resid_post.{lm.n_layers // 2}"
    contexts = size.tokens // size.context
    drawn = torch.randint(4, 300, (contexts, size.context), generator=torch.Generator().manual_seed(0))
    for batch in (16, 64):
        took = bench.seconds(lambda n=batch: [lm.run_to(part, [site])[site].to("cpu") for part in drawn.split(n)], 1)
        what = f"harvest at {site}, {batch} contexts of {size.context}"
        bench.found(what, drawn.numel() / took, "tokens/s", "200,000")
    prompt = drawn[0, :12].tolist()
    for batch in size.batches:
        vectors = bench.drawn(batch, lm.d_model)
        rates = {}
        for what, edits in (("unsteered", []), ("steered, an edit in every row", [Add(site, vectors, 1.0)])):
            took = bench.seconds(
                lambda e=edits, n=batch: lm.generate_ids([prompt] * n, Sampling(size.new), edits=e, batch_size=n), 1
            )
            rates[what] = batch * size.new / took
            bench.found(f"generation, batch {batch}, {what}", rates[what], "tokens/s", "10,000 steered")
    took = bench.seconds(lambda: hooked(lm, prompt, size.new), 1)
    bench.found("transformers generate with a hook, batch 10", 10 * size.new / took, "tokens/s", "ours 5 times this")
    sae = dictionary(bench, lm.d_model, max(size.features, 64))
    wanted = list(range(size.features))
    took = bench.seconds(lambda: feature_effects(lm, sae, site=site, prefix="x", features=wanted), 1)
    bench.found("effects, one prefix, all positions", size.features / took, "features/s")


def hooked(lm: LanguageModel, prompt: list[int], new: int) -> None:
    """The usual way: a forward hook that adds one vector, through `generate`."""
    block, vector = lm.model.model.layers[lm.n_layers // 2], torch.ones(lm.d_model, device=lm.device, dtype=lm.dtype)

    def add(module: Any, args: Any, out: Any) -> Any:
        return (out[0] + vector, *out[1:]) if isinstance(out, tuple) else out + vector

    handle = block.register_forward_hook(add)
    try:
        tokens = torch.tensor([prompt] * 10, device=lm.device)
        options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        lm.model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    finally:
        handle.remove()


def of_training(bench: Bench) -> None:
    """TopK and JumpReLU steps and the encoder product beside them; then many SAEs on one stream."""
    size = bench.size
    data = [bench.drawn(size.rows, size.d, seed=i).to(bench.device) for i in range(4)]
    scaling = scaling_of([data[0].cpu()]).to(bench.device)
    for width in size.widths:
        weights = torch.randn(size.d, width, device=bench.device, dtype=bench.dtype)
        low = data[0].to(bench.dtype)
        took = bench.seconds(lambda w=weights, x=low: x @ w)
        bench.found(f"encoder product, F {width}", 2 * size.rows * size.d * width / took / 1e12, "TFLOP/s")
        for name, aim in (("topk", "1,500,000 at 16,384; 500,000 at 65,536"), ("jumprelu", "")):
            cfg = training_config(name, level=min(80, width // 8), d_in=size.d, d_sae=width, dead_tokens=10**9)
            trainee = Trainee(cfg, scaling(data[0]), steps=10_000, seed=0, dtype=bench.dtype)
            took = bench.seconds(lambda t=trainee: [t.step(scaling(x)) for x in (data * size.steps)[: size.steps]], 1)
            bench.found(f"{name} step, F {width}, {size.rows} rows", size.steps * size.rows / took, "tokens/s", aim)
    levels = [max(1, 8 * (i + 1)) for i in range(size.stream)]
    width = size.widths[0]
    configs = [training_config("topk", level=min(level, width // 2), d_in=size.d, d_sae=width) for level in levels]
    batches = [x.cpu() for x in data[:2]]
    took = bench.seconds(lambda: train(configs, batches, steps=2, device=str(bench.device)), 1)
    bench.found(f"{size.stream} SAEs of F {width} on one stream", 2 * size.rows / took, "tokens/s of the stream")


def of_matching(bench: Bench) -> None:
    """Certified matching of two dictionaries, one a noisy and shuffled copy of the other."""
    for width in bench.size.matched:
        first = on_device(dictionary(bench, bench.size.d, width), bench.device)
        order = torch.randperm(width, generator=torch.Generator().manual_seed(1))
        second = on_device(dictionary(bench, bench.size.d, width, order=order), bench.device)
        start = time.perf_counter()
        found = match(first, second, fold="none", parts="decoder")
        bench.found(f"certified matching, F {width} x {bench.size.d}", time.perf_counter() - start, "s", "15 at 65,536")
        bench.found(f"gap of its certificate, F {width}", found.gap, "relative")


def dictionary(bench: Bench, d: int, width: int, order: torch.Tensor | None = None) -> Sae:
    """A TopK SAE of random directions; with an order, the same directions with noise, in that order."""
    rows = bench.drawn(width, d)
    if order is not None:
        rows = rows[order] + 0.3 * bench.drawn(width, d, seed=2)
    rows = torch.nn.functional.normalize(rows, dim=1)
    weights = {"W_enc": rows.T, "W_dec": rows, "b_enc": torch.zeros(width), "b_dec": torch.zeros(d)}
    return TopKSae(SaeConfig(architecture="topk", d_in=d, d_sae=width, k=min(32, width)), weights)


PARTS: dict[str, Callable[[Bench], None]] = {
    "same_training": same_training,
    "same_model": same_model,
    "training": of_training,
    "model": of_model,
    "matching": of_matching,
}


def table(rows: list[Row]) -> Iterator[str]:
    """The figures as Markdown."""
    yield "| | | aim | peak GiB |"
    yield "|---|---|---|---|"
    for row in rows:
        value = row["value"] if isinstance(row["value"], str) else f"{row['value']:,.4g}"
        yield f"| {row['what']} | {value} {row['unit']} | {row['aim']} | {row['peak_gib'] or ''} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", choices=SIZES, help="by default card on an accelerator, else toy")
    parser.add_argument("--minutes", type=float, default=8.0, help="no part begins after so many")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="where the figures are kept")
    asked = parser.parse_args()
    device, began = device_of(asked.device), time.perf_counter()
    size = SIZES[asked.size or ("toy" if device.type == "cpu" else "card")]
    low = device.type != "cpu" and multiplies_bfloat16(str(device))
    bench = Bench(device, size, torch.bfloat16 if low else torch.float32)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    bench.found("device", card, f"torch {torch.__version__}")
    for name in asked.only:
        if time.perf_counter() - began > 60 * asked.minutes:
            bench.found(name, "not begun", "no time was left")
            continue
        try:
            PARTS[name](bench)
        except Exception as error:  # one part that stops must not cost the others
            bench.found(name, "stopped", f"{type(error).__name__}: {str(error).splitlines()[0]}"[:200])
    bench.found("all of it", time.perf_counter() - began, "s", "540")
    if asked.json:
        asked.json.write_text(json.dumps(bench.rows, indent=1) + "\n")
    print("\n".join(table(bench.rows)))


if __name__ == "__main__":
    main()
