"""A second judge on the texts of a run of `saelab concepts`: how far a local language model agrees with the first.

    python benchmarks/axbench.py axbench --data DATA --lm qwen2.5-coder-1.5b --texts 24     (DATA: what was run on)

Some test texts of three methods are rated again: means under both judges, and how their ratings of the same texts
agree.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
import torch

from saelab.cli.progress import shown
from saelab.core.seeds import numpy_generator
from saelab.judges.client import Request
from saelab.judges.local import LocalJudge
from saelab.judges.rubric import RUBRICS
from saelab.lm.model import LanguageModel
from saelab.steering.concepts.axbench import AxBench
from saelab.steering.concepts.run import descriptions
from saelab.steering.utility import HeldOut, held_out_means, score_generations
from saelab.store.folders import ConceptsFolder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lm", default="qwen2.5-coder-1.5b")
    parser.add_argument("--texts", type=int, default=24)
    parser.add_argument("--methods", default="diff_means,prompting,random_direction")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rejudge(arguments)


def rejudge(arguments: argparse.Namespace) -> None:
    """Some test texts under a second judge: means of both judges, and how their scores rank the same texts."""
    folder = ConceptsFolder(arguments.out)
    written = folder.generations.read().filter(pl.col("split") == "test")
    first = score_generations(written, folder.judgements.read())
    pool = first.filter(pl.col("method").is_in(arguments.methods.split(","))).sort("generation")
    places = numpy_generator(0, "benchmarks", "rejudge").permutation(pool.height)[: arguments.texts]
    some = pool[np.sort(places)].select(first.columns)
    data = AxBench(arguments.data)
    concepts = descriptions(data, data.concepts)
    judge = LocalJudge(LanguageModel.load(arguments.lm))
    asked = [
        (row["generation"], Request(rubric, row["text"], (), concepts[row["feature"]], row["instruction"]))
        for row in some.iter_rows(named=True)
        for rubric in RUBRICS
    ]
    with shown() as progress:
        answers = judge.judge([request for _, request in asked], progress=progress)
    table = pl.DataFrame(
        [(g, r.task, a.judge, a.state, a.value, a.reason) for (g, r), a in zip(asked, answers, strict=True)],
        ["generation", "rubric", "judge", "state", "value", "reason"],
        orient="row",
    )
    table.write_parquet(arguments.out / "judgements_local.parquet")
    plain = some.drop("concept_rating", "instruction_rating", "fluency_rating", "score")
    second = score_generations(plain, table)
    print(f"{some.height} test texts, judges lexical and {judge.name}\n")
    print("| method | texts | lexical: score (concept, instruction, fluency) | local: the same |\n|---|---|---|---|")
    for method in arguments.methods.split(","):
        cells = [brief(held_out_means(t.filter(pl.col("method") == method))) for t in (some, second)]
        print(f"| {method} | {some.filter(pl.col('method') == method).height} | {' | '.join(cells)} |")
    for rubric in [f"{r}_rating" for r in RUBRICS]:
        both = np.stack([some[rubric].to_numpy(), second[rubric].to_numpy()])
        rho = np.corrcoef(both)[0, 1] if both.std(1).all() else float("nan")
        print(f"\n{rubric}: equal on {np.mean(both[0] == both[1]):.0%} of texts, correlation {rho:.2f}.")


def brief(mean: HeldOut) -> str:
    """`score (concept, instruction, fluency)` of held-out means."""
    values = [getattr(mean, name) for name in ("score", "concept", "instruction", "fluency")]
    shown_as = ["missing" if v is None else f"{v:.2f}" for v in values]
    return f"{shown_as[0]} ({', '.join(shown_as[1:])})"


if __name__ == "__main__":
    main()
