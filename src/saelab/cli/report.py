"""`saelab report`: the page of a run folder. Needs no torch."""

from pathlib import Path

from saelab.cli.output import say
from saelab.core.errors import UserError
from saelab.store.layout import RunFolder


def report(run: Path, *, out: Path | None = None) -> int:
    """Write the report of a run folder.

    Parameters
    ----------
    run:
        The run folder.
    out:
        Where the page goes; by default report.html in the run folder.
    """
    from saelab.report.page import write_report

    folder = RunFolder(run)
    if not folder.ledger.exists() and not folder.summary.exists:
        raise UserError(f"{run} is not a run folder.", hint="Give the --out of saelab run, or the demo's folder.")
    say(f"Report: {write_report(folder, out)}")
    return 0
