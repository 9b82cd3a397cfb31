"""The figures of the report: what of a table becomes a mark, in which colour, and what the axes say.

Points without a value are left out and counted in the caption; a point without an interval is hollow and said to be.
Every axis says its n. Reads nothing; the numbers of every figure are also in a table.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from saelab.report import words
from saelab.report.chart import DASHES, SHAPES, Axis, Figure, Key, Line, Mark, Number, Panel, draw, key, thinned
from saelab.report.feature_card import CLEAR, FeatureCard
from saelab.report.material import SaePair
from saelab.report.names import OTHER, Names, anchors

FEW = 8  # names that stand beside marks
WIDE = (520, 380)
MOST_POINTS, MOST_FEATURES = 200, 2000  # drawn of a line; of the features that have no card


def scatter(saes: pl.DataFrame, names: Names, y: str = "utility", named: Collection[str] = ()) -> Figure:
    """Interpretability against how SAEs steer (column `y`): a mark per SAE that leads to its row, a panel per LM.

    named: SAEs whose names stand beside their marks, where they are few.
    """
    rows, ids = names.in_grid_order(saes), anchors(saes)
    drawn = rows.drop_nulls(["interpretability", y])
    shapes = _by_level(drawn)
    lms = drawn["lm"].unique(maintain_order=True).to_list()
    panels = []
    for lm in lms:
        part = drawn.filter(pl.col("lm") == lm)
        marks = tuple(_sae(r, y, names, shapes, ids) for r in part.iter_rows(named=True))
        if len(named) <= FEW:
            marks = tuple(replace(m, name=s if s in named else "") for m, s in zip(marks, part["sae"], strict=True))
        n = f"n = {words.plural(part.height, 'SAE')}"
        panels.append(
            Panel(
                Axis(f"Interpretability: balanced accuracy{_each(part, 'n_scored', 'feature')}"),
                Axis(words.upper(names.variable(y)) + _each(part, "n_steered", "feature")),
                marks, title=n if len(lms) == 1 else f"{lm}, {n}",
            )
        )  # fmt: skip
    sizes = {} if len(panels) > 1 else {"width": WIDE[0], "height": WIDE[1]}
    drawings = tuple(draw(p, beside=[q for q in panels if q is not p], **sizes) for p in panels)
    bare = [r for r in drawn.iter_rows(named=True) if _span(r, y) is None]
    keys = _architectures(drawn, names)
    levels = tuple(key(f"{level:g}", "var(--soft)", shape=shape) for level, shape in shapes.items())
    more = [("", (key("no interval", "var(--soft)", shape="circle", hollow=True),))] if bare else []
    lost = saes.height - drawn.height
    said = [f"Not drawn: {words.plural(lost, 'SAE')} without one of the two scores."] if lost else []
    if bare:
        said.append(f"Hollow: {words.plural(len(bare), 'SAE')} whose features all score the same, or too few to say.")
    alt = f"Scatter plot of {words.plural(drawn.height, 'SAE')}: interpretability against {names.variable(y)}."
    return Figure("scatter", drawings, (("", keys), ("Target L0", levels), *more), alt, " ".join(said))


def _each(part: pl.DataFrame, column: str, noun: str) -> str:
    """How many features stand behind each point, for its axis."""
    counts = part[column].drop_nulls().to_list() if column in part.columns else []
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f" (n = {words.plural(high, noun)} each)" if low == high else f" (n = {low} to {high} {noun}s each)"


def _by_level(saes: pl.DataFrame) -> dict[Number, str]:
    """A shape per level."""
    levels = sorted(saes["level"].drop_nulls().unique().to_list())
    return {level: list(SHAPES)[i % len(SHAPES)] for i, level in enumerate(levels)}


def _architectures(saes: pl.DataFrame, names: Names) -> tuple[Key, ...]:
    order = names.order(saes["architecture"].to_list())
    return tuple(key(names.architecture(name), names.colour(name), shape="circle") for name in order)


def _span(row: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The interval of a value; None where there is none, and where its ends are the value itself."""
    low, high = words.finite(row.get(f"{name}_low")), words.finite(row.get(f"{name}_high"))
    return None if low is None or high is None or low == high else (low, high)


