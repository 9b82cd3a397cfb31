"""Two SAEs side by side, and any two measures of features, as plain data.

Must never know how it is served.
"""

from collections.abc import Mapping
from shlex import quote

from saelab.core.errors import UserError
from saelab.explore.browse import whole
from saelab.explore.columns import MEANINGS, PLAIN, columns_of, labelled
from saelab.explore.compare import Points, scatter, side_by_side
from saelab.explore.drawing import Shown, plotted, shown
from saelab.explore.links import Links
from saelab.explore.session import Session

POINTS, ROWS, COLOURS = 2000, 50, 6
USUAL = ("interpretability",)  # what is drawn across, where there is nothing else asked


def compare_page(session: Session, asked: Mapping[str, str], links: Links) -> Shown:
    """What the template of a comparison prints. asked: a, b (SAEs), x, y (measures), from (first row)."""
    names, index = session.names, session.index
    columns = [c for c in columns_of(index) if c.numeric]
    keys = [c.name for c in columns]
    pairs = [(p.names[a], p.names[b]) for p in session.matchings for a, b in p.pairs]
    first, second = _pair(asked, names, pairs)
    usual = [k for k in USUAL if k in keys] + [c.name for c in columns if c.shown and c.name not in PLAIN] + keys
    x = asked["x"] if asked.get("x") in keys else next(iter(usual), "")
    y = asked["y"] if asked.get("y") in keys else next((k for k in usual if k != x), x)
    saes = [{"value": n, "label": n} for n in names]
    measures = [{"value": c.name, "label": c.label} for c in columns]
    picks = [
        {"name": "a", "label": "SAE", "options": saes, "chosen": first},
        {"name": "b", "label": "beside", "options": saes, "chosen": second},
        {"name": "x", "label": "across", "options": measures, "chosen": x},
        {"name": "y", "label": "up", "options": measures, "chosen": y},
    ]
    page: Shown = {"title": "Compare", "picks": picks, "first": first, "second": second, "meanings": MEANINGS}
    page |= _plot(session, x, y, tuple(dict.fromkeys((first, second))), links)
    kept = {name: asked[name] for name in ("x", "y") if name in asked}
    return page | _pairs(session, first, second, whole(asked, "from", 0), links, kept)


def _pair(asked: Mapping[str, str], names: list[str], pairs: list[tuple[str, str]]) -> tuple[str, str]:
    """The two that are asked for; else the first pair that was matched; else the first two."""
    usual = pairs[0] if pairs else (names[0], names[-1])
    first = asked["a"] if asked.get("a") in names else usual[0]
    return first, asked["b"] if asked.get("b") in names else usual[1]


def _plot(session: Session, x: str, y: str, saes: tuple[str, ...], links: Links) -> Shown:
    absent = {"said": "There are no two measures to draw.", "command": ""}
    if not x or not y:
        return {"plot": None, "plot_missing": absent}
    points: Points = scatter(session.index, x, y, saes=saes, most=POINTS)
    label = f"{labelled(y)[0]} against {labelled(x)[0]}"
    if not points.x:
        return {"plot": None, "plot_missing": absent | {"said": f"No feature has both: {label}."}}
    drawn = plotted(points.x, points.y)
    series = {name: i % COLOURS for i, name in enumerate(saes)}
    places = drawn.pop("places")
    marks = [
        {"x": px, "y": py, "href": links.feature(sae, f), "series": series[sae],
         "title": f"{sae} {f}: {shown(a)}, {shown(b)}"}
        for (px, py), sae, f, a, b in zip(places, points.sae, points.feature, points.x, points.y, strict=True)
    ]  # fmt: skip
    note = f"{label}; {len(marks):,} of {points.total:,} features that have both. A point opens its feature."
    keys = [{"name": name, "series": n} for name, n in series.items() if name in points.sae]
    return {"plot": drawn | {"points": marks, "label": label, "note": note, "legend": keys}, "plot_missing": None}


def _pairs(session: Session, first: str, second: str, start: int, links: Links, asked: dict[str, str]) -> Shown:
    found = session.explored.partners_of_run(session.explored.opened(first))
    try:
        if found is None:
            refs = " ".join(quote(session.explored.opened(n).reference) for n in (first, second))
            raise UserError(f"{first} belongs to no run.", hint=f"saelab match {refs}")
        table = side_by_side(session.index, found, first, second)
    except UserError as error:
        return {
            "pairs": [],
            "pairs_note": "",
            "more": [],
            "pairs_missing": {"said": error.message, "command": error.hint or ""},
        }
    if "distance" in table.columns:
        table = table.sort("distance", nulls_last=True)
    start = min(start, max(0, table.height - 1) // ROWS * ROWS)
    rows = []
    for row in table.slice(start, ROWS).iter_rows(named=True):
        a, b = row["feature_a"], row["feature_b"]
        rows.append({
            "a": _end(session, first, a, links), "b": None if b is None or b < 0 else _end(session, second, b, links),
            "kind": row.get("class") or "matched", "distance": shown(row.get("distance")),
        })  # fmt: skip
    more = [
        {"label": said, "href": links.page("compare", **(asked | {"a": first, "b": second, "from": str(at)}))}
        for said, at in (("Before", start - ROWS), ("Further", start + ROWS))
        if 0 <= at < table.height
    ]
    note = f"{start + 1:,} to {start + len(rows):,} of {table.height:,}, nearest first."
    return {"pairs": rows, "pairs_note": note, "more": more, "pairs_missing": None}


def _end(session: Session, sae: str, feature: int, links: Links) -> Shown:
    return {"feature": feature, "href": links.feature(sae, feature), "said": session.described(sae, feature) or ""}
