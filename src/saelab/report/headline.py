"""The head of the page: the study's answer, one sentence on what the page reports, and the key figures.

Where the gate did not pass, nothing is printed as a gain. Pure functions of `Material`.
"""

from dataclasses import dataclass, replace

import polars as pl

from saelab.report import words
from saelab.report.adopted import adopted_of, all_adopted
from saelab.report.chart import Figure
from saelab.report.figures import frontier
from saelab.report.material import Material
from saelab.report.names import Names
from saelab.report.record import stage_seconds
from saelab.report.sections import overall, scatter, training
from saelab.report.steering_figures import doses
from saelab.report.steering_sections import steering_of, told

STEERING = "Do more interpretable features steer better?"
CHANCE = 0.5  # balanced accuracy of a description that says nothing


@dataclass(frozen=True)
class Tile:
    """A key figure at the head of the page."""

    label: str
    value: str
    note: str


def question(material: Material) -> str:
    """What a run with these artefacts can be asked."""
    if all_adopted(material):
        return "Which of these SAEs is better, and at what?"
    if _steered(material) or material.arms is not None:
        return STEERING
    if _interpreted(material):
        return "How faithful are these SAEs, and how interpretable are their features?"
    return (
        "How did these SAEs train?" if material.training is not None else "Do more interpretable features steer better?"
    )


def answer(material: Material) -> str:
    """The study's own answer; of a run that has none, what its tables say of its SAEs."""
    said = str(material.summary.get("verdict") or "")
    if _steered(material) or material.saes is None or not material.saes.height:
        return said or _as_trained(material)
    measured = _as_measured(material.asked_about)
    return said if measured is None or (said and question(material).startswith("Which")) else measured


def answer_lines(material: Material) -> list[str]:
    """The answer as paragraphs: one, or where SAEs are compared one for each aspect."""
    said = answer(material)
    if not all_adopted(material):
        return [said] if said else []
    clauses, depth = [""], 0
    for char in said:
        depth += (char in "([") - (char in ")]")
        if char == ";" and depth == 0:
            clauses.append("")
        else:
            clauses[-1] += char
    return [words.upper(c.strip().rstrip(".")) + "." for c in clauses if c.strip()]


def _steered(material: Material) -> bool:
    saes = material.saes
    return saes is not None and "n_steered" in saes.columns and saes["n_steered"].null_count() < saes.height


def _interpreted(material: Material) -> bool:
    return material.candidates is not None or material.saes is not None


def _as_measured(saes: pl.DataFrame | None) -> str | None:
    """How SAEs do beside random dictionaries; None where fidelity was not measured."""
    if saes is None:
        return None
    known = saes.drop_nulls(["fvu", "random_fvu"])
    if not known.height:
        return None
    below = known.filter(pl.col("fvu") < pl.col("random_fvu")).height
    said = f"FVU is {_reach(known['fvu'])}, below that of a random dictionary for {_of(below, known.height)}"
    read = saes.drop_nulls("interpretability")
    if not read.height:
        return f"{said}."
    said += f"; descriptions tell where features fire with a balanced accuracy of {_reach(read['interpretability'])}"
    if "interpretability_low" not in saes.columns:
        random = read["random_interpretability"].drop_nulls()
        beside = f"random dictionaries: {_reach(random)}; " if random.len() else ""
        return f"{said} ({beside}intervals come with statistics)."
    above = _of(read.filter(pl.col("interpretability_low") > CHANCE).height, read.height)
    return f"{said}, above chance ({CHANCE}) by its 95 % interval for {above}."


def _as_trained(material: Material) -> str:
    """Where training stands."""
    if material.training is None or not material.training.height:
        return ""
    last = material.training.sort("tokens").unique("sae", keep="last").drop_nulls("fvu")
    if not last.height:
        return ""
    dead = last["dead_share"].drop_nulls().to_list()
    more = f", with at most {words.percent(max(dead))} of features dead" if dead else ""
    seen = words.number(max(last["tokens"].to_list()), 0)
    return (
        f"After {seen} tokens the FVU of {words.plural(last.height, 'SAE')} is "
        f"{_reach(last['fvu'])} on batches of training text{more}; nothing is measured on held-out text yet."
    )