def _sae(row: Mapping[str, Any], y: str, names: Names, shapes: Mapping[Number, str], ids: Mapping[str, str]) -> Mark:
    up = _span(row, y)
    shown = "no interval" if up is None else words.interval(*up)
    l0 = words.finite(row["l0"])
    title = (
        f"{row['sae']}: interpretability {words.number(row['interpretability'])}, {names.variable(y)} "
        f"{words.number(row[y])} {shown}, L0 {'missing' if l0 is None else words.number(l0, 1)}"
    )
    shape = "circle" if row["level"] is None else shapes[row["level"]]
    return Mark(
        row["interpretability"], row[y], names.colour(row["architecture"]), shape, 6, hollow=up is None,
        x_span=_span(row, "interpretability"), y_span=up, title=title, link=ids.get(row["sae"], ""),
    )  # fmt: skip


def frontier(saes: pl.DataFrame, names: Names) -> Figure:
    """FVU and cross-entropy recovered against the L0 reached, with the random dictionaries as hollow marks."""
    ids, panels = anchors(saes), []
    levels = tuple(sorted(saes["level"].drop_nulls().unique().to_list()))
    for measure, title in (("fvu", "FVU (lower is better)"), ("ce_recovered", "CE recovered (higher is better)")):
        marks = []
        for row in names.in_grid_order(saes).drop_nulls("l0").iter_rows(named=True):
            at, said = row["l0"], f"{row['sae']}: L0 {words.number(row['l0'], 1)}"
            if (value := words.finite(row.get(f"random_{measure}"))) is not None:
                beside = f"random dictionary beside {said}, {words.number(value, 3)}"
                marks.append(Mark(at, value, "var(--soft)", size=3, hollow=True, title=beside))
            if (value := words.finite(row[measure])) is not None:
                colour, own = names.colour(row["architecture"]), f"{said}, {words.number(value, 3)}"
                marks.append(Mark(at, value, colour, title=own, link=ids[row["sae"]]))
        axis = Axis(f"L0 reached (ticks: the targets), n = {words.plural(saes.height, 'SAE')}", "log", levels)
        panels.append(draw(Panel(axis, Axis(), tuple(marks), title=title)))
    random = key("Random dictionary", "var(--soft)", shape="circle", hollow=True)
    alt = "Two panels: FVU and cross-entropy recovered against L0, by architecture, with random dictionaries."
    return Figure("frontier", tuple(panels), (("", (*_architectures(saes, names), random)),), alt)


def selection(table: pl.DataFrame, names: Names) -> Figure:
    """Steering score of the features of each arm: pooled with its interval, single SAEs as faint dots."""
    order = table["arm"].unique(maintain_order=True).to_list()[::-1]
    place = {arm: float(i) for i, arm in enumerate(order)}
    known, marks = table.drop_nulls("score"), []
    controls = names.arms_of("control")
    for row in sorted(known.iter_rows(named=True), key=lambda r: r["sae"] == "all"):
        whole, at = row["sae"] == "all", place[row["arm"]]
        title = f"{'all SAEs' if whole else row['sae']}: {words.number(row['score'])}, {row['n']} features"
        span = (row["low"], row["high"]) if whole and None not in (row["low"], row["high"]) else None
        shade = "var(--soft)" if row["arm"] in controls else "var(--accent)"
        colour, size = (shade, 6) if whole else ("var(--soft-faint)", 3.5)
        marks.append(Mark(row["score"], at, colour, size=size, x_span=span, title=title))
    base = known.filter((pl.col("sae") == "all") & pl.col("arm").is_in(names.arms_of("baseline")))["score"]
    n = words.plural(known.filter(pl.col("sae") != "all")["sae"].n_unique(), "SAE")
    labels = tuple(words.upper(names.arm(name)) for name in order)
    axis = Axis(f"Steering score, n = {n}", zero=True)
    panel = Panel(axis, Axis(scale="names", names=labels), tuple(marks), rule=base[0] if base.len() else None)
    keys = (
        key("All SAEs", "var(--accent)", shape="circle"), key("Controls, all SAEs", "var(--soft)", shape="circle"),
        key("Single SAEs", "var(--soft-faint)", shape="circle"),
    )  # fmt: skip
    alt = "Steering score of the features of each arm, with controls and intervals."
    drawn = draw(panel, width=640, height=90 + 40 * len(order))
    return Figure("selection", (drawn,), (("", keys),), alt, "Dotted line: no selection, all SAEs.")


