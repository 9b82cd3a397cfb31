"""Writes a finished study as a small folder of tables: `python tools/study_page.py RUN docs/reduced-study`.

README.md: the facts, the verdict and every table of the run's statistics; tables.tex: the tables of agreement in LaTeX;
saes.csv, features.csv, agreement.csv: the numbers. No number is typed: all are those that `saelab run` has written. The
section `## Reading` of a page that stands there is kept. Nothing heavy is copied: no weights, no texts.
"""

import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from demo_page import ARMS, GATE, SPREAD, arms, gate, num, span, spread, table

from saelab.stats.tables import DASH, agreement_table
from saelab.store.files import write_text
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.spec import StudyConfig

# The questions of a study in the order in which they are asked, by the name that its table gives them.
QUESTIONS = {
    "change": "Does selecting features change the agreement, against as many random ones?",
    "partial": "Is it L0, or reconstruction? tau given these, inside language models",
    "regression": "Rank regression: all of these at once",
    "noise": "Reliability, and tau without noise",
    "tier": "Tiers: chosen on half of the prompts, measured on the others",
}


def facts(run: RunFolder, study: StudyConfig, saes: pl.DataFrame) -> str:
    """What was run, on what, how long."""
    s = run.summary.read()
    machine = ", ".join(f"{k} {v}" for k, v in s["machine"].items())
    stages = {k: v for k, v in s["seconds"].items() if k != "this_call"}
    steps = sorted(saes["steps"].drop_nulls().unique()) if "steps" in saes.columns else [study.training.steps]
    lines = [
        f"{saes.height} SAEs on {', '.join(s['lm'])}; sites {', '.join(sorted(saes['site'].unique()))}; levels "
        f"{sorted(saes['level'].unique())}; widths {sorted(saes['width'].unique())}; {steps} steps of "
        f"{study.training.batch} tokens.",
        f"Judge of interpretability: {s['judge']}. Reader of steered texts: {study.instrument.reader}. Seeds: "
        f"{s['seeds']}. {s['counts'].get('texts', 0):,} texts written.",
        f"Machine: {machine}; {s['seconds']['this_call'] / 60:.0f} minutes by the clock in the last call, "
        f"{sum(stages.values()) / 60:.0f} summed over the cells, of which some run side by side ("
        + ", ".join(f"{k} {v / 60:.1f}" for k, v in stages.items()) + ").",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in s["versions"].items()) + ".",
    ]  # fmt: skip
    return "\n".join(textwrap.fill(f"- {line}", 98, subsequent_indent="  ") for line in lines) + "\n"


def asked(rows: Iterable[Mapping[str, Any]]) -> str:
    """Estimates of one question."""
    head = ["about", "outcome", "statistic", "value", "interval of", "p", "p (Holm)", "n", "note"]
    cells = [
        [r["about"], r["y"], r["statistic"], num(r["value"]) + span(dict(r)), r["interval_method"] or DASH, num(r["p"]),
         num(r["p_holm"]), str(r["n"]), r["note"] or ""]
        for r in rows
    ]  # fmt: skip
    return table(head, cells)


def within(rows: Iterable[Mapping[str, Any]]) -> str:
    """Does a feature's own score go with how well it steers, inside its SAE?"""
    head = ["score of a feature", "outcome", "SAEs", "features", "mean tau", "p", "p (Holm)", "of SAEs like these",
            "regret of its first", "regret of any"]  # fmt: skip
    cells = [
        [r["predictor"], r["response"], str(r["n_saes"]), str(r["n"]), num(r["value"]) + span(dict(r)), num(r["p"]),
         num(r["p_holm"]), span(dict(r), "like_").strip() or DASH, num(r["regret"]) + span(dict(r), "regret_"),
         num(r["regret_chance"])]
        for r in rows
    ]  # fmt: skip
    return table(head, cells)


def write(run: RunFolder, folder: Path, own: Sequence[str]) -> None:
    """Write the folder. own: paragraphs that a person wrote, kept from the page that stands there."""
    study, summary = StudyConfig.from_yaml(run.study), run.summary.read()
    saes, found, steered, questions, features = (
        read_table(run.stats.table(name).path) for name in ("saes", "agreement", "steered", "questions", "features")
    )
    parts = [
        f"# The study `{study.name}`\n\nWritten by `python tools/study_page.py RUN {folder.name}`.\n",
        textwrap.fill(summary["verdict"], 98, initial_indent="> ", subsequent_indent="> ") + "\n",
        *own, "## What was run\n", facts(run, study, saes),
        "## Can it see steering?\n", GATE,
        gate(read_table(run.stats.table("controls").path).to_dicts(), ("lm", "site")),
        "## Which features steer?\n", ARMS, arms(summary),
        "## Are SAEs told apart?\n", SPREAD, spread(summary),
        "## Do the rankings agree?\n",
    ]  # fmt: skip
    latex = []
    for x, y in found.select("x", "y").unique(maintain_order=True).iter_rows():
        shown = agreement_table(found.filter((pl.col("x") == x) & (pl.col("y") == y)))
        parts += [f"### {x} and {y}\n", shown.render("markdown")]
        latex.append(f"% {x} and {y}\n{shown.render('latex')}")
    for name, own_rows in questions.group_by("question", maintain_order=True):
        parts += [f"## {QUESTIONS.get(str(name[0]), str(name[0]))}\n", asked(own_rows.to_dicts())]
    parts += ["## Features within SAEs\n", within(features.filter(pl.col("statistic") == "tau").to_dicts())]
    write_text(folder / "README.md", "\n".join(parts))
    write_text(folder / "tables.tex", "\n".join(latex))
    write_text(folder / "saes.csv", saes.write_csv(float_precision=6))
    write_text(folder / "agreement.csv", found.write_csv(float_precision=6))
    write_text(folder / "features.csv", steered.write_csv(float_precision=6))


def kept(page: Path) -> list[str]:
    """The section `## Reading` of a page, if there is one."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    _, heading, rest = text.partition("## Reading")
    return [heading + rest.split("\n## ", 1)[0].rstrip() + "\n"] if heading else []


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    target = Path(sys.argv[2])
    write(RunFolder(Path(sys.argv[1])), target, kept(target / "README.md"))