def _reach(values: pl.Series) -> str:
    low, high = (words.number(end, 2) for end in (min(values.to_list()), max(values.to_list())))
    return low if low == high else f"{low} to {high}"


def _of(some: int, all_: int) -> str:
    return f"{'none' if not some else 'all' if some == all_ else words.number(some, 0)} of {words.plural(all_, 'SAE')}"


def picture(material: Material) -> Figure | None:
    """The figure that shows the answer: the dose response where nothing is seen, the SAEs, or their training."""
    blind = material.gate == "failed" and material.doses is not None and material.doses.height
    if not blind and (drawn := scatter(material)):
        return drawn
    found = next((p.content for p in training(material).parts if p.kind == "figure"), None)
    if blind and material.doses is not None:
        found = doses(material.doses, material.names)
    elif (saes := material.asked_about) is not None and saes["fvu"].null_count() < saes.height:
        found = frontier(saes, material.names)
    return found and replace(found, name="first", panels=found.panels[:1])


def opening(material: Material) -> str:
    """One sentence on what this page reports."""
    summary, saes = material.summary, material.saes
    trained = [] if material.training is None else material.training["sae"].unique().to_list()
    count = saes.height if saes is not None else len(summary.get("saes") or trained)
    if not count:
        return ""
    lms = [] if saes is None else [lm for lm in saes["lm"].unique(maintain_order=True) if lm]
    names = material.names
    kinds = [] if saes is None else [names.architecture(a) for a in names.order(saes["architecture"].to_list())]
    made = f" of {words.plural(len(kinds), 'architecture')} ({words.listing(kinds)})" if kinds else ""
    where = f" on {words.listing(lms)}" if lms else ""
    seconds = stage_seconds(summary)
    took = f", in {words.duration(sum(seconds.values()))} of work" if seconds else ""
    what = words.plural(count, "sparse autoencoder")
    taken = {r["sae"] for r in adopted_of(material)}
    own = saes is None or not taken or not set(saes["sae"]) <= taken
    done = ["trained"] * own + ["adopted"] * bool(taken) + ["interpreted"] * _interpreted(material)
    done += ["steered", "compared"] * _steered(material) + ["matched"] * bool(material.pairs)
    return f"{what}{made}{where}: {words.listing(done)}{took}."


def tiles(material: Material) -> list[Tile]:
    """The key figures: agreement, lift, gains, matching score. What does not exist has no tile."""
    found = gate_tiles(material)
    y = steering_of(material)
    table = material.agreement if material.gate != "failed" else None
    if table is not None and (row := overall(table, "interpretability", y)):
        value, low, high = (words.finite(row[c]) for c in ("value", "low", "high"))
        if value is not None:
            span = "no interval" if low is None or high is None else f"95 % interval {words.interval(low, high)}"
            found.append(
                Tile("Rank agreement, Kendall's τ", words.number(value, signed=True), f"{span}, {row['n']} SAEs")
            )
    if material.selection is not None and material.gate == "passed" and told(material.selection, material.names):
        found += gain_tiles(material.selection, material.names)
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
    if not record or not record["sites"]:
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


def gain_tiles(selection: pl.DataFrame, names: Names) -> list[Tile]:
    """What each arm's choice gained over no selection, pooled over SAEs."""
    pooled = selection.filter((pl.col("sae") == "all") & pl.col("score").is_not_null())
    rows = {r["arm"]: r for r in pooled.iter_rows(named=True)}
    base = next((rows[name]["score"] for name in names.arms_of("baseline") if name in rows), None)
    found = []
    for name in names.arms_of("chosen"):
        row = rows.get(name)
        if row is None or row["gain"] is None or base is None:
            continue
        ends = [words.finite(row.get(end)) for end in ("gain_low", "gain_high")]
        span = ", ".join(words.percent(e, signed=True) for e in ends if e is not None)
        note = f"95 % interval [{span}]" if None not in ends else "no interval"
        note += f", steering score {words.number(base)} → {words.number(row['score'])}"
        found.append(Tile(f"Gain by {names.arm(name)}", words.percent(row["gain"], signed=True), note))
    return found
