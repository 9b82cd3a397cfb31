"""`saelab train`: only the SAEs of a study file: text, activations, training."""

from pathlib import Path

from saelab.cli.output import note, say
from saelab.cli.progress import shown


def train(study: Path, *, out: Path | None = None) -> int:
    """Train the SAEs of a study file. `saelab run` on the same folder goes on from there.

    Parameters
    ----------
    study:
        The study file (YAML).
    out:
        Run folder; by default runs/NAME.
    """
    from saelab.study.run import run
    from saelab.study.scales import read_study

    with shown() as progress:
        folder = run(
            read_study(study),
            out or Path("runs") / study.stem,
            stages=("text", "harvest", "train"),
            tell=note,
            progress=progress,
        )
    say(f"SAEs: {folder.saes}")
    return 0
