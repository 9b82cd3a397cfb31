"""The suite as a stage: what the model reads to disk, and for each SAE a table of results and SAEBench's files.

The only place where the suite writes. evaluations.parquet has one row per metric: kind, category, metric, value (null
where there is none), preset, and the reason of what is missing.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from saelab.core.progress import SILENT, Progress
from saelab.interp.suite.data_sets import DataSet
from saelab.interp.suite.evaluation import SiteSuite
from saelab.interp.suite.result import Result
from saelab.interp.suite.saebench_json import lacking, write_saebench
from saelab.interp.suite.site import evaluate
from saelab.judges.client import Judge
from saelab.lm.model import LanguageModel
from saelab.saes.base import Sae
from saelab.store.folders import tensors_name
from saelab.store.provenance import versions
from saelab.store.tables import write_table
from saelab.store.tensors import write_tensors

COLUMNS = {
    "kind": pl.String,
    "category": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "preset": pl.String,
    "reason": pl.String,
}


def read(
    data: DataSet,
    lm: LanguageModel,
    sites: Sequence[str],
    folder: Path,
    *,
    seed: int,
    progress: Progress = SILENT,
) -> list[Path]:
    """One pass of the LM for all sites; returns `folder/<site>.safetensors`."""
    found = data.read(lm, sites, seed, progress)
    paths = []
    for site, tensors in found.items():
        paths.append(folder / tensors_name(site))
        write_tensors(paths[-1], tensors)
    return paths


def run(
    site: SiteSuite,
    sae: Sae,
    name: str,
    *,
    features: pl.DataFrame,
    judge: Judge,
    table: Path,
    saebench: Path,
    progress: Progress = SILENT,
) -> list[Path]:
    """Evaluate one SAE; returns the table and the files in SAEBench's layout.

    features: of its interp stage, whose descriptions `judge` is asked about.
    """
    results = evaluate(site, sae, features, judge, progress=progress)
    version = versions().get("saelab", "unknown")
    paths = [table]
    write_table(table, results_table(results, site.config.preset))
    for result in results:
        written = write_saebench(result, sae, name, saebench, version=version)
        if written is not None:
            paths.append(written)
    return paths


def results_table(results: Sequence[Result], preset: str) -> pl.DataFrame:
    """One row per metric."""
    rows = [
        {
            "kind": result.kind,
            "category": category,
            "metric": metric,
            "value": None if value is None else float(value),
            "preset": preset,
            "reason": None if value is not None else result.reason or _why(result, metric),
        }
        for result in results
        for category, metrics in result.metrics.items()
        for metric, value in metrics.items()
    ]
    return pl.DataFrame(rows, schema=COLUMNS)


def _why(result: Result, metric: str) -> str:
    return (
        "it does not exist for this SAE"
        if metric in lacking(result)
        else "undefined here, or not measured at this preset"
    )
