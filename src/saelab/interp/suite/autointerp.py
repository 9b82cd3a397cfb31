"""SAEBench's `autointerp` from the stage's own table of features: the share of windows a judge tells apart, per latent.

    autointerp_score = mean over tested latents of the accuracy over their test windows (features.parquet)

A judge that always says no scores its share of silent windows (20 of 28 here, 10 of 14 upstream: 0.714 both), so the
balanced accuracy and AUROC stand beside it. A latent whose judgements are missing enters no mean and is counted.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from saelab.interp.suite.evaluation import Evaluation, SaebenchFile, Subject
from saelab.interp.suite.result import Result

KIND = "autointerp"
DEVIATIONS = (
    "28 test windows per latent, silent ones checked for silence",
    "judged latents are live ones drawn at random, the rest are counted by state",
)


def evaluation(features: pl.DataFrame, config: Mapping[str, Any]) -> Result:
    """One result from the table of features of an SAE (the columns of run.FEATURES)."""
    tested = features.filter(pl.col("accuracy").is_not_null())
    names = {"autointerp_score": "accuracy", "balanced_accuracy": "balanced_accuracy", "auroc": "auroc"}
    metrics: dict[str, float | int | None] = {name: _mean(tested[column]) for name, column in names.items()}
    metrics["autointerp_std_dev"] = _deviation(tested["accuracy"])
    metrics["n_latents"] = tested.height
    metrics["n_missing"] = int(features["n_missing"].sum())
    judges = sorted(features["judge"].unique().to_list())
    unstructured = {
        str(row["feature"]): {
            "latent": row["feature"],
            "explanation": row["description"],
            "score": row["accuracy"],
            "balanced_accuracy": row["balanced_accuracy"],
            "auroc": row["auroc"],
        }
        for row in tested.iter_rows(named=True)
    }
    states = dict(features["state"].value_counts().sort("state").iter_rows())
    settings = {**config, "judge": judges, "states": states, "deviations": list(DEVIATIONS)}
    reason = None if tested.height else "no latent could be tested"
    return Result(KIND, {"autointerp": metrics}, settings, unstructured=unstructured, reason=reason)


def _mean(column: pl.Series) -> float | None:
    found = column.mean()
    return None if found is None else float(found)  # pyright: ignore[reportArgumentType]  (a numeric column)


def _deviation(column: pl.Series) -> float | None:
    found = column.std(ddof=0) if len(column) else None
    return None if found is None else float(found)  # pyright: ignore[reportArgumentType]  (a numeric column)


def _evaluate(subject: Subject, shared: None) -> Result:
    del shared
    return evaluation(subject.features, {"n_scored": subject.site.text.config.n_scored})


EVALUATION = Evaluation(KIND, {}, _evaluate, saebench=SaebenchFile("autointerp", demanded=("autointerp",)))
