"""Plain data of what pages draw: tokens with their heat, histograms, strips and points. Numbers as they are printed.

Geometry is computed here and escaped in the templates. Must never know files, models or addresses.
"""

import math
from collections.abc import Sequence
from typing import Any

from saelab.explore.material import Histogram, QuantileContext
from saelab.report.words import adaptive, finite, percent, plural

LEVELS = 9  # of heat; explore.css has a class for each
WIDTH, HEIGHT = 480, 120
Shown = dict[str, Any]


def heat(value: float, largest: float) -> int:
    """The class of a token's colour: 0 is none."""
    if not largest > 0 or not value > 0 or not math.isfinite(value):
        return 0
    return max(1, min(LEVELS, math.ceil(LEVELS * value / largest)))


def shown(value: object) -> str:
    """A number of unknown size, or what there is instead."""
    known = finite(value)
    return "–" if known is None else adaptive(known)


def coloured(context: QuantileContext, largest: float) -> Shown:
    """A context, its tokens coloured against the feature's largest value."""
    pairs = enumerate(zip(context.tokens, context.activations, strict=True))
    return {
        "value": shown(context.activations[context.peak]),
        "tokens": [
            {"text": text, "heat": heat(value, largest), "peak": i == context.peak, "value": shown(value)}
            for i, (text, value) in pairs
        ],
    }


def drawn_histogram(histogram: Histogram) -> Shown | None:
    """Bars of square roots of counts, so that few are seen beside many; None where nothing was counted."""
    counts, edges = histogram.counts, histogram.edges
    top, last = max(counts, default=0), edges[-1] if edges else 0
    if not top or not last > 0 or not math.isfinite(last) or not math.isfinite(histogram.threshold):
        return None
    bars = []
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        tall = round(HEIGHT * math.sqrt(count / top))
        title = f"{adaptive(low)} to {adaptive(high)}: {plural(count, 'token')}"
        place = {"x": round(low / last * WIDTH), "y": HEIGHT - tall, "h": tall}
        wide = max(1, round((high - low) / last * WIDTH) - 1)
        bars.append(place | {"w": wide, "title": title, "below": high <= histogram.threshold})
    at = round(histogram.threshold / last * WIDTH)
    line = {"x": at, "text": adaptive(histogram.threshold), "anchor": "end" if at > WIDTH / 2 else "start"}
    label = f"Histogram of {plural(sum(counts), 'value')} above zero, threshold {adaptive(histogram.threshold)}"
    return {
        "bars": bars, "width": WIDTH, "height": HEIGHT, "low": "0", "high": adaptive(last), "label": label,
        "threshold": line if 0 < at <= WIDTH else None,
    }  # fmt: skip


def strip(value: float, share: float, quantiles: Sequence[float]) -> Shown:
    """Where a value stands among others, on a strip of 200 from the 5th to the 95th percentile of them."""
    low, first, _, third, high = quantiles
    width = (high - low) or 1.0
    x = [round(min(1.0, max(0.0, (v - low) / width)) * 196 + 2) for v in (value, first, third)]
    return {"place": x[0], "low": x[1], "middle": max(1, x[2] - x[1]), "note": f"above {percent(share)} of them"}


def plotted(x: Sequence[float], y: Sequence[float], width: int = 900, height: int = 420) -> Shown:
    """Places of points in a frame, with the ends of both axes as ticks."""
    left, right, top, bottom = 64, width - 12, 12, height - 30
    spans = [(min(v), (max(v) - min(v)) or 1.0) for v in (x, y)]
    (x0, dx), (y0, dy) = spans
    places = [
        (round(left + (a - x0) / dx * (right - left)), round(bottom - (b - y0) / dy * (bottom - top)))
        for a, b in zip(x, y, strict=True)
    ]
    ticks = [
        {"x": left, "y": height - 8, "anchor": "start", "text": adaptive(x0)},
        {"x": right, "y": height - 8, "anchor": "end", "text": adaptive(x0 + dx)},
        {"x": left - 6, "y": bottom, "anchor": "end", "text": adaptive(y0)},
        {"x": left - 6, "y": top + 10, "anchor": "end", "text": adaptive(y0 + dy)},
    ]
    frame = {"left": left, "right": right, "top": top, "bottom": bottom, "width": width, "height": height}
    return frame | {"places": places, "ticks": ticks}
