"""Written concepts from AxBench's files to tables: what is opened for the stage, and means over concepts after it.

Everything lands in one folder and is taken up again by the same call. The embedded judge is calibrated on instructions
that are not answered by steered models; other judges are opened as in a study. Nothing here fits or steers by itself.
"""

from pathlib import Path
from typing import Any

import polars as pl

from saelab.core.config import digest_of
from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.judges.catalogue import JudgeConfig
from saelab.judges.client import Judge
from saelab.judges.steering_lexical import FEWEST
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.stats.means import mean_estimate
from saelab.steering.concepts import run as stage
from saelab.steering.concepts.axbench import AxBench, Wide, wide_table
from saelab.steering.concepts.config import ConceptInputs, ConceptsConfig
from saelab.steering.concepts.directions.catalogue import METHODS
from saelab.steering.concepts.perplexity import unsteered_perplexity
from saelab.steering.methods import PROMPTING
from saelab.steering.utility import summarise, win_rate
from saelab.store.folders import ConceptsFolder
from saelab.store.layout import RunFolder

ANSWERED = 12  # instructions at least that steered models may be asked; the others calibrate the judge
AXBENCH_NAMES = {m.name: m.axbench for m in METHODS.values() if m.axbench} | {PROMPTING: "PromptSteering"}


def run_concepts(
    config: ConceptsConfig,
    data: AxBench,
    out: Path,
    lm: LanguageModel,
    instructions: list[str],
    *,
    judge: JudgeConfig | None = None,
    sae: Sae | None = None,
    features: pl.DataFrame | None = None,
    concepts: int | None = None,
    progress: Progress = SILENT,
) -> ConceptsFolder:
    """Fit, detect and steer with the first `concepts` of the data (None: all) into the folder `out`.

    features: interp's table of the SAE. Raises `UserError` where a method needs what is not given, or where there are
    too few instructions.
    """
    judge = judge or JudgeConfig()
    answered = max(ANSWERED, config.steering.n_dev + config.steering.n_test)
    chosen = data.concepts if concepts is None else data.concepts[:concepts]
    if not chosen:
        raise UserError(f"No concept of {data.folder} is left.", hint="Ask for at least one.")
    if judge.kind.per_model and len(instructions) < answered + FEWEST:
        raise UserError(
            f"There are {len(instructions)} instructions: {answered} to answer leave too few "
            f"to calibrate the {judge.name} judge on ({FEWEST}).",
            hint="Give more instructions, or fewer --dev and --test.",
        )
    asked, record = _judge(judge, lm, instructions[answered:], config, out, progress)
    inputs = ConceptInputs(
        lm, data, chosen, instructions[:answered], asked, sae=sae, features=features, judge_record=record
    )
    stage.run(config, inputs, out, progress)
    return ConceptsFolder(out)


def write_wide(folder: ConceptsFolder, data: AxBench, lm: LanguageModel) -> Path:
    """AxBench's `steering_data` of a finished run, with the perplexity of every text under the unsteered model."""
    written = folder.generations.read()
    found = unsteered_perplexity(lm, written["instruction"].to_list(), written["text"].to_list())
    known = {g: p for g, p in zip(written["generation"].to_list(), found, strict=True) if p is not None}
    names = {m: AXBENCH_NAMES[m] for m in dict.fromkeys(written["method"].to_list()) if m in AXBENCH_NAMES}
    return folder.wide.write(wide_table(written, data.concepts, Wide(names, perplexity=known)))


def detection_means(folder: ConceptsFolder) -> pl.DataFrame:
    """One row per method, the best first: means over concepts of both AUROCs and of the accuracy, with intervals."""
    table, rows = folder.detection.read(), []
    for method in _order(table, "auroc_easy"):
        own = table.filter(pl.col("method") == method)
        row: dict[str, Any] = {"method": method}
        for column in ("auroc_easy", "auroc_all", "hard_accuracy"):
            row |= _mean(own[column], column)
        rows.append(row | {"concepts": own["auroc_easy"].count(), "of": own.height})
    return pl.DataFrame(rows, infer_schema_length=None)


def steering_means(folder: ConceptsFolder, *, baseline: str | None = None) -> pl.DataFrame:
    """One row per method, the best first: mean test score over concepts, and the same less the baseline's.

    baseline: a method, paired by concept; None is the first fitted one. hm_of_means is the other aggregation
    (utility.py); wins is the share of concepts above the baseline; dev_less_test is the optimism of the choice.
    """
    table, rows = folder.utility.read(), []
    fitted = [m for m in METHODS if m in set(table["method"])]
    base_name = baseline or fitted[0]
    if base_name not in set(table["method"]):
        raise UserError(f"No text was steered with {base_name!r}, so nothing is compared with it.")
    base = table.filter(pl.col("method") == base_name).select("feature", base="test_score")
    for method in _order(table, "test_score"):
        own = table.filter(pl.col("method") == method).join(base, on="feature", how="left", maintain_order="left")
        paired, total = own.drop_nulls(["test_score", "base"]), summarise(own)
        wins = win_rate(paired["test_score"].to_list(), paired["base"].to_list()) if paired.height else None
        row: dict[str, Any] = {"method": method} | _mean(own["test_score"], "score")
        row |= {"hm_of_means": total.hm_of_means}
        row |= {r: own[r].mean() for r in ("concept", "instruction", "fluency")}
        other = paired if method != base_name else paired.clear()
        row |= _mean(other["test_score"] - other["base"], "less_baseline")
        row |= {"wins": wins if other.height else None}
        row |= {"dev_less_test": (own["dev_score"] - own["test_score"]).mean()}
        rows.append(row | {"concepts": own["test_score"].count(), "of": own.height, "missing": total.missing_rate})
    return pl.DataFrame(rows, infer_schema_length=None)


def _judge(
    config: JudgeConfig, lm: LanguageModel, plain: list[str], settings: ConceptsConfig, out: Path, progress: Progress
) -> tuple[Judge, dict[str, Any]]:
    """The judge and what the manifest keeps of it. A calibration of the same settings is taken up."""
    cuts = config.kind.per_model
    if cuts is None:
        return config.open(RunFolder(out).replies), config.identity
    steering, held = settings.steering, ConceptsFolder(out).calibration
    made = {"max_new_tokens": steering.max_new_tokens, "seed": steering.seed}
    key = digest_of([config.name, lm.reference, str(lm.dtype), plain, made])
    found = held.read() if held.exists else {}
    if found.get("key") != key:
        fresh = cuts.calibrate(lm, plain, **made, progress=progress)
        found = {"key": key, "calibration": fresh.model_dump(mode="json")}
        held.write(found)
    record = found["calibration"]
    return cuts.judge(lm, cuts.parse(record, origin=str(held.path))), record


def _order(table: pl.DataFrame, column: str) -> list[str]:
    """Methods, the highest mean first."""
    means = table.group_by("method", maintain_order=True).agg(pl.col(column).mean())
    return means.sort(column, descending=True, nulls_last=True, maintain_order=True)["method"].to_list()


def _mean(values: pl.Series, name: str) -> dict[str, float | None]:
    """A mean over concepts with its 95 % bootstrap interval, which is null where too few are known."""
    known = values.drop_nulls().cast(pl.Float64).to_numpy()
    found = mean_estimate(known, name=name)
    return {name: float(known.mean()) if len(known) else None, f"{name}_low": found.low, f"{name}_high": found.high}
