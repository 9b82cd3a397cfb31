"""`saelab rate`: people read steered texts without knowing which is which, and are compared with the judges."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from saelab.cli.output import note, say, show_table
from saelab.cli.progress import shown
from saelab.core.errors import UserError
from saelab.store.layout import RunFolder

if TYPE_CHECKING:
    import polars as pl

HOST = "127.0.0.1"


def rate(
    run: Path,
    *,
    rater: str = "rater",
    trials: int = 60,
    report: bool = False,
    port: int = 8766,
    browser: bool = True,
    json: bool = False,
) -> int:
    """Show two texts at a time, served on this machine alone, and say how often you and the judges agree.

    Parameters
    ----------
    run:
        Run folder with steered texts.
    rater:
        Who answers; each rater's answers are kept by name in the run folder.
    trials:
        How many trials are asked; the same ones, in the same order, of everybody. More can be asked later.
    report:
        Print what all raters' answers come to, and serve nothing.
    port:
        Port; 0 takes one that is free.
    browser:
        Open the page in a browser.
    json:
        Print the table as JSON rows.
    """
    if trials < 1:
        raise UserError("--trials is at least 1.")
    from saelab.human.agreement import agreement_of, keep_agreement, left_out
    from saelab.human.answers import AnswerFile, raters_of
    from saelab.human.shown import steered_sets
    from saelab.human.trials import trials_of
    from saelab.study.spec import StudyConfig

    folder = RunFolder(run)
    answers = AnswerFile(folder.human, rater)
    if report:
        given = {name: AnswerFile(folder.human, name).read() for name in raters_of(folder.human)}
        if not given:
            raise UserError(f"Nobody has rated {run} yet.", hint=f"saelab rate {run}")
        with shown() as progress:
            known = trials_of(steered_sets(folder, progress), StudyConfig.from_yaml(folder.study).seed)
        _print(agreement_of(known, given), left_out(known, given), as_json=json)
        keep_agreement(folder, known, given)
        return 0
    from saelab.explore.server import Served, bound
    from saelab.human.app import make_app
    from saelab.human.session import RatingSession

    with bound(HOST, port) as socket:  # before anything is read: a port that is taken is said at once
        with shown() as progress:
            known = trials_of(steered_sets(folder, progress), StudyConfig.from_yaml(folder.study).seed)
        session = RatingSession(known, answers, trials)
        told = partial(_announced, note if json else say)  # of --json a program reads the table alone
        Served(make_app(session), socket, HOST, told=told, ending=lambda: None).run(browser=browser)
    _print(*session.so_far(), as_json=json)
    keep_agreement(folder, known, {name: AnswerFile(folder.human, name).read() for name in raters_of(folder.human)})
    note(f"The study's page shows it: saelab report {run}")
    return 0


def _announced(tell: Callable[[str], None], address: str) -> None:
    tell(f"Trials: {address}\nCtrl-C ends it; every answer is kept.")


def _print(table: "pl.DataFrame", notes: list[str], *, as_json: bool) -> None:
    """The table, one block per rater, and what is left out."""
    import polars.selectors as cs

    if as_json:
        show_table(table, as_json=True)
    else:
        for name in table["rater"].unique(maintain_order=True):
            own = table.filter(rater=name).drop("rater", "p", "chance").with_columns(cs.float().round(2))
            show_table(own, as_json=False, title=f"rater {name}; chance is 0.5, and 0 for kappa")
        if not table.height:
            say("No trial has been answered.")
    for line in notes:
        note(line)
