"""Charts as plain SVG: marks with intervals and lines over two axes, laid out here, printed by the template.

Colours are CSS variables, so a chart follows the reader's theme and prints as it stands. Texts are escaped where they
are printed. Knows no table, no study and no file.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

from saelab.report import words

Number = float | int
WIDTH, HEIGHT = 400, 280  # of a panel, in units of which its letters have 11
TOP, BOTTOM, RIGHT, LETTER = 26, 44, 12, 6.2  # margins; room of a letter
DASHES = {"solid": "", "dash": "6 4", "dot": "1.5 3", "dashdot": "6 3 1.5 3", "longdash": "10 4",
          "longdashdot": "10 3 1.5 3"}  # fmt: skip
_LEAN = 0.8660254
SHAPES: dict[str, tuple[tuple[Number, Number], ...]] = {
    "circle": (),
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "diamond": ((0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)),
    "up": ((0, -1.15), (1.1, 0.85), (-1.1, 0.85)),
    "down": ((0, 1.15), (1.1, -0.85), (-1.1, -0.85)),
    "hexagon": ((0, -1), (_LEAN, -0.5), (_LEAN, 0.5), (0, 1), (-_LEAN, 0.5), (-_LEAN, -0.5)),
}


@dataclass(frozen=True)
class Drawn:
    """A path of SVG. link: the id of what it leads to; title: what is said where the pointer rests."""

    d: str
    fill: str = "none"
    stroke: str = "none"
    width: str = "1"
    dash: str = ""
    title: str = ""
    link: str = ""
    faint: bool = False


@dataclass(frozen=True)
class Label:
    """A text at a place. kind: how it is set (tick, axis, title, tally, or side: along the left)."""

    x: str
    y: str
    text: str
    anchor: Literal["start", "middle", "end"] = "middle"
    kind: str = "tick"


@dataclass(frozen=True)
class Drawing:
    """One SVG picture."""

    width: int
    height: int
    paths: tuple[Drawn, ...]
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class Key:
    """An entry of a legend: how it is drawn, and what it is."""

    label: str
    paths: tuple[Drawn, ...]


@dataclass(frozen=True)
class Figure:
    """Panels with their legends (title, entries). alt: what it shows in words; small panels stand side by side."""

    name: str
    panels: tuple[Drawing, ...]
    keys: tuple[tuple[str, tuple[Key, ...]], ...]
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Axis:
    """An axis. ticks: where they are known beforehand; names: of a scale of names, on which value i is the i-th."""

    title: str = ""
    scale: Literal["linear", "log", "names"] = "linear"
    ticks: tuple[Number, ...] = ()
    names: tuple[str, ...] = ()
    zero: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Mark:
    """A point; its spans are the ends of its intervals. A hollow one has no filling. name: stands beside it."""

    x: Number
    y: Number
    colour: str
    shape: str = "circle"
    size: Number = 5
    hollow: bool = False
    x_span: tuple[Number, Number] | None = None
    y_span: tuple[Number, Number] | None = None
    title: str = ""
    link: str = ""
    name: str = ""


@dataclass(frozen=True)
class Line:
    """A line through points."""

    points: tuple[tuple[Number, Number], ...]
    colour: str
    dash: str = "solid"
    width: Number = 1.6
    title: str = ""


@dataclass(frozen=True)
class Panel:
    """Marks and lines over two axes. rule: a dotted upright line at a value of x."""

    x: Axis
    y: Axis
    marks: tuple[Mark, ...] = ()
    lines: tuple[Line, ...] = ()
    title: str = ""
    rule: Number | None = None


@dataclass(frozen=True)
class _Scale:
    """An axis with its range on paper."""

    axis: Axis
    low: Number
    high: Number
    start: Number
    end: Number
    ticks: tuple[Number, ...] = field(default=())

    def __call__(self, value: Number) -> Number:
        low, high, at = self.low, self.high, value
        if self.axis.scale == "log":
            low, high, at = math.log(low), math.log(high), math.log(max(value, 1e-300))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def label(self, tick: Number) -> str:
        if self.axis.scale == "names":
            return self.axis.names[round(tick)]
        step = min((b - a for a, b in zip(self.ticks, self.ticks[1:], strict=False)), default=1.0)
        if self.axis.percent:
            return words.percent(tick)
        if self.axis.scale == "log" or self.axis.ticks:
            return words.number(tick, 0) if tick >= 1 else f"{tick:g}"
        if step >= 1000 and tick:
            return f"{tick / 1e6:g}M" if self.high >= 2e6 else f"{tick / 1e3:g}K"
        return words.number(tick, max(0, -math.floor(math.log10(step) + 1e-9) + (f"{step:e}"[2] == "5")))


def draw(panel: Panel, *, width: int = WIDTH, height: int = HEIGHT, beside: Sequence[Panel] = ()) -> Drawing:
    """A panel on paper. beside: panels whose values share its scale of y."""
    kin = [panel, *beside]
    xs = _values(panel, "x") + ([] if panel.rule is None else [panel.rule])
    y_low, y_high = _range(panel.y, [v for p in kin for v in _values(p, "y")])
    y = _Scale(panel.y, y_low, y_high, height - BOTTOM, TOP, _ticks(panel.y, y_low, y_high, 5))
    left = 24 + LETTER * max((len(y.label(t)) for t in y.ticks), default=1)
    x_low, x_high = _range(panel.x, xs)
    most = max(2, int((width - left) / 70))
    x = _Scale(panel.x, x_low, x_high, left, width - RIGHT, _ticks(panel.x, x_low, x_high, most))
    paths = [*_frame(x, y, panel.rule)]
    for line in panel.lines:
        d = "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in line.points)
        paths.append(Drawn(d, "none", line.colour, f"{line.width:g}", DASHES.get(line.dash, ""), line.title))
    for mark in panel.marks:
        paths += _mark(mark, x, y)
    labels = [Label(f"{left:.0f}", "14", panel.title, "start", "title")] if panel.title else []
    labels += [*_tick_labels(x, y), *(_beside(m, x, y) for m in panel.marks if m.name)]
    middle = (TOP + height - BOTTOM) / 2
    labels += [Label(f"{(left + width - RIGHT) / 2:.0f}", f"{height - 6}", panel.x.title, kind="axis")]
    labels += [Label("11", f"{middle:.0f}", panel.y.title, kind="side")] if panel.y.title else []
    return Drawing(width, height, tuple(_joined(paths)), tuple(labels))


def _joined(paths: Iterable[Drawn]) -> Iterable[Drawn]:
    """The same picture in fewer paths: neighbours that look alike and say nothing of their own are one."""
    for _, alike in groupby(paths, lambda p: (replace(p, d=""), bool(p.title or p.link) and id(p))):
        first, *rest = alike
        yield replace(first, d=first.d + "".join(p.d for p in rest)) if rest else first


def thinned(rows: Sequence[Any], most: int) -> list[Any]:
    """At most about so many of some rows, evenly, with the last."""
    step = max(1, math.ceil(len(rows) / most))
    return [*rows[:-1:step], *rows[-1:]]


def key(label: str, colour: str, *, shape: str = "", dash: str | None = None, hollow: bool = False) -> Key:
    """A legend's entry: a mark, a line, or both."""
    paths = []
    if dash is not None:
        paths.append(Drawn("M1 7L27 7", "none", colour, "2", DASHES.get(dash, "")))
    if shape:
        paths.append(Drawn(symbol(shape, 14, 7, 5), "none" if hollow else colour, colour, "1.4"))
    return Key(label, tuple(paths))


