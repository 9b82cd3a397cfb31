"""`saelab stats`: rank agreement of two columns of anybody's table, as one table of 80 columns. Needs no torch."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from saelab.cli.output import say, show_table
from saelab.cli.parameters import SEVERAL
from saelab.core.errors import UserError

LINE = "{:<34} {:>6} {:>16} {:>5} {:>7} {:>7}"
HEAD = LINE.format("", "tau", "95 % interval", "n", "p", "Holm")


def stats(
    table: Path | None = None,
    *,
    x: str,
    y: str,
    saebench: Path | None = None,
    axis: Annotated[list[str] | None, SEVERAL] = None,
    cluster: str | None = None,
    partial: Annotated[list[str] | None, SEVERAL] = None,
    difference: str | None = None,
    features: Annotated[bool, Parameter(negative=())] = False,
    group: str = "sae",
    plot: Path | None = None,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Print tau_b overall and by axes, with intervals and p.

    Parameters
    ----------
    table:
        One row per SAE: .csv, .tsv, .json, .jsonl (also .gz, .bz2, .xz) or .parquet.
    x:
        Column of the first score.
    y:
        Column of the second score.
    saebench:
        Instead of a table, a folder of SAEBench's result files; columns are named EVALUATION.METRIC.
    axis:
        Columns that group the rows; by default those of architecture, level, lm that the table has.
    cluster:
        Column whose values share more than their rows do, such as the language model; by default lm.
    partial:
        Columns to take out of both scores: Kendall's partial tau.
    difference:
        A column instead of y: does x agree more with y than with it? Paired over rows.
    features:
        The rows are features: compare inside every SAE and never across.
    group:
        With --features, the column that says which rows belong together.
    plot:
        Write a scatter of the two columns to this .svg file.
    seed:
        Seed of resampling and permutation.
    json:
        Print all columns as JSON rows.
    """
    from saelab.stats.agreement import agree_by_usual_axes
    from saelab.stats.effects import partial_tau, tau_difference
    from saelab.stats.features import feature_agreement
    from saelab.stats.inputs import require
    from saelab.stats.table_files import open_table, saebench_table

    if (table is None) == (saebench is None):
        raise UserError("Give a table or --saebench FOLDER, one of the two.")
    if features and (partial or difference or axis):
        raise UserError("--features compares inside every SAE: --partial, --difference and --axis are of SAEs.")
    data = saebench_table(saebench) if saebench else open_table(table or Path())
    require(data, [x, y, *(partial or ()), *([difference] if difference else ())])  # before what takes long
    if plot:
        from saelab.report.scatter import write_scatter

        write_scatter(data, x, y, plot)
    known = cluster or ("lm" if "lm" in data.columns else None)
    asked: dict[str, Any] = {"cluster": known, "seed": seed}
    if features:
        found = feature_agreement(data, predictors=[x], response=y, sae=group, **asked)
        shown = _of_features(found, group)
    else:
        axes = {name: name for name in axis} if axis else None
        found = agree_by_usual_axes(data, x=x, y=y, axes=axes, cluster=cluster, seed=seed)
        shown = _of_agreement(found)
        if partial:
            found = partial_tau(data, x=x, y=y, given=partial, within=[known] if known else [], **asked)
            pairs = f"given {', '.join(partial)}" + (f", inside {known}" if known else "")
            means = f"given {', '.join(partial)}, mean over {known}"  # of what each has by itself
            shown += [(means if r["statistic"].endswith("within") else pairs, r) for r in _rows(found)]
        if difference:
            found = tau_difference(data, first=(x, y), second=(x, difference), **asked)
            name = f"less tau with {difference}"
            scopes = ("", ", by clusters", ", inside, these", ", inside, like these")
            shown += [(name + scope, r) for scope, r in zip(scopes, _rows(found), strict=False)]
    if json:
        show_table(found, as_json=True)
    else:
        _print(f"{x} against {y}", shown)
    return 0


Rows = list[tuple[str, dict[str, Any]]]


def _rows(table: Any) -> list[dict[str, Any]]:
    return table.to_dicts()


def _of_agreement(found: Any) -> Rows:
    """Overall, the groups of the reported mode, every psi; the groups of the matched mode stand in --json."""
    shown: Rows = []
    for i, row in enumerate(_rows(found)):
        if row["mode"] == "overall":
            shown.append((("all", "all, by clusters", "inside clusters, these", "inside clusters, like these")[i], row))
        elif row["statistic"] != "tau":
            what = {"reported": "", "matched": " varies, others fixed"}[row["mode"]]
            shown.append((f"{row['statistic']} of {row['axis'] or 'all axes'}{what}", row))
        elif row["mode"] == "reported":
            shown.append((f"{row['axis']} {row['group']}", row))
    return shown


def _of_features(found: Any, group: str) -> Rows:
    """The pooled rows, then every group; tau, with Spearman's in --json."""
    rows = [r for r in _rows(found) if r["statistic"] == "tau"]
    pooled = [(f"mean inside {group}, {r['scope']}", r) for r in rows if r["sae"] is None]
    return pooled + [(f"{group} {r['sae']}", r) for r in rows if r["sae"] is not None]


def _print(title: str, shown: Rows) -> None:
    """One line per estimate; under the table the notes by number, the methods, the families and what was left out."""
    notes: list[str] = []
    _wrapped(title)
    say(HEAD)
    for name, row in shown:
        words = [w for w in (row["note"], None if row["state"] == "ok" else f"no value: {row['state']}") if w]
        note = "; ".join(words)
        if note and note not in notes:
            notes.append(note)
        marked = f"{name} [{notes.index(note) + 1}]" if note else name
        if len(marked) > 34:
            say(marked)
            marked = ""
        ends = [row["low"], row["high"]]
        interval = "" if None in ends else f"{_number(row['low'])} to {_number(row['high'])}"
        ps = [_p(row["p"]), _p(row.get("p_holm"))]
        say(LINE.format(marked, _number(row["value"]), interval, row["n"], *ps).rstrip())
    for i, note in enumerate(notes):
        _wrapped(f"[{i + 1}] {note}")
    rows = [row for _, row in shown]
    for label, column in (("intervals", "interval_method"), ("p", "p_method"), ("Holm over", "family")):
        if named := list(dict.fromkeys(row[column] for row in rows if row.get(column))):
            _wrapped(f"{label}: {'; '.join(named)}")
    if dropped := max((row["dropped"] for row in rows), default=0):
        _wrapped(f"left out: {dropped} rows in which a score is missing")


def _wrapped(text: str) -> None:
    from textwrap import wrap

    for line in wrap(text, 80, subsequent_indent="    "):
        say(line)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _p(value: float | None) -> str:
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
