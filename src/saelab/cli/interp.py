"""`saelab interp`: the SAEs of a study file trained and scored for fidelity and interpretability, no more."""

from pathlib import Path

import polars as pl

from saelab.cli.output import show_table
from saelab.cli.progress import shown


def interp(study: Path, *, out: Path | None = None, json: bool = False) -> int:
    """Score the SAEs of a study file (training them where that is not done). `saelab run` goes on from there.

    Parameters
    ----------
    study:
        The study file (YAML).
    out:
        Run folder; by default runs/NAME.
    json:
        Print JSON.
    """
    from saelab.study.collect import fidelity_row
    from saelab.study.run import run
    from saelab.study.scales import read_study
    from saelab.study.spec import saes_of

    config = read_study(study)
    with shown() as progress:
        folder = run(
            config,
            out or Path("runs") / study.stem,
            stages=("text", "harvest", "train", "interp"),
            progress=progress,
        )
    rows = [fidelity_row(config, folder, spec) for spec in saes_of(config)]
    columns = ("sae", "l0", "fvu", "ce_recovered", "dead_share", "interpretability", "auroc", "n_scored")
    table = pl.DataFrame([{c: r[c] for c in columns} for r in rows])
    show_table(table, as_json=json, title="judge: lexical")
    return 0
