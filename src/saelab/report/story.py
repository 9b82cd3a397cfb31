"""The story of features over layers as a page: the paper's figures (SAE Match, arXiv 2410.07656), a section per LM.

Drawn from a table of points (figure, series, x, value, low, high) alone. Reads nothing of a run and computes nothing
but means that it says so of.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import polars as pl

from saelab.report import words
from saelab.report.cells import Column, PageTable, TableCell, TableRow, text
from saelab.report.chart import Axis, Figure, Key, Line, Mark, Panel, draw, key
from saelab.report.page import printed
from saelab.report.parts import Part, Section

Look = tuple[str, str, str]  # of a series: its label, colour (a variable of the page's palette) and dash
# How a series is drawn; those that are not here take a colour by their place.
SERIES: dict[str, Look] = {
    "folded": ("folded, all tensors (the paper)", "line-0", "solid"),
    "directions": ("decoder directions", "line-1", "solid"),
    "unfolded": ("unfolded, all tensors", "line-2", "solid"),
    "chance": ("random pairs", "line-4", "dot"),
    "random": ("random pairs", "line-4", "dot"),
    "same": ("same", "line-3", "dash"),
    "composed, folded": ("step by step, folded", "line-0", "dash"),
    "direct, folded": ("direct, folded", "line-0", "solid"),
    "composed, directions": ("step by step, directions", "line-1", "dash"),
    "direct, directions": ("direct, directions", "line-1", "solid"),
    "all": ("folded: all tensors", "line-0", "solid"),
    "decoder": ("folded: decoder", "line-3", "solid"),
    "encoder": ("folded: encoder", "line-2", "solid"),
}
COLOURS = 6
LESS, PAIRED = " less", "The paper's less these, paired"


@dataclass(frozen=True)
class PaperFigure:
    """A figure of the paper: its panels (key of the points, title, axes), and what to read it for."""

    title: str
    panels: tuple[tuple[str, str, str, str], ...]
    caption: str = ""


FIGURES = (
    PaperFigure("Figure 1: norms and thresholds", (
        ("1 norms", "Mean norm of the state", "site", ""),
        ("1 thetas", "Mean threshold, unit decoder rows", "site", ""),
        ("1 change", "A step each", "change of the mean norm", "distance of matched columns"),
    ), "Thresholds grow as states do; a step over which the norm changes more moves the folded columns further."),
    PaperFigure("Figure 3: errors of matched tensors, in folded units", (
        ("3 decoder", "Decoder", "site", "mean squared error"), ("3 encoder", "Encoder", "site", ""),
        ("3 bias", "Bias", "site", ""),
    )),
    PaperFigure("Figures 4 and 7, left: pairs with the same description", (
        ("4", "One site to the next", "site", "share of pairs"),
        ("8 described", "From the first site on", "sites apart", "share of pairs"),
    ), "Same: two descriptions of one feature, from two halves of the text, which is the most that can be reached."),
    PaperFigure("Figures 5 and 6: decoder error of matched pairs", (
        ("5", "Pairs by decoder error", "mean squared error", "pairs"),
        ("6", "By what the judge says of the pair", "share of pairs", "mean squared error"),
    )),
    PaperFigure("Figures 7, right, and 8: matching score", (
        ("7", "One site to the next", "site", "P(partner on | feature on)"),
        ("7" + LESS, PAIRED, "site", "difference"),
        ("8", "From the first site on", "sites apart", "P(partner on | feature on)"),
    )),
    PaperFigure("Figures 12 and 14: by L0, at one pair of sites", (
        ("12", "Matching score", "L0", ""), ("14", "Explained variance of the skip", "L0", ""),
    )),
    PaperFigure("Figures 15 and 16: neighbours of one L0; only the nearest pairs moved", (
        ("15", "Explained variance of the skip", "L0 of the first", ""),
        ("16", "Explained variance of the skip", "share of pairs moved", ""),
    )),
)  # fmt: skip
SKIPS = (("10", "Loss of the skip", "nats"), ("11", "Explained variance of the skip", ""))


def story_page(
    told: Mapping[str, tuple[pl.DataFrame, Sequence[Mapping[str, Any]]]],
    judge: str,
    *,
    looks: Mapping[str, Look] = MappingProxyType({}),
    gap: float | None = None,
) -> str:
    """The page. told: by LM the points, and the nearest pairs with their descriptions. judge: who compared them; looks:
    of further series; gap: the largest of a matching, as a share of its cost.
    """
    lines = [_headline(lm, points) for lm, (points, _) in told.items()]
    sections = [
        _section((n, lm), points, pairs, SERIES | dict(looks)) for n, (lm, (points, pairs)) in enumerate(told.items())
    ]
    return printed(
        title="Features from layer to layer",
        kicker="SAE Match (arXiv 2410.07656) on these SAEs",
        question="Are features of neighbouring layers the same, and does folding help to match them?",
        answer=[line for line in lines if line],
        opening=f"Descriptions are compared by {judge}. Intervals: 95 %, over documents or over pairs.{_proved(gap)}",
        sections=sections,
        made="Made by saelab match --story; the page holds everything it shows and loads nothing.",
    )


def _proved(gap: float | None) -> str:
    if gap is None:
        return ""
    how = "proved optimal" if gap <= 1e-9 else f"within {words.adaptive(100 * gap)} % of the optimum"
    return f" Every matching is {how}."


def _headline(lm: str, points: pl.DataFrame) -> str:
    means = points.filter(figure="7").group_by("series").agg(pl.col("value").mean())
    found = dict(means.iter_rows())
    said = [f"{SERIES[s][0]} {words.number(v, 3)}" for s in SERIES if (v := found.get(s)) is not None]
    return f"{lm}, matching score, mean over steps: {'; '.join(said)}." if said else ""


def _section(
    place: tuple[int, str],
    points: pl.DataFrame,
    pairs: Sequence[Mapping[str, Any]],
    looks: Mapping[str, Look],
) -> Section:
    number, lm = place
    parts: list[Part] = []
    for drawn in (*FIGURES[:5], *_skips(points), *FIGURES[5:]):
        if figure := _figure(f"{number}-{len(parts)}", drawn, points, looks):
            parts += [Part("heading", drawn.title), Part("figure", figure)]
        if drawn is FIGURES[3] and pairs:
            parts.append(Part("table", _nearest(pairs)))
    lead = "Every way of matching is put to the same text. Figures are numbered as in the paper."
    return Section(f"lm-{number}", lm, lead, tuple(parts))


def _skips(points: pl.DataFrame) -> Iterable[PaperFigure]:
    """Figures 10, 11 (13 of a second LM): a picture per text."""
    figures = [f for f in points["figure"].unique(maintain_order=True) if f.startswith("10 ")]
    for name in (f.partition(" ")[2] for f in figures if not f.endswith(LESS)):
        panels = [(f"{figure} {name}", title, "site", unit) for figure, title, unit in SKIPS]
        panels += [(f"{figure} {name}{LESS}", PAIRED, "site", unit) for figure, _, unit in SKIPS]
        yield PaperFigure(f"Figures 10, 11 and 13: a block skipped, on {name}", tuple(panels))


def _figure(name: str, drawn: PaperFigure, points: pl.DataFrame, looks: Mapping[str, Look]) -> Figure | None:
    panels, keys = [], dict[str, Key]()
    for figure, title, across, up in drawn.panels:
        own = points.filter(pl.col("figure") == figure).drop_nulls("value")
        if own.is_empty():
            continue
        lines, marks = [], []
        single = figure == "1 change"
        for number, ((series,), rows) in enumerate(own.group_by("series", maintain_order=True)):
            label, shade, dash = looks.get(str(series), (str(series), f"line-{number % COLOURS}", "solid"))
            colour = f"var(--{shade})"
            at = list(rows.sort("x").select("x", "value", "low", "high").iter_rows())
            lines += [Line(tuple((x, y) for x, y, *_ in at), colour, dash)] if len(at) > 1 else []
            if figure != "5":
                marks += [_mark(label, colour, point, named=single) for point in at]
            if not single:
                keys.setdefault(label, key(label, colour, shape="circle", dash=dash))
        ticks = tuple(sorted(set(own["x"].to_list()))) if across in ("site", "sites apart") else ()
        x = Axis(across, "log" if across.startswith("L0") else "linear", ticks=ticks)
        panels.append(draw(Panel(x, Axis(up), tuple(marks), tuple(lines), title)))
    if not panels:
        return None
    return Figure(f"story-{name}", tuple(panels), (("", tuple(keys.values())),), drawn.title, drawn.caption)


def _mark(label: str, colour: str, point: tuple[float, float, float | None, float | None], *, named: bool) -> Mark:
    x, y, low, high = point
    span = None if low is None or high is None else (low, high)
    return Mark(
        x, y, colour, size=4, y_span=span, title=f"{label}, {x:g}: {words.adaptive(y)}", name=label if named else ""
    )


def _nearest(pairs: Sequence[Mapping[str, Any]]) -> PageTable:
    columns = (
        Column("Feature of the first", kind="text"), Column("of the second", kind="text"), Column("Error"),
        Column("Description of the first", kind="text"), Column("of the second", kind="text"),
    )  # fmt: skip
    rows = [
        TableRow(
            (
                text(str(p["a"])),
                text(str(p["b"])),
                TableCell(words.adaptive(p["error"])),
                text(p["first"]),
                text(p["second"]),
            )
        )
        for p in pairs
    ]
    return PageTable("Nearest pairs of the last step", columns, tuple(rows))