def training(metrics: pl.DataFrame, known: Mapping[str, tuple[str, float]], names: Names) -> Figure:
    """FVU, L0 and dead share over the tokens seen, one line per SAE. `known` maps an SAE to (architecture, level)."""
    levels = sorted({level for _, level in known.values()})
    dashes = {level: list(DASHES)[i % len(DASHES)] for i, level in enumerate(levels)}
    places = {sae: known.get(sae, (OTHER, 0.0)) for sae in metrics["sae"].unique()}
    order = names.order([name for name, _ in places.values()])
    saes = sorted(places, key=lambda s: (order.index(places[s][0]), places[s][1], s))
    n = words.plural(len(saes), "SAE")
    axes = {
        "fvu": ("FVU", Axis()),
        "l0": ("L0 (log scale)", Axis(scale="log", ticks=tuple(levels))),
        "dead_share": ("Dead features", Axis(zero=True, percent=True)),
    }
    panels = []
    for column, (title, axis) in axes.items():
        lines = []
        for sae in saes:
            line = metrics.filter(pl.col("sae") == sae).sort("tokens").drop_nulls(column).select("tokens", column)
            line = line.filter(pl.col(column) > 0) if axis.scale == "log" else line
            if line.height:
                name, level = places[sae]
                points = tuple(thinned(line.rows(), MOST_POINTS))
                lines.append(Line(points, names.colour(name), dashes.get(level, "solid"), title=sae))
        panels.append(draw(Panel(Axis(f"Tokens seen, n = {n}"), axis, lines=tuple(lines), title=title), width=340))
    keys = tuple(key(names.architecture(name), names.colour(name), dash="solid") for name in order)
    by_level = tuple(key(f"{level:g}", "var(--soft)", dash=dash) for level, dash in dashes.items())
    alt = f"Training curves of {n}: FVU, L0 and dead share."
    drawn = (("", keys), ("Target L0", by_level if len(levels) > 1 else ()))
    long = metrics.group_by("sae").len()["len"].to_list()
    thin = f"At most about {MOST_POINTS} rows of each line are drawn." if max(long) > MOST_POINTS else ""
    return Figure("training", tuple(panels), drawn, alt, thin)


def features(candidates: pl.DataFrame, cards: Sequence[FeatureCard]) -> Figure | None:
    """Every feature that was described and steered, by both scores; those that have a card lead to it."""
    known = candidates.drop_nulls(["balanced_accuracy", "percentile"]).unique(["sae", "feature"], maintain_order=True)
    if not known.height:
        return None
    at = {(c.pick.sae, c.pick.feature): f"card-{i}" for i, c in enumerate(cards, 1)}
    opened, others = [], []
    for row in known.iter_rows(named=True):
        x, y, link = row["balanced_accuracy"], row["percentile"], at.get((row["sae"], row["feature"]), "")
        title = f"{row['sae']}, feature {row['feature']}: {row['description']}"
        if link:
            opened.append(Mark(x, y, "var(--accent)", size=5.5, title=title, link=link))
        else:
            others.append(Mark(x, y, "var(--soft-faint)", size=3))
    marks = [*thinned(others, MOST_FEATURES), *opened]
    n = words.plural(known.height, "feature")
    x = Axis(f"Balanced accuracy of the description (dotted: {CLEAR:g}), n = {n}")
    panel = Panel(x, Axis("Percentile of its texts under its reader"), tuple(marks), rule=CLEAR)
    keys = (key("has a card", "var(--accent)", shape="circle"), key("others", "var(--soft-faint)", shape="circle"))
    alt = f"Scatter plot of {n}: balanced accuracy against the percentile of steered texts."
    drawn = draw(panel, width=640, height=340)
    caption = "A point with a card opens it."
    if len(others) > MOST_FEATURES:
        caption += f" Of the others {words.number(len(marks) - len(opened), 0)} are drawn."
    return Figure("features-drawn", (drawn,), (("Feature", keys),), alt, caption)


