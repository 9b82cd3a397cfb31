"""The head of the page: the study's answer, one sentence on what the page reports, and the key figures.

Where the gate did not pass, nothing is printed as a gain. Pure functions of `Material`.
"""

from dataclasses import dataclass

import polars as pl

from saelab.report import words
from saelab.report.adopted import adopted_of
from saelab.report.material import Material
from saelab.report.names import Names
from saelab.report.sections import overall, stage_seconds
from saelab.report.steering_sections import steering_of


@dataclass(frozen=True)
class Tile:
    """A key figure at the head of the page."""

    label: str
    value: str
    note: str


def answer(material: Material) -> str:
    """The study's answer; a run from before studies gave one, or without statistics, has none."""
    return str(material.summary.get("verdict") or "")


def opening(material: Material) -> str:
    """One sentence on what this page reports."""
    summary, saes = material.summary, material.saes
    named = summary.get("saes") or []
    count = saes.height if saes is not None else len(named)
    lms = [] if saes is None else saes["lm"].unique(maintain_order=True).to_list()
    names = material.names
    kinds = [] if saes is None else [names.architecture(a) for a in names.order(saes["architecture"].to_list())]
    made = f" of {words.plural(len(kinds), 'architecture')} ({words.listing(kinds)})" if kinds else ""
    where = f" on {words.listing(lms)}" if lms else ""
    seconds = stage_seconds(summary)
    took = f", in {words.duration(sum(seconds.values()))} of work" if seconds else ""
    what = words.plural(count, "sparse autoencoder")
    steered = saes is not None and "n_steered" in saes.columns and saes["n_steered"].null_count() < saes.height
    taken = {r["sae"] for r in adopted_of(material)}
    own = saes is None or not taken or not set(saes["sae"]) <= taken
    done = ["trained"] * own + ["adopted"] * bool(taken) + ["interpreted"]
    done += ["steered", "compared"] * steered + ["matched"] * bool(material.pairs)
    return f"{what}{made}{where}: {words.listing(done)}{took}."


def tiles(material: Material) -> list[Tile]:
    """The key figures: agreement, lifts, matching score. What does not exist has no tile."""
    found = gate_tiles(material)
    y = steering_of(material)
    table = material.agreement if material.gate != "failed" else None
    if table is not None and (row := overall(table, "interpretability", y)):
        value, low, high = (words.finite(row[c]) for c in ("value", "low", "high"))
        if value is not None:
            note = "" if low is None or high is None else f"95 % interval {words.interval(low, high)}, "
            found.append(
                Tile("Rank agreement, Kendall's τ", words.number(value, signed=True), f"{note}{row['n']} SAEs")
            )
    if material.selection is not None and material.gate == "passed":
        found += lift_tiles(material.selection, material.names)
    scores = [
        (p.label, s)
        for p in material.pairs
        if p.span <= 1 and (s := words.finite(p.quality.get("matching_score"))) is not None
    ]
    if scores:
        mean = sum(s for _, s in scores) / len(scores)
        found.append(
            Tile(
                "Matching score, adjacent sites",
                words.number(mean),
                f"mean of {words.listing([pair for pair, _ in scores])}",
            )
        )
    return found


def gate_tiles(material: Material) -> list[Tile]:
    """Whether the study can see steering, and what its features do beyond a random dictionary's."""
    record = material.summary.get("instrument")
    if not record:
        return []
    sites = [s["state"] for s in record["sites"]]
    state = {"passed": "passed", "failed": "failed"}.get(material.gate, "not gated")
    found = [
        Tile("Gate: can steering be seen?", state, f"{sites.count('passed')} of {words.plural(len(sites), 'site')}")
    ]
    less = material.summary.get("steering_lift") or {}
    if material.gate == "passed" and (value := words.finite(less.get("value"))) is not None:
        low, high = words.finite(less.get("low")), words.finite(less.get("high"))
        note = "no interval" if low is None or high is None else f"95 % interval {words.interval(low, high)}"
        found.append(Tile("Lift less a random dictionary's", words.number(value, signed=True), note))
    return found


def lift_tiles(selection: pl.DataFrame, names: Names) -> list[Tile]:
    """What each arm's choice gained over no selection, pooled over SAEs."""
    pooled = selection.filter((pl.col("sae") == "all") & pl.col("score").is_not_null())
    rows = {r["criterion"]: r for r in pooled.iter_rows(named=True)}
    base = next((rows[name]["score"] for name in names.arms_of("baseline") if name in rows), None)
    found = []
    for name in names.arms_of("chosen"):
        row = rows.get(name)
        if row is None or row["lift"] is None or base is None:
            continue
        ends = [words.finite(row.get(end)) for end in ("lift_low", "lift_high")]
        span = ", ".join(words.percent(e, signed=True) for e in ends if e is not None)
        note = f"95 % interval [{span}]" if None not in ends else "no interval"
        note += f", steering score {words.number(base)} → {words.number(row['score'])}"
        found.append(Tile(f"Lift by {names.arm(name)}", words.percent(row["lift"], signed=True), note))
    return found
