"""Steered tokens per second: saelab's batches against transformers' `generate` with a hook at batch 10.

    python benchmarks/steering.py                                        (two quiet cores: about ten minutes)
    python benchmarks/steering.py --new 32 --threads 1 --theirs 10 --batches 10,128                      (less)

The work is AxBench's: instructions x features x factors, every text with a direction and a strength of its own, added
at every position. Theirs: left-padded batches of 10 in the benchmark's order (all factors of one instruction follow
each other) through `generate` with a forward hook, greedy. Ours: `steering.batch.write` on all of it, by batch size.
Both count the tokens up to the end of each text. Same dtype, threads and jobs; the texts themselves are compared.
Speed is given by wall and by processor time: on a shared machine only the second means much.
"""

import argparse
import time
from collections.abc import Callable

import torch

from saelab.core.seeds import seed_of
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.steering.batch import AnswerJob, Written, write
from saelab.steering.direction import Direction, unit
from saelab.text.instructions import load_instructions

FACTORS = (0.25, 0.5, 1.0, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", default="smollm2-135m")
    parser.add_argument("--site", default="resid_post.15")
    parser.add_argument("--plain", help="how a model without a chat template is asked, with a place for {instruction}")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--new", type=int, default=128, help="longest text, in tokens")
    parser.add_argument("--instructions", type=int, default=4)
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--batches", default="1,10,32,64,128,256")
    parser.add_argument("--theirs", type=int, default=20, help="texts that transformers writes")
    parser.add_argument("--ours", type=int, default=20, help="texts that saelab writes at each size, or one batch")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lm = LanguageModel.load(arguments.lm, dtype=arguments.dtype, device=arguments.device, plain=arguments.plain)
    all_jobs = jobs(lm, arguments)
    asked = all_jobs[: arguments.theirs]
    hooked(lm, asked[:2], 2)  # warm up both
    write(lm, asked[:2], sampling=Sampling(2))
    plain, wall, processor = clock(lambda: hooked(lm, asked, arguments.new))
    base = rate(plain, wall, processor)
    print("| way | batch | texts | tokens/s | tokens per processor second | times faster (wall, processor) |")
    print("|---|---|---|---|---|---|")
    print(f"| transformers, hook | 10 | {len(asked)} | {base[0]:.0f} | {base[1]:.0f} | 1 |", flush=True)
    written: list[Written] = []
    for size in (int(b) for b in arguments.batches.split(",")):
        part = all_jobs[: max(size, arguments.ours, len(asked))]
        written, wall, processor = clock(
            lambda part=part, size=size: write(lm, part, sampling=Sampling(arguments.new), batch_size=size)
        )
        mine = rate(written, wall, processor)
        times = f"{mine[0] / base[0]:.1f}, {mine[1] / base[1]:.1f}"
        print(f"| saelab | {size} | {len(part)} | {mine[0]:.0f} | {mine[1]:.0f} | {times} |", flush=True)
    same = sum(a.text == b.text for a, b in zip(plain, written, strict=False))
    print(f"\n{same} of {len(plain)} texts are the same, word for word. {arguments.new} new tokens at most, greedy.")


def jobs(lm: LanguageModel, arguments: argparse.Namespace) -> list[AnswerJob]:
    """Instruction by instruction, feature by feature, all factors: random unit directions of a typical strength."""
    asked = load_instructions()[: arguments.instructions]
    hidden = lm.capture([lm.chat(i) for i in asked], [arguments.site])[arguments.site]
    typical = float(hidden.norm(dim=-1).median())
    generator = torch.Generator().manual_seed(seed_of("benchmarks", "steering"))
    directions = [
        unit(
            torch.randn(lm.d_model, generator=generator), site=arguments.site, distance=0.3 * typical,
            method="random", origin=str(i), source="0.3 of the median norm",
        )
        for i in range(arguments.features)
    ]  # fmt: skip
    return [AnswerJob(i, d, f, 0) for d in directions for i in asked for f in FACTORS]


def clock(work: Callable[[], list[Written]]) -> tuple[list[Written], float, float]:
    """What it wrote, in how many seconds of wall and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    written = work()
    return written, time.perf_counter() - wall, time.process_time() - processor


def rate(written: list[Written], wall: float, processor: float) -> tuple[float, float]:
    """Tokens per second by both clocks."""
    tokens = sum(w.n_tokens for w in written)
    return tokens / wall, tokens / processor


@torch.inference_mode()
def hooked(lm: LanguageModel, asked: list[AnswerJob], new: int, batch: int = 10) -> list[Written]:
    """transformers itself: a forward hook that adds each row's vector at every position, batches of ten."""
    stop = sorted(lm.stop_ids)
    made: list[Written] = []
    for start in range(0, len(asked), batch):
        part = asked[start : start + batch]
        given: list[Direction] = [j.direction for j in part if j.direction is not None]
        push = torch.stack([d.vector * d.strength(j.factor) for d, j in zip(given, part, strict=True)])
        push = push.to(lm.device, lm.dtype)[:, None]

        def hook(module: object, inputs: object, output: object, push: torch.Tensor = push) -> object:
            if isinstance(output, tuple):
                return (output[0] + push, *output[1:])
            return output + push  # pyright: ignore[reportOperatorIssue]

        rows = [lm.chat(j.instruction) for j in part]
        width = max(map(len, rows))
        tokens = torch.tensor([[0] * (width - len(r)) + r for r in rows], device=lm.device)
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows], device=lm.device)
        handle = lm.model.model.layers[lm.site(given[0].site).layer].register_forward_hook(hook)
        out = lm.model.generate(
            tokens, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=stop[0], eos_token_id=stop
        )
        handle.remove()
        for row in out[:, width:].tolist():
            end = next((i for i, t in enumerate(row) if t in stop), len(row))
            made.append(Written(lm.decode(row[:end]), end))
    return made


if __name__ == "__main__":
    main()
