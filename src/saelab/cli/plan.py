"""`saelab plan`: what a study file would do."""

from pathlib import Path

from saelab.cli.output import say, show_table


def plan(study: Path, *, scale: str | None = None, d_in: int = 576, json: bool = False) -> int:
    """Print cells and estimated minutes per stage, disk, and judged texts. Nothing is run or fetched.

    Parameters
    ----------
    study:
        The study file (YAML).
    scale:
        One of the scales that the file defines, such as small.
    d_in:
        Width of the language model's residual stream, for the estimate of disk.
    json:
        Print JSON.
    """
    from saelab.study.plan import disk_bytes, judged_texts, plan_table
    from saelab.study.scales import read_study
    from saelab.study.spec import saes_of

    config = read_study(study, scale)
    show_table(plan_table(config), as_json=json, title=f"{config.name}: {len(saes_of(config))} SAEs")
    if not json:
        say(f"Disk: about {disk_bytes(config, d_in) / 1e9:.1f} GB. Judged texts: {judged_texts(config):,}.")
        say("Minutes are estimates for two cores and a 135M-parameter model.")
    return 0
