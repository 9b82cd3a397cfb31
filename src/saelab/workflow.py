"""The main jobs as one call each: a study to its page, SAEs that exist to a verdict. Safe to call again after a crash.

Stands above both: a study knows no page, and a page is made of artefacts alone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from saelab.core.progress import SILENT, Progress
from saelab.report.unchanged import unchanged
from saelab.store.artefacts import Table
from saelab.store.layout import RunFolder
from saelab.study.evaluation import evaluation
from saelab.study.run import HERE, run
from saelab.study.scales import read_study
from saelab.study.spec import StudyConfig


def run_study(
    study: str | Path | StudyConfig,
    out: str | Path,
    *,
    scale: str | None = None,
    on: str = HERE,
    threads: int | None = None,
    replace: bool = False,
    tell: Callable[[str], None] = lambda sentence: None,
    progress: Progress = SILENT,
) -> Path:
    """Run a study file (or config) into the folder `out`; returns the path of the report.

    scale: which of the scales of the file (study/scales.py); None: as it stands. on, threads: where cells run and with
    how many threads each; replace, tell: what is given up, and who is told (study/run.py).
    """
    config = study if isinstance(study, StudyConfig) else read_study(study, scale)
    folder = run(config, out, on=on, threads=threads, replace=replace, tell=tell, progress=progress)
    if unchanged(folder):
        return folder.report
    from saelab.report.page import write_report  # not waited for where nothing is drawn

    return write_report(folder)


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` found, with the columns of the run folder's own tables.

    verdict: which SAE is better at what. saes: a row per SAE. compared: a row per aspect and pair, with intervals.
    features, effects: of every SAE, a row per feature: what was scored, and what it does to the next token. page,
    folder: the report, and all that was measured.
    """

    verdict: str
    saes: pl.DataFrame
    compared: pl.DataFrame
    features: dict[str, pl.DataFrame]
    effects: dict[str, pl.DataFrame]
    page: Path
    folder: Path

    def __repr__(self) -> str:
        return f"Evaluation of {len(self.saes)} SAEs ({self.page}): {self.verdict}"


def evaluate(
    saes: Sequence[Any] | Mapping[str, Any],
    lm: str | None = None,
    *,
    text: str | Sequence[str] | None = None,
    site: str | None = None,
    preset: str = "small",
    only: Collection[str] = (),
    against: str | None = None,
    force_lm: bool = False,
    as_read: bool = False,
    out: str | Path | None = None,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
    progress: Progress = SILENT,
) -> Evaluated:
    """Judge SAEs that exist, side by side on one language model: which is better at what.

    saes: references (any that `load_sae` takes), SAEs of saelab, or any objects that encode and decode (`SaeLike`, as
    those of SAELens and SAEBench are); in a row, or by the names that tables call them. lm: a short name or reference;
    by default the one that the SAEs name. text: a reference, or documents; by default the embedded corpus. site: of
    SAEs that do not say theirs. preset: tiny, small or paper. only: of fidelity, interp, suite, effects, steer, match.
    against: a folder of SAEBench's result files, which are set beside as they were published. force_lm, as_read: judge
    them though they name another LM, or though another convention fits better. out: the run folder, by
    default runs/evaluate-...; the same call goes on after an interruption. Raises the errors of `evaluation`
    (study/evaluation.py) and of `run`.
    """
    asked = {"preset": preset, "only": only, "against": against, "force_lm": force_lm, "as_read": as_read}
    study = evaluation(saes, lm=lm, text=text, site=site, **asked)
    folder = RunFolder(Path(out) if out is not None else Path("runs") / study.name)
    page = run_study(study, folder.root, threads=threads, tell=tell, progress=progress)
    table = folder.stats.table("saes").read()
    names = table["sae"].to_list()
    return Evaluated(
        verdict=folder.summary.read()["verdict"],
        saes=table,
        compared=folder.stats.table("compared").read(),
        features=_read(names, lambda name: folder.interp(name).features),
        effects=_read(names, lambda name: folder.selection(name).effects),
        page=page,
        folder=folder.root,
    )


def _read(names: Sequence[str], table_of: Callable[[str], Table]) -> dict[str, pl.DataFrame]:
    """The tables of those SAEs that have one."""
    return {name: table_of(name).read() for name in names if table_of(name).exists}
