"""The dose response of a study: how much of what is steered with is seen, by how far it was moved.

Pure functions from the study's table `doses` to a figure. Reads nothing.
"""

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from saelab.report import words
from saelab.report.figures import Figure, embed, safe, style
from saelab.report.names import Names

SETS = {"classes": ("Known classes", "var(--line-0)"), "features": ("Features of SAEs", "var(--line-1)")}


def doses(table: pl.DataFrame, names: Names) -> Figure:
    """Lift against KL per token, one panel per outcome, a line per set and site."""
    outcomes = table["outcome"].unique(maintain_order=True).to_list()
    titles = tuple(safe(names.variable(o)) for o in outcomes)
    figure = make_subplots(1, len(outcomes), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.04)
    several = table.select("lm", "site").n_unique() > 1
    named: set[str] = set()
    for i, outcome in enumerate(outcomes, 1):
        here = table.filter((pl.col("outcome") == outcome) & pl.col("lift").is_not_null())
        for (lm, site, kind), part in here.group_by("lm", "site", "set", maintain_order=True):
            label, colour = SETS.get(str(kind), (words.label(str(kind)), "var(--line-2)"))
            label = f"{label}, {lm} {site}" if several else label
            part = part.sort("dose")
            ends = part.select(up=pl.col("high") - pl.col("lift"), down=pl.col("lift") - pl.col("low")).fill_null(0)
            figure.add_trace(
                go.Scatter(
                    x=part["dose"].to_list(), y=part["lift"].to_list(), mode="lines+markers", name=safe(label),
                    legendgroup=label, showlegend=label not in named, line={"color": colour, "width": 2},
                    marker={"size": 8},
                    error_y={"type": "data", "symmetric": False, "array": ends["up"].to_list(),
                             "arrayminus": ends["down"].to_list(), "thickness": 1, "width": 0, "color": colour},
                    hovertemplate="%{x:g} nats: %{y:.3f}<extra></extra>",
                ), 1, i,
            )  # fmt: skip
            named.add(label)
    ticks = sorted(table["dose"].unique().to_list())
    figure.update_xaxes(title_text="KL per token, nats", type="log", tickmode="array", tickvals=ticks,
                        ticktext=[f"{t:g}" for t in ticks])  # fmt: skip
    figure.update_yaxes(title_text="Lift", col=1)
    style(figure, 340)
    alt = "Lift against dose for known classes and for features, one panel per outcome."
    caption = "On texts that chose the dose; those that are scored are others. Bars: 95 % intervals."
    return Figure("doses", embed(figure), 340, alt, caption)
