"""AxBench's ten concepts on a small model: every fitted direction detects and steers, under one judge.

    python benchmarks/axbench.py run DATA --out axbench             (DATA: such as concept10/prod_2b_l20_v1)
    python benchmarks/axbench.py show axbench                           the tables again
    python benchmarks/axbench.py rejudge axbench --lm qwen2.5-coder-1.5b --texts 24

`run` fits difference in means, PCA, LAT, probe, SSV and ReFT-r1 (and, with --sae, the feature of the highest AUROC) on
each concept's training texts; detects; steers, with the factor chosen on dev; and prints means over concepts with 95 %
bootstrap intervals, paired differences and win rates. The judge is `lexical`, calibrated on instructions that are not
steered. `rejudge` has a local language model rate some of the test texts again and says how far the two agree. The
sizes are for two cores; concepts come with texts written by other models than the one steered, so scores are not to be
compared with the benchmark's own.
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
from saelab.judges.steering_lexical import LexicalSteeringJudge, calibrate
from saelab.lm.model import LanguageModel
from saelab.saes.formats import load_sae
from saelab.stats.means import mean_estimate
from saelab.steering.concepts.axbench import AxBench, wide_table
from saelab.steering.concepts.config import ConceptInputs, ConceptsConfig
from saelab.steering.concepts.directions.catalogue import METHODS, usable
from saelab.steering.concepts.run import descriptions, run
from saelab.steering.config import UtilityConfig
from saelab.steering.methods import PROMPTING
from saelab.steering.utility import held_out_means, hm_of_means, score_generations, win_rate
from saelab.text.instructions import load_instructions

N_EVALUATED = 12
BASELINE = "diff_means"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("run")
    one.add_argument("data", type=Path)
    one.add_argument("--out", type=Path, default=Path("axbench"))
    one.add_argument("--lm", default="smollm2-135m")
    one.add_argument("--site", default="resid_post.15")
    one.add_argument("--sae", help="reference of an SAE at the site")
    one.add_argument("--concepts", type=int, default=10)
    one.add_argument("--n-train", type=int, default=24, help="training texts of each kind (AxBench: 72)")
    one.add_argument("--n-detect", type=int, default=16, help="detection texts of each kind (AxBench: 36)")
    one.add_argument("--fit-texts", type=int, default=4, help="texts of each kind that SSV and ReFT-r1 see")
    one.add_argument("--max-tokens", type=int, default=80, help="tokens of a text, template included")
    one.add_argument("--factors", default="0.4,0.8", help="multiples of the largest training score")
    one.add_argument("--dev", type=int, default=2)
    one.add_argument("--test", type=int, default=2)
    one.add_argument("--new", type=int, default=20, help="longest text, in tokens (AxBench: 128)")
    one.add_argument("--threads", type=int, default=2)
    verbs.add_parser("show").add_argument("out", type=Path)
    two = verbs.add_parser("rejudge")
    two.add_argument("out", type=Path)
    two.add_argument("--data", type=Path, required=True)
    two.add_argument("--lm", default="qwen2.5-coder-1.5b")
    two.add_argument("--texts", type=int, default=24)
    two.add_argument("--methods", default="diff_means,prompting,random_direction")
    two.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.verb == "run":
        torch.set_num_threads(arguments.threads)
        steer(arguments)
    if arguments.verb == "rejudge":
        torch.set_num_threads(arguments.threads)
        rejudge(arguments)
    else:
        show(arguments.out)


def steer(arguments: argparse.Namespace) -> None:
    """Fit, detect, steer and judge; everything lands in `--out`."""
    lm, instructions, data = LanguageModel.load(arguments.lm), load_instructions(), AxBench(arguments.data)
    sae = None if arguments.sae is None else load_sae(arguments.sae)
    steering = UtilityConfig(
        factors=tuple(float(f) for f in arguments.factors.split(",")),
        n_dev=arguments.dev,
        n_test=arguments.test,
        max_new_tokens=arguments.new,
        temperature=0.0,
        batch_size=128,
        chunk=128,
    )
    config = ConceptsConfig(
        site=arguments.site,
        methods=usable(sae=sae is not None),
        max_tokens=arguments.max_tokens,
        n_train=arguments.n_train,
        n_detect=arguments.n_detect,
        fit_texts=arguments.fit_texts,
        fit_batch=2,
        steering=steering,
    )
    with shown() as progress:
        cuts = calibrate(lm, instructions[N_EVALUATED:], max_new_tokens=arguments.new, progress=progress)
        inputs = ConceptInputs(
            lm,
            data,
            data.concepts[: arguments.concepts],
            instructions[:N_EVALUATED],
            LexicalSteeringJudge(lm, cuts),
            sae=sae,
            judge_record=cuts.model_dump(mode="json"),
        )
        run(config, inputs, arguments.out, progress)
    wide = wide_table(
        pl.read_parquet(arguments.out / "generations.parquet"),
        inputs.concepts,
        {m.name: m.axbench for m in METHODS.values() if m.axbench} | {PROMPTING: "PromptSteering"},
    )
    wide.write_parquet(arguments.out / "steering_data.parquet")


def show(folder: Path) -> None:
    """Both tables, means over concepts."""
    detection = pl.read_parquet(folder / "detection.parquet")
    print(
        "| detection | AUROC, plain negatives | AUROC, with hard negatives | accuracy with hard negatives | concepts |"
    )
    print("|---|---|---|---|---|")
    for method in order(detection, "auroc_easy"):
        rows = detection.filter(pl.col("method") == method)
        cells = [interval(rows[c]) for c in ("auroc_easy", "auroc_all", "hard_accuracy")]
        print(f"| {method} | {' | '.join(cells)} | {rows['auroc_easy'].count()} of {rows.height} |")
    utility = pl.read_parquet(folder / "utility.parquet")
    base = utility.filter(pl.col("method") == BASELINE).select("feature", base="test_score")
    print(
        f"\n| steering | score (mean of HMs) | HM of means | concept, instruction, fluency | less {BASELINE} "
        f"| wins against {BASELINE} | dev less test | scored |\n|---|---|---|---|---|---|---|---|"
    )
    for method in order(utility, "test_score"):
        rows = utility.filter(pl.col("method") == method).join(base, on="feature", how="left")
        known = rows.drop_nulls(["test_score", "base"])
        parts = [float(np.mean(known[c].to_numpy())) for c in RUBRICS]
        apart = interval((known["test_score"] - known["base"]).alias("difference"))
        wins = win_rate(known["test_score"].to_list(), known["base"].to_list())
        optimism = interval((known["dev_score"] - known["test_score"]).alias("gap"))
        print(
            f"| {method} | {interval(rows['test_score'])} | {hm_of_means(*parts):.2f} "
            f"| {', '.join(f'{p:.2f}' for p in parts)} | {'' if method == BASELINE else apart} "
            f"| {'' if method == BASELINE else f'{wins:.2f}'} | {optimism} "
            f"| {rows['test_score'].count()} of {rows.height} |"
        )
    missing = pl.read_parquet(folder / "judgements.parquet")
    print(f"\nJudgements: {missing.height}; not ok: {missing.filter(pl.col('state') != 'ok').height}.")


def rejudge(arguments: argparse.Namespace) -> None:
    """Some test texts under a second judge: means of both judges, and how their scores rank the same texts."""
    written = pl.read_parquet(arguments.out / "generations.parquet").filter(pl.col("split") == "test")
    first = score_generations(written, pl.read_parquet(arguments.out / "judgements.parquet"))
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


def brief(mean: object) -> str:
    """`score (concept, instruction, fluency)` of held-out means."""
    values = [getattr(mean, name) for name in ("score", "concept", "instruction", "fluency")]
    shown_as = ["missing" if v is None else f"{v:.2f}" for v in values]
    return f"{shown_as[0]} ({', '.join(shown_as[1:])})"


def order(table: pl.DataFrame, column: str) -> list[str]:
    """Methods, the highest mean first."""
    means = table.group_by("method").agg(pl.col(column).mean()).sort(column, descending=True, nulls_last=True)
    return means["method"].to_list()


def interval(column: pl.Series) -> str:
    """Mean with the bootstrap's 95 % interval over concepts."""
    known = column.drop_nulls().cast(pl.Float64).to_numpy()
    if not len(known):
        return "missing"
    found = mean_estimate(known, name=column.name)
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" if found.low is not None else f"{known.mean():.2f}"


if __name__ == "__main__":
    main()
