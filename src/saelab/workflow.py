"""The whole main job as one call: a study run to its end, then its page. Safe to call again after any crash.

Stands above both: a study knows no page, and a page is made of artefacts alone.
"""

from collections.abc import Callable
from pathlib import Path

from saelab.core.progress import SILENT, Progress
from saelab.report.unchanged import unchanged
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
