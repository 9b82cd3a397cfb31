"""The tables of matchings: cost, certificate, score and skip of every pair, and the classes of features.

Pure functions from `material.Pair` to `cells.Table`. Reads nothing, draws nothing.
"""

from collections.abc import Sequence
from typing import Any

from saelab.report import words
from saelab.report.cells import (
    BLANK,
    Column,
    PageTable,
    TableCell,
    TableRow,
    estimate,
    figure,
    missing,
    percentage,
    text,
)
from saelab.report.material import SaePair
from saelab.report.names import Names


def matchings(pairs: tuple[SaePair, ...], names: Names) -> PageTable:
    """Every matching with its certificate and what skipping the blocks between with it costs."""
    columns = (
        Column("Sites", kind="text"),
        Column("Matched", "of features", room=6),
        Column("Cost", "per feature", room=9),
        Column("Score", names.beside("matching_score")[1], room=5),
        Column("Cosine", "random", room=5),
        Column("Variance explained", names.beside("explained_variance")[1], room=5),
        Column("CE change", names.beside("ce_change")[1], room=6),
    )
    rows = []
    for pair in sorted(pairs, key=lambda p: (p.span, p.layers, p.first)):
        share = pair.matched / pair.features if pair.features else None
        cosine = pair.quality.get("cosine") or {}
        rows.append(TableRow((
            text(pair.label, pair.first.rpartition(".")[0], title=f"{pair.first} to {pair.second}"),
            percentage(share, note=words.number(pair.features, 0), why="no table of pairs"),
            _beside(pair, "cost", certificate(pair.quality)),
            _beside(pair, "matching_score", names.beside("matching_score")[0]),
            figure(cosine.get("matched_median"), note=_note(cosine.get("random_median")), why="not measured"),
            _beside(pair, "explained_variance", names.beside("explained_variance")[0]),
            _beside(pair, "ce_change", names.beside("ce_change")[0]),
        )))  # fmt: skip
        if composed := pair.quality.get("composed"):
            same = words.finite(composed.get("same_as_direct"))
            note = "" if same is None else f"{words.percent(same)} of the pairs are the same"
            measures = ("matching_score", "explained_variance", "ce_change")
            score, variance, change = (figure(pair.values(m).get("composed"), why="not measured") for m in measures)
            cells = (text(f"{pair.label}, step by step", note), BLANK, BLANK, score, BLANK, variance, change)
            rows.append(TableRow(cells))
    return PageTable("Matchings", columns, tuple(rows))


def controls(pairs: Sequence[SaePair], names: Names) -> PageTable:
    """The matching beside others of the same features, each put to work alike; differences over documents, paired."""
    columns = (
        Column("Sites", kind="text"),
        Column("Matched by", kind="text"),
        Column("Score", "95 % interval", room=14),
        Column("less", "the matching less this", room=16),
        Column("Variance explained", "95 % interval", room=14),
        Column("less", "the matching less this", room=16),
        Column("CE change", "95 % interval", room=14),
        Column("less", "the matching less this", room=16),
    )
    rows = []
    for pair in pairs:
        own = pair.quality
        how = f"as asked ({own['fold']}, {own['parts']})" if own.get("fold") else "as asked"
        rows.append(TableRow((text(pair.label), text(how), *_measures(own, {}))))
        for name, record in own["controls"].items():
            label = names.matchings.get(name, {}).get("label", name)
            rows.append(TableRow((text(pair.label), text(label), *_measures(record, record["less"]))))
    return PageTable("The matching beside its controls", columns, tuple(rows))


def _measures(record: dict[str, Any], less: dict[str, Any]) -> list[TableCell]:
    """A measure and how far the matching lies above it, three times."""
    places = {"matching_score": record, "explained_variance": record["skip"], "ce_change": record["skip"]}
    cells = []
    for name, place in places.items():
        cells.append(estimate(place, name, 3, why="no matched feature fires"))
        found = less.get(name)
        ends = {} if found is None else {"x": found["value"], "x_low": found["low"], "x_high": found["high"]}
        cells.append(BLANK if found is None else estimate(ends, "x", 3, why="not measured"))
    return cells


def classes(pairs: Sequence[SaePair]) -> PageTable:
    """What becomes of the features of each site at the next."""
    names = ("carried on", "changed", "merged", "died", "split off", "born", "one to many", "many to one", "ambiguous")
    columns = (Column("Sites", kind="text"), *(Column(words.upper(n)) for n in names))
    rows = []
    for pair in pairs:
        counts = pair.quality["classes"]
        rows.append(TableRow((text(pair.label), *(figure(counts.get(n), 0, why="not counted") for n in names))))
    return PageTable("Features by what becomes of them", columns, tuple(rows))


def repeats(pairs: Sequence[SaePair]) -> PageTable:
    """Trainings of one SAE with other seeds, matched by directions."""
    columns = (
        Column("Trainings", kind="text"),
        Column("MCC", "mean cosine of partners", room=8),
        Column("Chance", "unrelated dictionary", room=8),
        Column("Carried on"),
        Column("Changed"),
        Column("No partner"),
        Column("Cost", kind="text"),
    )
    rows = []
    for pair in pairs:
        own, counts = pair.quality, pair.quality["classes"]
        shares = (
            percentage(counts[k] / pair.features, 1, why="no table of pairs") for k in ("carried on", "changed", "died")
        )
        about = text(pair.first, pair.second)
        mcc = estimate(own, "mcc", 3, why="not measured")
        chance = figure(own.get("chance"), 3, why="not measured")
        rows.append(TableRow((about, mcc, chance, *shares, text(certificate(own)))))
    return PageTable("The same SAE trained again with another seed", columns, tuple(rows))


def certificate(quality: dict[str, Any]) -> str:
    """How far a cost is proved to be from the optimum."""
    cost, gap = words.finite(quality.get("cost")), words.finite(quality.get("gap"))
    if cost is None or gap is None:
        return "no proof"
    return "optimal" if gap <= 1e-9 * abs(cost) else f"within {words.adaptive(100 * gap / abs(cost))} %"


def _beside(pair: SaePair, measure: str, other: str) -> TableCell:
    """A measure of a matching, with that of a baseline (or words, for the cost) as its note."""
    values = pair.values(measure)
    if "matched" not in values:
        return missing("not measured")
    if measure == "cost":
        return TableCell(words.adaptive(values["matched"]), other)
    return TableCell(words.number(values["matched"]), _note(values.get(other)))


def _note(value: Any) -> str:
    known = words.finite(value)
    return "" if known is None else words.number(known)
