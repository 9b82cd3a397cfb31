"""How much Delta Token Confidence depends on k, on the strength and on the prefix, on the SAEs of a finished study.

    python benchmarks/sensitivity.py demo --saes 4      (about a minute a SAE on one core)

Each setting is held against the papers' (k 1, strength 10, one prefix) over the sampled features of an SAE: tau_b
inside SAEs (mean, t over SAEs) and how many of the five highest stay; and against how the features steer by each
outcome (tau, p by permutation within SAEs). The steering dose is the strength that the study steers each SAE's features
with. Prints Markdown.
"""

import argparse
from pathlib import Path

import polars as pl

import saelab
from saelab.instrument.readers import OUTCOMES
from saelab.selection.effects import PREFIX, feature_effects
from saelab.stats import feature_agreement
from saelab.store.tables import read_table
from saelab.study.names import UNSELECTED

OTHERS = ("I think that", "The most important thing is")
TOP = 5


def settings(dose: float) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {f"k {k}": {"k": k} for k in (5, 10, 20)}
    found["the steering dose"] = {"alpha": dose}
    found |= {f'prefix "{p}"': {"prefix": p} for p in OTHERS}
    return found | {"mean over three prefixes": {"prefix": [PREFIX, *OTHERS]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--saes", type=int, default=4)
    parser.add_argument("--lm", help="of a run of several language models, which; by default the first")
    options = parser.parse_args()
    steered = read_table(options.run / "stats" / "steered.parquet").filter(pl.col("arm") == UNSELECTED)
    steered = steered.filter(pl.col("lm") == (options.lm or steered["lm"][0]))
    lm = saelab.LanguageModel.load(steered["lm"][0], dtype="float32")
    parts = []
    for name in steered["sae"].unique(maintain_order=True).to_list()[: options.saes]:
        mine = steered.filter(pl.col("sae") == name)
        sae = saelab.load_sae(f"path:{options.run / 'saes' / name}")
        asked = {"features": mine["feature"].to_list(), "criteria": ["delta_confidence"], "positions": "last"}
        table = mine.select("sae", "feature", *OUTCOMES)
        for label, other in {"papers": {}, **settings(float(mine["strength"].median() or 0))}.items():
            scored = feature_effects(lm, sae, **asked, **other)
            table = table.with_columns(scored["delta_confidence"].alias(label))
        parts.append(table)
    table = pl.concat(parts)
    labels = [c for c in table.columns if c not in ("sae", "feature", "papers", *OUTCOMES)]
    print(f"{len(parts)} SAEs, {table.height} features\n")
    heads = " | ".join(f"tau with {o} | p" for o in OUTCOMES)
    print(f"| setting | tau with the papers' | of the five highest stay | {heads} |")
    print("|---" * (3 + 2 * len(OUTCOMES)) + "|")
    beside = rows(table, labels, "papers", "like these")
    against = {o: rows(table, ["papers", *labels], o, "these") for o in OUTCOMES}
    for label in ("papers", *labels):
        own, steer = beside.get(label), [against[o][label] for o in OUTCOMES]
        kept = [len(top(g, label) & top(g, "papers")) for g in table.partition_by("sae")]
        first = "" if own is None else shown(own)
        rest = [f"{shown(r)} | {r['p']:.2f}" for r in steer]
        print(f"| {label} | {first} | {sum(kept) / len(kept):.1f} | {' | '.join(rest)} |")


def shown(row: dict[str, float]) -> str:
    ends = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
    return f"{row['value']:.2f}{ends}"


def rows(table: pl.DataFrame, predictors: list[str], outcome: str, scope: str) -> dict[str, dict[str, float]]:
    found = feature_agreement(table, predictors=predictors, response=outcome, draws=2000)
    found = found.filter(pl.col("sae").is_null() & (pl.col("statistic") == "tau") & (pl.col("scope") == scope))
    return {r["predictor"]: r for r in found.iter_rows(named=True)}


def top(features: pl.DataFrame, column: str) -> set[int]:
    return set(features.sort(column, descending=True).head(TOP)["feature"].to_list())


if __name__ == "__main__":
    main()