def patch(label: str, colour: str) -> Key:
    """A legend's entry for a faint area."""
    return Key(label, (Drawn("M4 2L24 2L24 12L4 12Z", colour, faint=True),))


def symbol(shape: str, x: Number, y: Number, size: Number) -> str:
    """The path of a mark."""
    corners = SHAPES[shape]
    if not corners:
        return f"M{x - size:.1f} {y:.1f}a{size:g} {size:g} 0 1 0 {2 * size:g} 0a{size:g} {size:g} 0 1 0 -{2 * size:g} 0"
    return "M" + "L".join(f"{x + size * a:.1f} {y + size * b:.1f}" for a, b in corners) + "Z"


def _mark(mark: Mark, x: _Scale, y: _Scale) -> Iterable[Drawn]:
    across, up = x(mark.x), y(mark.y)
    bars = ""
    if mark.x_span is not None:
        bars += f"M{x(mark.x_span[0]):.1f} {up:.1f}L{x(mark.x_span[1]):.1f} {up:.1f}"
    if mark.y_span is not None:
        bars += f"M{across:.1f} {y(mark.y_span[0]):.1f}L{across:.1f} {y(mark.y_span[1]):.1f}"
    if bars:
        yield Drawn(bars, "none", mark.colour, "1.2", faint=True)
    fill, rim = ("var(--paper)", mark.colour) if mark.hollow else (mark.colour, "var(--paper)")
    yield Drawn(symbol(mark.shape, across, up, mark.size), fill, rim, "1.4" if mark.hollow else "0.8", "", mark.title,
                mark.link)  # fmt: skip