def matching(pairs: Sequence[SaePair], names: Names) -> Figure:
    """Cost, matching score, explained variance and cross-entropy change along the matched pairs of sites."""
    titles = {
        "cost": "Cost per matched feature",
        "matching_score": "Matching score",
        "explained_variance": "Explained variance of the skip",
        "ce_change": "CE change of the skip, nats",
    }
    panels, keys = [], dict[str, Key]()
    for column, title in titles.items():
        drawn = curves(pairs, column, names)
        labels = tuple(dict.fromkeys(x for c in drawn for x in c.x))
        lines, marks = [], []
        for curve in drawn:
            points = tuple((float(labels.index(x)), y) for x, y in zip(curve.x, curve.y, strict=True))
            shape = "diamond" if curve.dash == "dash" else "circle"
            if curve.chain:
                lines.append(Line(points, curve.colour, curve.dash, 2))
            said = [f"{curve.name}, {x}: {words.number(y, 3)}" for x, y in zip(curve.x, curve.y, strict=True)]
            marks += [
                Mark(*p, curve.colour, shape, 4, hollow=not curve.chain, title=t)
                for p, t in zip(points, said, strict=True)
            ]
            keys.setdefault(curve.name, key(curve.name, curve.colour, shape=shape, dash=curve.dash))
        n = f", n = {words.plural(len(labels), 'pair')} of SAEs"
        x, y = Axis("Sites" + n, "names", names=labels), Axis(zero=True)
        panels.append(draw(Panel(x, y, tuple(marks), tuple(lines), title)))
    caption = (
        "Hollow marks: sites further apart. The two lower panels put a prediction in place of the state at the second "
        "site: from matched features of the first, from its own encode-decode (nothing skipped), from the first site's "
        "state encoded and decoded, or from that state as it is (blocks dropped)."
    )
    alt = "Four panels of matching quality by pair of sites."
    return Figure("matching", tuple(panels), (("", tuple(keys.values())),), alt, caption)


@dataclass(frozen=True)
class MatchingLine:
    """One line of a matching panel: a value per pair of SAEs. A chain joins neighbours; other pairs stand alone."""

    name: str
    colour: str
    dash: str
    chain: bool
    x: tuple[str, ...]
    y: tuple[float, ...]


def curves(pairs: Sequence[SaePair], column: str, names: Names) -> list[MatchingLine]:
    """The lines of one panel: the matching, and what it has to be read against. Absent values are left out."""
    own: dict[tuple[str, bool], dict[str, float]] = {}
    least = min((p.span for p in pairs), default=0)
    for pair in sorted(pairs, key=lambda p: (p.span, p.layers, p.first)):
        for name, value in pair.values(column).items():
            own.setdefault((name, pair.span == least), {})[pair.label] = value
    found = []
    for (name, chain), line in own.items():
        shown, shade, dash = names.line(name)
        found.append(MatchingLine(shown, shade, dash, chain, tuple(line), tuple(line.values())))
    order = [names.line(name)[0] for name in names.matchings]
    return sorted(found, key=lambda c: (order.index(c.name) if c.name in order else len(order), not c.chain))
