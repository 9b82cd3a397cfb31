"""The figures of the report, as plotly figures in the page's own colours.

Colours are names of CSS variables ("var(--topk)"): the page's script puts the values of the reader's light or dark
theme in before drawing. Every text that reaches a figure goes through `safe`, since plotly reads a little HTML in
labels. Points without a value are left out and counted in the caption. Reads nothing; the numbers of every figure are
also in a table.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup
from plotly.subplots import make_subplots

from saelab.report import words
from saelab.report.material import SaePair
from saelab.report.names import DASHES, OTHER, Names

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x", "star", "hexagon")


@dataclass(frozen=True)
class Figure:
    """A figure's data for the page's script, its height in pixels, and what it shows in words (for screen readers)."""

    name: str
    spec: Markup
    height: int
    alt: str
    caption: str


def safe(text: str) -> str:
    """Text for a plotly label: visible, and with no character that plotly would read as markup."""
    return html.escape(words.visible(text), quote=False)


def embed(figure: go.Figure) -> Markup:
    """A figure as JSON that no HTML parser can read as anything else. NaN is a `ValueError`."""
    text = json.dumps(figure.to_plotly_json(), allow_nan=False, sort_keys=True, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def scatter(saes: pl.DataFrame, names: Names, y: str = "utility") -> Figure:
    """Interpretability against how SAEs steer (column `y`), one mark per SAE, bars on both axes; one panel per LM."""
    saes = names.in_grid_order(saes)
    drawn = saes.drop_nulls(["interpretability", y])
    lms = saes["lm"].unique(maintain_order=True).to_list()
    figure = make_subplots(1, len(lms), shared_yaxes=True, subplot_titles=_titles(lms), horizontal_spacing=0.03)
    levels = sorted(saes["level"].unique().to_list())
    shapes = {level: SYMBOLS[i % len(SYMBOLS)] for i, level in enumerate(levels)}
    for name in names.order(drawn["architecture"].to_list()):
        figure.add_scatter(
            x=[None], y=[None], mode="markers", name=safe(names.architecture(name)), legendgroup=names.swatch(name),
            marker={"color": names.colour(name), "size": 9},
        )  # fmt: skip
        for i, lm in enumerate(lms, 1):
            part = drawn.filter((pl.col("lm") == lm) & (pl.col("architecture") == name))
            if part.height:
                figure.add_trace(_marks(part, name, shapes, names, y), 1, i)
    for level in levels:
        marker = {"symbol": shapes[level], "color": "var(--soft)", "size": 9}
        figure.add_scatter(x=[None], y=[None], mode="markers", name=f"{level:g}", legend="legend2", marker=marker)
    figure.update_xaxes(title_text="Interpretability of features")
    figure.update_yaxes(title_text=safe(words.upper(names.variable(y))), col=1)
    style(figure, 500)
    figure.update_layout(legend2={"x": 1.01, "y": 0, "yanchor": "bottom", "title": {"text": "Target L0"}})
    lost = saes.height - drawn.height
    caption = f"Not drawn: {words.plural(lost, 'SAE')} without one of the two scores." if lost else ""
    alt = f"Scatter plot of {words.plural(drawn.height, 'SAE')}: interpretability against {names.variable(y)}."
    return Figure("scatter", embed(figure), 500, alt, caption)


def _marks(part: pl.DataFrame, name: str, shapes: dict[Any, str], names: Names, y: str) -> go.Scatter:
    hover = [
        f"{safe(r['sae'])}<br>interpretability {words.number(r['interpretability'])}<br>{safe(names.variable(y))} "
        f"{words.number(r[y])}<br>L0 {words.number(r['l0'], 1) if r['l0'] is not None else 'missing'}"
        for r in part.iter_rows(named=True)
    ]
    return go.Scatter(
        x=part["interpretability"].to_list(),
        y=part[y].to_list(),
        error_x=_bars(part, "interpretability", names.colour(name, faint=True)),
        error_y=_bars(part, y, names.colour(name, faint=True)),
        mode="markers",
        name=safe(names.architecture(name)),
        legendgroup=names.swatch(name),
        showlegend=False,
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        marker={
            "color": names.colour(name),
            "size": 11,
            "symbol": [shapes[v] for v in part["level"]],
            "line": {"width": 1, "color": "var(--paper)"},
        },
    )


def _bars(part: pl.DataFrame, name: str, colour: str) -> dict[str, Any]:
    """Error bars from `name`_low to `name`_high; a point without an interval has none."""
    ends: dict[str, Any] = {"type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour}
    for key, column, sign in (("array", f"{name}_high", 1), ("arrayminus", f"{name}_low", -1)):
        if column in part.columns:
            ends[key] = (sign * (part[column] - part[name])).to_list()
    return ends


def frontier(saes: pl.DataFrame, names: Names) -> Figure:
    """FVU and cross-entropy recovered against the L0 reached, with the random dictionaries below them."""
    figure = make_subplots(1, 2, subplot_titles=("FVU (lower is better)", "CE recovered (higher is better)"))
    for i, measure in enumerate(("fvu", "ce_recovered"), 1):
        for name in names.order(saes["architecture"].to_list()):
            part = saes.filter(pl.col("architecture") == name).drop_nulls(["l0", measure])
            figure.add_trace(_points(part, measure, name, names, first=i == 1), 1, i)
        random = f"random_{measure}"
        if random in saes.columns:
            known = saes.drop_nulls(["l0", random])
            mark = {"symbol": "x-thin", "size": 7, "line": {"width": 1.2, "color": "var(--soft)"}}
            figure.add_scatter(
                x=known["l0"].to_list(), y=known[random].to_list(), mode="markers", name="Random dictionary",
                marker=mark, showlegend=i == 1, legendgroup="random", hoverinfo="skip", row=1, col=i,
            )  # fmt: skip
    levels = sorted(saes["level"].drop_nulls().unique().to_list())
    ticks = {"tickmode": "array", "tickvals": levels, "ticktext": [f"{level:g}" for level in levels]}
    figure.update_xaxes(title_text="L0 reached (ticks: the targets)", type="log", **ticks)
    style(figure, 360)
    alt = "Two panels: FVU and cross-entropy recovered against L0, by architecture, with random dictionaries."
    return Figure("frontier", embed(figure), 360, alt, "")


def _points(part: pl.DataFrame, measure: str, name: str, names: Names, *, first: bool) -> go.Scatter:
    return go.Scatter(
        x=part["l0"].to_list(),
        y=part[measure].to_list(),
        mode="markers",
        name=safe(names.architecture(name)),
        legendgroup=names.swatch(name),
        showlegend=first,
        text=[safe(s) for s in part["sae"]],
        hovertemplate="%{text}<br>L0 %{x:.1f}, %{y:.3f}<extra></extra>",
        marker={"color": names.colour(name), "size": 8},
    )


def lifts(selection: pl.DataFrame, names: Names) -> Figure:
    """Steering score of the features that each criterion chose: pooled with its interval, single SAEs as faint dots."""
    order = selection["criterion"].unique(maintain_order=True).to_list()
    shown = {name: safe(words.upper(names.arm(name))) for name in order}
    known = selection.drop_nulls("score")
    pooled, each = known.filter(pl.col("sae") == "all"), known.filter(pl.col("sae") != "all")
    figure = go.Figure()
    figure.add_scatter(
        x=each["score"].to_list(), y=[shown[c] for c in each["criterion"]], mode="markers",
        name="Single SAEs", marker={"color": "var(--soft-faint)", "size": 7},
        text=[safe(s) for s in each["sae"]], hovertemplate="%{text}: %{x:.2f}<extra></extra>",
    )  # fmt: skip
    for controls, name, shade in ((False, "All SAEs", "var(--accent)"), (True, "Controls, all SAEs", "var(--soft)")):
        part = pooled.filter(pl.col("criterion").is_in(names.arms_of("control")) == controls)
        minus = (part["score"] - part["low"]).to_list()
        bars = {"type": "data", "symmetric": False, "array": (part["high"] - part["score"]).to_list()}
        figure.add_scatter(
            x=part["score"].to_list(), y=[shown[c] for c in part["criterion"]], mode="markers", name=name,
            marker={"color": shade, "size": 12}, hovertemplate="%{y}: %{x:.2f}<extra></extra>",
            error_x={**bars, "arrayminus": minus, "thickness": 2, "width": 0, "color": shade},
        )  # fmt: skip
    base = pooled.filter(pl.col("criterion").is_in(names.arms_of("baseline")))["score"].to_list()
    if base:
        figure.add_vline(x=base[0], line={"width": 1, "dash": "dot", "color": "var(--soft)"})
    height = 150 + 44 * len(order)
    figure.update_xaxes(title_text="Steering score", rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=[shown[c] for c in reversed(order)])
    style(figure, height)
    figure.update_yaxes(showgrid=False)
    alt = "Steering score of the features chosen by each criterion, with controls and intervals."
    return Figure("lifts", embed(figure), height, alt, "Dotted line: no selection, all SAEs.")


def training(metrics: pl.DataFrame, known: dict[str, tuple[str, float]], names: Names) -> Figure:
    """FVU, L0 and dead share over the tokens seen, one line per SAE. `known` maps an SAE to (architecture, level)."""
    titles = {"fvu": "FVU", "l0": "L0 (log scale)", "dead_share": "Dead features"}
    figure = make_subplots(1, 3, subplot_titles=tuple(titles.values()), horizontal_spacing=0.07)
    levels = sorted({level for _, level in known.values()})
    shown = set()
    places = {sae: known.get(sae, (OTHER, 0.0)) for sae in metrics["sae"].unique()}
    order = names.order([name for name, _ in places.values()])
    for sae, (name, level) in sorted(places.items(), key=lambda p: (order.index(p[1][0]), p[1][1], p[0])):
        dash = DASHES[levels.index(level) % len(DASHES)] if level in levels else "solid"
        part = metrics.filter(pl.col("sae") == sae).sort("tokens")
        for i, column in enumerate(titles, 1):
            line = part.drop_nulls(column)
            figure.add_trace(
                go.Scatter(
                    x=line["tokens"].to_list(), y=line[column].to_list(), mode="lines",
                    name=safe(names.architecture(name)), legendgroup=name, showlegend=i == 1 and name not in shown,
                    line={"color": names.colour(name), "width": 1.4, "dash": dash}, text=[safe(sae)] * line.height,
                    hovertemplate="%{text}<br>%{x:,} tokens: %{y:.3f}<extra></extra>",
                ), 1, i,
            )  # fmt: skip
        shown.add(name)
    ticks = {"tickmode": "array", "tickvals": levels, "ticktext": [f"{level:g}" for level in levels]}
    figure.update_yaxes(type="log", col=2, **(ticks if levels else {}))
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", col=3)
    figure.update_xaxes(title_text="Tokens seen", nticks=4)
    style(figure, 380)
    key = [f"{DASHES[i % len(DASHES)].replace('dot', 'dotted')} for {level:g}" for i, level in enumerate(levels)]
    alt = f"Training curves of {words.plural(metrics['sae'].n_unique(), 'SAE')}: FVU, L0 and dead share."
    caption = f"Line by target L0: {words.listing(key)}." if len(levels) > 1 else ""
    return Figure("training", embed(figure), 380, alt, caption)


def matching(pairs: Sequence[SaePair], names: Names) -> Figure:
    """Cost, matching score, explained variance and cross-entropy change along the matched pairs of sites."""
    panels = {
        "cost": "Cost per matched feature",
        "matching_score": "Matching score",
        "explained_variance": "Explained variance of the skip",
        "ce_change": "CE change of the skip, nats",
    }
    figure = make_subplots(2, 2, subplot_titles=tuple(panels.values()), vertical_spacing=0.2, horizontal_spacing=0.1)
    named = set[str]()
    for i, column in enumerate(panels):
        for curve in curves(pairs, column, names):
            figure.add_trace(
                go.Scatter(
                    x=[safe(x) for x in curve.x], y=list(curve.y), mode="lines+markers" if curve.chain else "markers",
                    name=curve.name, legendgroup=curve.name, showlegend=curve.name not in named,
                    line={"color": curve.colour, "width": 2, "dash": curve.dash},
                    hovertemplate="%{x}: %{y:.3f}<extra>" + curve.name + "</extra>",
                    marker={"size": 8, "symbol": _mark(curve)},
                ), i // 2 + 1, i % 2 + 1,
            )  # fmt: skip
            named.add(curve.name)
    figure.update_yaxes(rangemode="tozero")
    caption = (
        "Open marks: sites further apart. The two lower panels put a prediction in place of the state at the second "
        "site: from matched features of the first, from its own encode-decode (nothing skipped), from the first site's "
        "state encoded and decoded, or from that state as it is (blocks dropped)."
    )
    style(figure, 560)
    return Figure("matching", embed(figure), 560, "Four panels of matching quality by pair of sites.", caption)


def _mark(curve: "MatchingLine") -> str:
    shape = "diamond" if curve.dash == "dash" else "circle"
    return shape if curve.chain else f"{shape}-open"


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
        found.append(MatchingLine(safe(shown), shade, dash, chain, tuple(line), tuple(line.values())))
    order = [safe(names.line(name)[0]) for name in names.matchings]
    return sorted(found, key=lambda c: (order.index(c.name) if c.name in order else len(order), not c.chain))


def _titles(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(safe(n) for n in names) if len(names) > 1 else ("",)


def style(figure: go.Figure, height: int) -> None:
    """The house style: no frame, faint grid, the page's own type and colours, the legend on the right."""
    axis = {
        "gridcolor": "var(--rule)", "zerolinecolor": "var(--rule)", "linecolor": "var(--rule)", "showline": True,
        "tickcolor": "var(--rule)", "ticks": "outside", "ticklen": 4, "title": {"standoff": 10}, "automargin": True,
    }  # fmt: skip
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    figure.update_annotations(font={"size": 13, "color": "var(--ink)"})
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        autosize=True,
        margin={"l": 56, "r": 16, "t": 36, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "var(--sans)", "size": 12.5, "color": "var(--soft)"},
        legend={"x": 1.01, "y": 1, "itemsizing": "constant", "bgcolor": "rgba(0,0,0,0)"},
        hoverlabel={"bgcolor": "var(--panel)", "bordercolor": "var(--rule)", "font": {"color": "var(--ink)"}},
        dragmode=False,
    )