def _beside(mark: Mark, x: _Scale, y: _Scale) -> Label:
    """A mark's name, on the side where there is room."""
    across, far = x(mark.x), mark.size + 4
    right = across + far + LETTER * len(mark.name) < x.end
    return Label(
        f"{across + (far if right else -far):.1f}", f"{y(mark.y) - 5:.1f}", mark.name, "start" if right else "end"
    )


def _frame(x: _Scale, y: _Scale, rule: Number | None) -> Iterable[Drawn]:
    grid = "".join(f"M{x.start:.1f} {y(t):.1f}L{x.end:.1f} {y(t):.1f}" for t in y.ticks if y.axis.scale != "names")
    grid += "".join(f"M{x(t):.1f} {y.start:.1f}L{x(t):.1f} {y.end:.1f}" for t in x.ticks)
    yield Drawn(grid, "none", "var(--rule)", "0.8")
    yield Drawn(f"M{x.start:.1f} {y.end:.1f}L{x.start:.1f} {y.start:.1f}L{x.end:.1f} {y.start:.1f}", "none",
                "var(--soft)", "0.8")  # fmt: skip
    if rule is not None:
        yield Drawn(f"M{x(rule):.1f} {y.start:.1f}L{x(rule):.1f} {y.end:.1f}", "none", "var(--soft)", "1", "2 3")


def _tick_labels(x: _Scale, y: _Scale) -> Iterable[Label]:
    last = -math.inf
    for tick in x.ticks:
        text, at = x.label(tick), x(tick)
        half = LETTER * len(text) / 2
        if at - half > last:  # those that would stand on each other are left out
            yield Label(f"{at:.1f}", f"{y.start + 15:.0f}", text)
            last = at + half + LETTER
    for tick in y.ticks:
        yield Label(f"{x.start - 6:.0f}", f"{y(tick) + 4:.1f}", y.label(tick), "end")


def _values(panel: Panel, axis: Literal["x", "y"]) -> list[Number]:
    """Every value that has to lie within an axis."""
    found = [getattr(m, axis) for m in panel.marks]
    for mark in panel.marks:
        found += getattr(mark, f"{axis}_span") or ()
    return found + [p[axis == "y"] for line in panel.lines for p in line.points]


def _range(axis: Axis, values: Sequence[Number]) -> tuple[Number, Number]:
    if axis.scale == "names":
        return -0.5, len(axis.names) - 0.5
    every = [*values, *(axis.ticks if axis.scale == "log" else ())]
    low, high = min(every, default=0.0), max(every, default=1.0)
    if axis.scale == "log":
        low = max(low, 1e-9)
        return low / 1.15, max(high, low) * 1.15
    low, high = (min(low, 0.0), max(high, 0.0)) if axis.zero else (low, high)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return low - room * (low != 0 or not axis.zero), high + room


def _ticks(axis: Axis, low: Number, high: Number, most: int) -> tuple[Number, ...]:
    """The ticks of an axis: its own, one per name, or round numbers."""
    if axis.scale == "names":
        return tuple(range(len(axis.names)))
    if axis.ticks:
        return tuple(t for t in axis.ticks if low <= t <= high)
    if axis.scale == "log":
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = [f * 10.0**k for k in powers for f in (1, 2, 5) if low <= f * 10.0**k <= high]
        ones = [t for t in every if math.log10(t) % 1 < 1e-9]
        return tuple(ones if len(every) > 7 and len(ones) > 1 else every)
    rough = (high - low) / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(f * size for f in (1, 2, 2.5, 5, 10) if f * size >= rough * 0.999)
    return tuple(k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1))
