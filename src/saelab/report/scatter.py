"""A scatter of two columns of anybody's table as one SVG file that needs no other.

It never knows whose table it is or what the columns mean.
"""

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import polars as pl

from saelab.core.errors import UserError
from saelab.report.chart import Axis, Drawing, Mark, Panel, draw
from saelab.stats.inputs import numbers
from saelab.store.files import write_text

COLOUR = "#1d5f8a"
STYLE = (
    "text{font:11px sans-serif;fill:#333}.title{font-size:12px;font-weight:600}.side{text-anchor:middle}"
    ".frame,.grid,.axis{stroke:#bbb}"
)


def write_scatter(table: pl.DataFrame, x: str, y: str, path: Path) -> None:
    """Write the rows in which both columns are known; each mark says its row's values. `UserError` but for .svg."""
    if path.suffix.lower() != ".svg":
        raise UserError(f"{path.name} is no .svg file.", hint="A scatter is written as SVG: give a name that ends so.")
    name = next((c for c in ("sae", "name", "id") if c in table.columns), None)
    names = table[name].to_list() if name else [f"row {i + 1}" for i in range(table.height)]
    marks = [
        Mark(float(a), float(b), COLOUR, title=f"{n}: {a:g}, {b:g}")
        for a, b, n in zip(numbers(table, x), numbers(table, y), names, strict=True)
        if a == a and b == b
    ]
    if not marks:
        raise UserError(f"No row has both {x} and {y}, so there is nothing to draw.")
    left = table.height - len(marks)
    title = f"n = {len(marks)}" + (f", {left} rows without a score left out" if left else "")
    write_text(path, _svg(draw(Panel(Axis(x), Axis(y), tuple(marks), title=title), width=520, height=380)))


def _svg(drawing: Drawing) -> str:
    size = f'width="{drawing.width}" height="{drawing.height}" viewBox="0 0 {drawing.width} {drawing.height}"'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{STYLE}</style>"]
    parts.append('<rect width="100%" height="100%" fill="#fff"/>')
    for p in drawing.paths:
        dash = f' stroke-dasharray="{p.dash}"' if p.dash else ""
        title = f"<title>{escape(p.title)}</title>" if p.title else ""
        fill, stroke = (c if c == "none" or c.startswith("#") else "#bbb" for c in (p.fill, p.stroke))
        parts.append(f'<path d="{p.d}" fill="{fill}" stroke="{stroke}" stroke-width="{p.width}"{dash}>{title}</path>')
    for t in drawing.labels:
        turned = f' transform="rotate(-90 {t.x} {t.y})"' if t.kind == "side" else ""
        at = f'x="{t.x}" y="{t.y}" text-anchor="{t.anchor}" class={quoteattr(t.kind)}'
        parts.append(f"<text {at}{turned}>{escape(t.text)}</text>")
    return "\n".join([*parts, "</svg>", ""])
