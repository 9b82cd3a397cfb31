"""`saelab interp`: the SAEs of a study scored for fidelity and interpretability, with SAEBench's suite where asked."""

from pathlib import Path
from typing import Literal

import polars as pl

from saelab.cli.output import note, say, show_table
from saelab.cli.progress import shown
from saelab.interp.suite.catalogue import headlines
from saelab.store.layout import RunFolder


def interp(
    study: Path,
    *,
    out: Path | None = None,
    preset: Literal["paper", "small", "tiny"] | None = None,
    only: list[str] | None = None,
    ravel: str | None = None,
    threads: int | None = None,
    json: bool = False,
) -> int:
    """Score the SAEs of a study file or a run folder (training them where that is not done).

    Parameters
    ----------
    study:
        The study file (YAML), or the folder of a run.
    out:
        Run folder; by default runs/NAME, or the folder that was given.
    preset:
        Run SAEBench's evaluations as well, at this size.
    only:
        Of these, only the ones named, such as core or tpp.
    ravel:
        Folder of RAVEL's tables, such as path:ravel/data; without it there is no ravel.
    threads:
        Threads of one cell. The same number gives the same bytes.
    json:
        Print JSON.
    """
    from saelab.interp.suite.config import SuiteConfig
    from saelab.report.page import write_report
    from saelab.study.adopt import fallen, standing
    from saelab.study.collect import fidelity_row
    from saelab.study.run import run
    from saelab.study.scales import read_study
    from saelab.study.spec import StudyConfig

    folder = RunFolder(study) if study.is_dir() else None
    config = read_study(folder.study if folder else study)
    if preset or only or ravel:
        asked = {"preset": preset, "only": only, "ravel": ravel}
        before = config.suite.model_dump() if config.suite else {}
        suite = SuiteConfig.parse(before | {k: v for k, v in asked.items() if v}, origin="the command line")
        config = config.model_copy(update={"suite": suite})
    place = out or (study if folder else Path("runs") / study.stem)
    stages = ("text", "harvest", "train", "interp", "read", "evaluate")
    with shown() as progress:
        run_folder = run(config, place, stages=stages, threads=threads, tell=note, progress=progress)
    config = StudyConfig.from_yaml(run_folder.study)  # with what its SAEs' files said
    rows = [fidelity_row(config, run_folder, spec) for spec in standing(config, run_folder)]
    columns = ("sae", "l0", "fvu", "ce_recovered", "dead_share", "interpretability", "auroc", "n_scored")
    table = pl.DataFrame([{c: r[c] for c in columns} for r in rows])
    if config.suite is not None:
        table = table.join(_headlines(run_folder, table["sae"].to_list()), on="sae", how="left", maintain_order="left")
    show_table(table, as_json=json, title=f"judge: {config.judge.name}")
    if not json:
        for spec in fallen(config, run_folder):
            say(f"{spec.name} is not scored: {run_folder.adopted(spec.name).read()['sentence']}")
    if run_folder.report.exists():  # a finished run: its page shows what was added
        path = write_report(run_folder)
        if not json:
            say(f"Report: {path}")
    return 0


def _headlines(run: RunFolder, saes: list[str]) -> pl.DataFrame:
    """The figure of each evaluation that papers quote, a column each."""
    rows = []
    for sae in saes:
        table = run.interp(sae).evaluations.read(["kind", "metric", "value"])
        found = {(kind, metric): value for kind, metric, value in table.select("kind", "metric", "value").iter_rows()}
        shown = {h.title: found[kind, h.metric] for kind, h in headlines() if (kind, h.metric) in found}
        rows.append({"sae": sae} | shown)
    return pl.DataFrame(rows)
