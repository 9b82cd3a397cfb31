"""`saelab run`: a study file to its report; `finish` is shared with `saelab demo` and `saelab evaluate`."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelab.cli.output import note, say, show_record
from saelab.cli.progress import shown
from saelab.store.layout import RunFolder

if TYPE_CHECKING:
    from saelab.study.spec import StudyConfig


def run(
    study: Path,
    *,
    out: Path | None = None,
    scale: str | None = None,
    on: str = "here",
    threads: int | None = None,
    replace: bool = False,
    json: bool = False,
) -> int:
    """Run a study file.

    Parameters
    ----------
    study:
        The study file (YAML), or a run folder to go on with.
    out:
        Run folder; by default runs/NAME beside where you stand (runs/NAME-SCALE with a scale).
    scale:
        One of the scales that the file defines, such as small.
    on:
        here; ray: side by side on this machine; ray:ADDRESS: on a running cluster that sees the run folder.
    threads:
        Threads of one cell. The same number gives the same bytes, wherever cells run.
    replace:
        Give up what the folder holds of other settings, and all that follows from it; it says what it deletes.
    json:
        Print the summary as JSON.
    """
    return finish(
        study, out or place_of(study, scale), as_json=json, scale=scale, on=on, threads=threads, replace=replace
    )


def place_of(study: Path, scale: str | None = None) -> Path:
    """The run folder of a study file where none is named: `runs/NAME`. A run folder is its own."""
    if study.is_dir():
        return study
    return Path("runs") / (study.stem if scale is None else f"{study.stem}-{scale}")


def finish(study: "Path | StudyConfig", out: Path, *, as_json: bool, **how: Any) -> int:
    """Run, report, and say where the page is. how: keyword arguments of `run_study`."""
    gc.disable()  # loading modules makes no garbage, and looking for it takes a tenth of a finished run's start
    from saelab.workflow import run_study

    gc.freeze()
    gc.enable()
    with shown() as progress:
        page = run_study(study, out, tell=note, progress=progress, **how)
    summary = RunFolder(out).summary.read()
    if as_json:
        show_record(summary, as_json=True)
        return 0
    say(summary["verdict"])
    overall = [r for r in summary["agreement"] if r["mode"] == "overall" and r["y"] == "utility"][:1]
    for row in overall:
        interval = f"[{row['low']:.2f}, {row['high']:.2f}]" if row["low"] is not None else "no interval"
        value = f"{row['value']:.2f} {interval}" if row["value"] is not None else f"missing ({row['state']})"
        say(f"tau_b of interpretability and utility over {row['n']} SAEs: {value}")
    for row in summary["selection"]:
        score = "missing" if row["score"] is None else f"{row['score']:.3f}"
        say(f"steering score, {row['arm']}: {score} ({row['n']} features)")
    say(f"Report: {page}")
    return 0
