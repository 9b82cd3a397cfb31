"""The dose response of a study: how much of what is steered with is seen, by how far it was moved.

Pure functions from the study's table `doses` to a figure. Reads nothing.
"""

import polars as pl

from saelab.report import words
from saelab.report.chart import SHAPES, Axis, Figure, Key, Line, Mark, Panel, draw, key
from saelab.report.names import Names

SETS = {"classes": ("Known classes", "var(--line-0)"), "features": ("Features of SAEs", "var(--line-1)")}


def doses(table: pl.DataFrame, names: Names) -> Figure:
    """Lift against KL per token, one panel per outcome, a line per set and site."""
    places = table.select("lm", "site").unique(maintain_order=True).rows()
    ticks = tuple(sorted(table["dose"].unique().to_list()))
    panels, keys = [], dict[str, Key]()
    for (outcome,), whole in table.group_by("outcome", maintain_order=True):
        lines, marks = [], []
        here = whole.drop_nulls("lift").sort("dose")
        for (lm, site, kind), part in here.group_by("lm", "site", "set", maintain_order=True):
            label, colour = SETS.get(str(kind), (words.label(str(kind)), "var(--line-2)"))
            label = f"{label}, {lm} {site}" if len(places) > 1 else label
            shape = list(SHAPES)[places.index((lm, site)) % len(SHAPES)]  # of sites, where there are several
            keys.setdefault(label, key(label, colour, shape=shape, dash="solid"))
            lines.append(Line(tuple(part.select("dose", "lift").iter_rows()), colour))
            for dose, lift, low, high in part.select("dose", "lift", "low", "high").iter_rows():
                span = None if low is None or high is None else (low, high)
                title = f"{label}, {dose:g} nats: {words.number(lift, 3)}"
                marks.append(Mark(dose, lift, colour, shape, 4.5, y_span=span, title=title))
        n = ", ".join([f"{SETS.get(kind, (kind,))[0]} {count}" for kind, count in _counts(whole)])
        x = Axis(f"KL per token, nats (n: {n})", "log", ticks)
        panels.append(
            Panel(x, Axis("Lift", zero=True), tuple(marks), tuple(lines), words.upper(names.variable(outcome)))
        )
    drawn = tuple(draw(p, beside=[q for q in panels if q is not p]) for p in panels)
    alt = "Lift against dose for known classes and for features, one panel per outcome."
    caption = "On texts that chose the dose; those that are scored are others. Bars: 95 % intervals."
    return Figure("doses", drawn, (("", tuple(keys.values())),), alt, caption)


def _counts(table: pl.DataFrame) -> list[tuple[str, str]]:
    """How many of each set are behind a point, over sites and doses."""
    if "n" not in table.columns:
        return []
    found = table.drop_nulls("n").group_by("set", maintain_order=True).agg(low=pl.min("n"), high=pl.max("n"))
    return [(s, f"{low}" if low == high else f"{low} to {high}") for s, low, high in found.iter_rows()]
