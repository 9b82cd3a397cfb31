"""Write a finished study as a small folder of tables: `python tools/study_page.py RUN docs/reduced-study`.

README.md: the facts, what the intervals allow one to say, and the tables; tables.tex: the same tables in LaTeX;
saes.csv, features.csv, agreement.csv: the numbers. No number is typed, and a sentence about a number follows from its
interval. Nothing heavy is copied: no weights, no texts.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from saelab.stats.agreement import agreement
from saelab.stats.effects import group_differences, partial_tau, tau_difference
from saelab.stats.lift import selection_lift, steering_gains
from saelab.stats.tables import TextTable, agreement_table, lift_table, number
from saelab.store.files import write_text
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.names import chosen_arms
from saelab.study.spec import StudyConfig

X, Y = "interpretability", "utility"
AXES = {"architecture": "architecture", "level": "level", "lm": "lm"}


def span(row: dict[str, Any], digits: int = 2) -> str:
    """`0.12 [−0.10, 0.34]`, or why there is no number."""
    if row["value"] is None:
        return f"no value ({row['state']})"
    interval = "no interval" if row["low"] is None else f"[{number(row['low'], digits)}, {number(row['high'], digits)}]"
    return f"{number(row['value'], digits)} {interval}"


def source(row: dict[str, Any]) -> str:
    """Whose interval it is, or why there is none."""
    return row["interval_method"] or row["note"] or "no interval"


def verdict(row: dict[str, Any]) -> str:
    """What an interval says of zero."""
    if row["value"] is None or row["low"] is None:
        return "nothing can be said"
    if row["low"] <= 0 <= row["high"]:
        return "zero is inside: no association is shown, and none is excluded"
    return "zero is outside, on the side of agreement" if row["low"] > 0 else "zero is outside: they disagree"


def wide(run: RunFolder, arms: Sequence[str]) -> pl.DataFrame:
    """One row per steered SAE: its scores, those of its selected features, and its mean |DeltaC|."""
    saes = read_table(run.stats.root / "saes.parquet").filter(pl.col("n_steered").is_not_null())
    steered = read_table(run.stats.root / "steered.parquet")
    gains = steering_gains(steered, criterion="criterion", baseline="none")
    for criterion in arms:
        own = gains.filter(pl.col("criterion") == criterion)
        own = own.select(
            "sae", pl.col("selected").alias(f"after {criterion}"), pl.col("gain").alias(f"gain {criterion}")
        )
        saes = saes.join(own, on="sae", how="left", maintain_order="left")
    drawn = steered.filter(pl.col("criterion") == "none")
    moved = drawn.group_by("sae").agg(pl.col("delta_confidence").abs().mean().alias("mean |DeltaC|"))
    return saes.join(moved, on="sae", how="left", maintain_order="left")


class Page:
    """The study's tables and the sentences that follow from them."""

    def __init__(self, run: RunFolder):
        self.run, self.study = run, StudyConfig.from_yaml(run.study)
        self.arms = list(chosen_arms(self.study))
        self.summary, self.saes = run.summary.read(), wide(run, self.arms)
        self.steered = read_table(run.stats.root / "steered.parquet")
        self.draws = {"seed": self.study.seed, "draws": self.study.resamples}
        self.tables: list[tuple[str, TextTable]] = []
        outcomes = [Y, *(f"{kind} {c}" for c in self.arms for kind in ("after", "gain"))]
        self.found = {y: agreement(self.saes, x=X, y=y, axes=AXES, **self.draws) for y in outcomes}
        self.found["mean |DeltaC|"] = agreement(self.saes, x="mean |DeltaC|", y=Y, axes=AXES, **self.draws)

    def overall(self, y: str) -> list[dict[str, Any]]:
        """The overall rows: BCa over SAEs, then clusters of LMs where there are several."""
        return self.found[y].filter(pl.col("mode") == "overall").to_dicts()

    def reading(self) -> str:
        """What one may say, by the intervals."""
        names = {Y: "before selection", "mean |DeltaC|": "mean |DeltaC| of an SAE against its utility"}
        named = {y: names.get(y, f"utility {y}" if y.startswith("after") else f"steering {y}") for y in self.found}
        lines = [
            f"- {named[y]} ({source(row)}): tau_b {span(row)}; {verdict(row)}."
            for y in self.found
            for row in self.overall(y)
        ]
        lines += [self.change(c) for c in self.arms]
        lines += [self.by_axis(y, named[y]) for y in (Y, *(f"after {c}" for c in self.arms))]
        lines += [self.confounded(given) for given in (["l0"], ["fvu"])]
        lines += self.architectures()
        lines += [self.feature_level(), self.floor()]
        return "\n".join(lines) + "\n"

    def by_axis(self, y: str, named: str) -> str:
        """psi of the axes, and how many of their groups stand out."""
        rows = self.found[y].filter(pl.col("mode") == "reported")
        psis = rows.filter(pl.col("statistic") == "psi").to_dicts()
        groups = rows.filter((pl.col("statistic") == "tau") & pl.col("axis").is_not_null())
        clear = groups.filter(pl.col("p_holm") < 0.05).height
        shown = "; ".join(f"{r['axis']} psi {span(r)}, p {number(r['p'])}" for r in psis)
        return f"- {named}, by axis: {shown}. Groups with p < .05 after Holm: {clear} of {groups.height}."

    def floor(self) -> str:
        """Does steering move the score at all? Texts written without any steering are judged like the others."""
        pooled = read_table(self.run.stats.root / "selection.parquet").filter(sae="all").drop_nulls("over")
        names = {"value": "over", "low": "over_low", "high": "over_high", "p": "over_p"}
        rows = pooled.select("criterion", "state", **names).to_dicts()
        shown = "; ".join(f"{r['criterion']} {span(r, 3)}" for r in rows)
        clear = [r["criterion"] for r in rows if r["p"] is not None and r["p"] < 0.05]
        return (
            f"- steering score of the selected features less that of texts without steering, means over SAEs: {shown}. "
            f"Told from no steering after Holm's correction: {', '.join(clear) if clear else 'none'}."
        )

    def feature_level(self) -> str:
        """Which scores of a feature go with how it steers, inside its SAE."""
        rows = read_table(self.run.stats.root / "features.parquet").filter(pl.col("statistic") == "tau").to_dicts()
        held = [r for r in rows if r["low"] is not None]
        out = [f"{r['predictor']} {span(r)}" for r in held if not r["low"] <= 0 <= r["high"]]
        return (
            f"- features within their SAEs: of {len(held)} scores with an interval for their tau with the steering "
            f"score, zero is outside for {', '.join(out) if out else 'none'} (no correction for their number)."
        )

    def change(self, criterion: str) -> str:
        """Does selecting change the agreement? Paired over SAEs."""
        rows = tau_difference(self.saes, first=(X, f"after {criterion}"), second=(X, Y), cluster="lm", **self.draws)
        shown = "; ".join(f"{span(r)} ({source(r)})" for r in rows.to_dicts())
        return f"- change of tau by selecting with {criterion}, paired: {shown}."

    def confounded(self, given: list[str]) -> str:
        """Partial tau inside LMs."""
        row = partial_tau(self.saes, x=X, y=Y, given=given, within=["lm"], **self.draws).to_dicts()[0]
        return f"- given {', '.join(given)}, inside each LM: partial tau {span(row)}; {verdict(row)}."

    def architectures(self) -> list[str]:
        """Pairs of architectures whose taus differ, with the family corrected."""
        rows = group_differences(self.saes, x=X, y=Y, by="architecture", **self.draws)
        clear = rows.filter(pl.col("p_holm") < 0.05)
        return [f"- {rows.height} pairs of architectures: {clear.height} differ in tau after Holm's correction."]

    def numbers(self) -> None:
        """Collect the tables."""
        captions = {Y: "Table 1: against utility"} | {f"after {c}": f"Against utility after {c}" for c in self.arms}
        captions |= {f"gain {c}": f"Table 3: against the steering gain by {c}" for c in self.arms}
        for y, caption in captions.items():
            self.tables.append((caption, agreement_table(self.found[y])))
        self.tables.append(("Matched groups, against utility", agreement_table(self.found[Y], mode="matched")))
        lifts = selection_lift(self.steered, criterion="criterion", baseline="none", by="lm", **self.draws)
        self.tables.append(("Table 2: what selecting buys", lift_table(lifts)))
        self.tables.append(("Features within SAEs", self.within()))

    def within(self) -> TextTable:
        """Does a feature's own score go with how well it steers, inside its SAE?"""
        rows = read_table(self.run.stats.root / "features.parquet").filter(pl.col("statistic") == "tau").to_dicts()
        cells = [(r["predictor"], str(r["n_saes"]), str(r["n"]), span(r), number(r["p"])) for r in rows]
        return TextTable(("Predictor", "SAEs", "Features", "Mean tau, 95 % interval", "p"), tuple(cells))

    def facts(self) -> str:
        """What was run, on what, how long."""
        s, study = self.summary, self.study
        machine = ", ".join(f"{k} {v}" for k, v in s["machine"].items())
        stages = {k: v for k, v in s["seconds"].items() if k != "this_call"}
        lines = [
            f"- {len(s['saes'])} SAEs on {', '.join(s['lm'])}; levels {sorted(self.saes['level'].unique())}; widths "
            f"{sorted(self.saes['width'].unique())}; {study.training.steps} steps of {study.training.batch} tokens.",
            f"- judge: {s['judge']}; seeds: {s['seeds']}; {s['counts'].get('generations', 0):,} texts written, "
            f"judgements by state: {s['counts'].get('judgements')}.",
            f"- machine: {machine}; {s['seconds']['this_call'] / 60:.0f} minutes by the clock in the last call, "
            f"{sum(stages.values()) / 60:.0f} summed over the cells, of which some run side by side ("
            + ", ".join(f"{k} {v / 60:.1f}" for k, v in stages.items()) + ").",
            "- versions: " + ", ".join(f"{k} {v}" for k, v in s["versions"].items()) + ".",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, own: Sequence[str]) -> None:
        """Write the folder. own: paragraphs that a person wrote, kept from the page that stands there."""
        self.numbers()
        head = f"# The study `{self.study.name}`\n\nWritten by `python tools/study_page.py RUN {folder.name}`.\n"
        shown = [f"### {caption}\n\n{table.render('markdown')}" for caption, table in self.tables]
        parts = [head, "## What was run\n", self.facts(), "## What the intervals say\n", self.reading()]
        parts += [*own, "## Tables\n", *shown]
        write_text(folder / "README.md", "\n".join(parts))
        latex = "\n".join(f"% {caption}\n{table.render('latex')}" for caption, table in self.tables)
        write_text(folder / "tables.tex", latex)
        write_text(folder / "saes.csv", self.saes.write_csv())
        write_text(folder / "agreement.csv", pl.concat(list(self.found.values())).write_csv())
        keep = [c for c, t in self.steered.schema.items() if t not in (pl.String,) or c in ("sae", "lm", "criterion")]
        write_text(folder / "features.csv", self.steered.select(keep).write_csv(float_precision=6))


def kept(page: Path) -> list[str]:
    """The section `## Reading` of a page, if there is one."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    _, heading, rest = text.partition("## Reading")
    return [heading + rest.split("\n## ", 1)[0].rstrip() + "\n"] if heading else []


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    target = Path(sys.argv[2])
    Page(RunFolder(Path(sys.argv[1]))).write(target, kept(target / "README.md"))
