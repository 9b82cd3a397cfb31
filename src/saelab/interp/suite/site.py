"""The whole suite for one SAE: every evaluation that a preset asks for, from one shared pass of the model.

    prepare     what the SAEs of a site share: data sets, probes of the LM, baselines   (once)
    evaluate    one SAE: its own encoding, its own probes, its results                 (for each)

Preset and deviations stand in every result, so that none is taken for another.
"""

from dataclasses import replace

import polars as pl

from saelab.core.progress import SILENT, Progress
from saelab.interp.run import InterpSite
from saelab.interp.suite.config import SuiteConfig
from saelab.interp.suite.evaluation import Load, SiteSuite, Subject, evaluation_of
from saelab.interp.suite.result import Result
from saelab.judges.client import Judge
from saelab.saes.base import Sae


def prepare(config: SuiteConfig, text: InterpSite, load: Load, progress: Progress = SILENT) -> SiteSuite:
    """Baselines and probes of the LM at a site. load(key): the tensors of a data set at this site."""
    site = SiteSuite(config, text, load)
    with progress.task(f"probing {text.clean.site}", total=len(config.kinds), unit="evaluations") as task:
        for kind in config.kinds:
            site.shared[kind] = evaluation_of(kind).prepare(site)
            task.advance(part=kind)
    return site


def evaluate(
    site: SiteSuite, sae: Sae, features: pl.DataFrame, judge: Judge, *, progress: Progress = SILENT
) -> list[Result]:
    """Every evaluation of one SAE. features: its table of the interp stage, with the descriptions that are judged."""
    subject, found = Subject(site, sae, features, judge), []
    settings = {"preset": site.config.preset, "random_seed": site.config.seed}
    with progress.task("evaluating", total=len(site.config.kinds), unit="evaluations") as task:
        for kind in site.config.kinds:
            result = evaluation_of(kind).evaluate(subject, site.shared[kind])
            found.append(replace(result, config={**settings, **result.config}))
            task.advance(part=kind)
    return found
