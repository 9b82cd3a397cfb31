"""`saelab stats`: rank agreement of two columns of anybody's table. Needs no torch."""

from pathlib import Path

from saelab.cli.output import show_table

SHOWN = ("mode", "axis", "group", "statistic", "value", "low", "high", "n", "p", "p_holm", "interval_method", "state")


def stats(
    table: Path,
    *,
    x: str,
    y: str,
    axis: list[str] | None = None,
    cluster: str | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Print tau_b overall and by axes, with intervals and p.

    Parameters
    ----------
    table:
        A .csv, .tsv, .jsonl or .parquet file with one row per SAE.
    x:
        Column of the first score.
    y:
        Column of the second score.
    axis:
        Columns that group the rows; by default those of architecture, level, lm that the table has.
    cluster:
        Column whose values are resampled together.
    seed:
        Seed of resampling and permutation.
    json:
        Print all columns as JSON rows.
    """
    from saelab.stats.agreement import read_and_agree

    axes = {name: name for name in axis} if axis else None
    found = read_and_agree(table, x=x, y=y, axes=axes, cluster=cluster, seed=seed)
    show_table(found if json else found.select(SHOWN), as_json=json, title=f"{x} against {y}")
    return 0
