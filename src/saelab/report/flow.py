"""Features from layer to layer: the flow of what is carried on, changed, died and born, and the longest paths.

The flow is drawn from the class counts of the matchings between neighbours. Of the paths (paths.parquet) the longest
whose features all have descriptions are shown, best described first; their features get cards, and the table links to
them. Pure functions of `Material`; reads nothing.
"""

from collections.abc import Sequence

import plotly.graph_objects as go
import polars as pl

from saelab.report import words
from saelab.report.cells import BLANK, Column, PageTable, TableCell, TableRow, text
from saelab.report.feature_card import FeatureCard, Pick
from saelab.report.figures import Figure, embed, safe, style
from saelab.report.material import Material, SaePair

MOST_CARDS = 12
HEIGHT = 360
SHADES = {"carried on": "var(--line-0)", "changed": "var(--line-1)", "died": "var(--rule)", "born": "var(--line-2)"}

Path = tuple[tuple[str, int], ...]  # (SAE, feature) from site to site


def neighbours(pairs: Sequence[SaePair]) -> list[SaePair]:
    """The matchings between neighbours that carry class counts, in order of the layers."""
    known = [p for p in pairs if p.quality.get("classes") and not p.quality.get("composed")]
    least = min((p.span for p in known), default=0)
    return sorted((p for p in known if p.span == least), key=lambda p: (p.first.rpartition(".")[0], p.layers))


def figure(pairs: Sequence[SaePair]) -> Figure | None:
    """The flow of features through the sites; None where no matching carries classes."""
    steps = neighbours(pairs)
    if not steps:
        return None
    names: list[str] = []
    links: list[tuple[int, int, int, str]] = []

    def node(key: str) -> int:
        if key not in names:
            names.append(key)
        return names.index(key)

    for pair in steps:
        counts = pair.quality["classes"]
        first, second = node(pair.first), node(pair.second)
        links += [(first, second, int(counts[k]), k) for k in ("carried on", "changed")]
        links.append((first, node(f"died\x1f{pair.first}"), int(counts["died"]), "died"))
        links.append((node(f"born\x1f{pair.second}"), second, int(counts["born"]), "born"))
    links = [link for link in links if link[2]]
    labels = [n.partition("\x1f")[0] if "\x1f" in n else _site(n) for n in names]
    drawn = go.Figure(
        go.Sankey(
            arrangement="snap",
            node={
                "label": [safe(n) for n in labels], "pad": 12, "thickness": 14, "line": {"width": 0},
                "color": [SHADES.get(n, "var(--soft)") for n in labels],
                "hovertemplate": "%{label}: %{value:,} features<extra></extra>",
            },
            link={
                "source": [a for a, *_ in links], "target": [b for _, b, *_ in links],
                "value": [v for *_, v, _ in links], "color": [SHADES[k] for *_, k in links],
                "label": [k for *_, k in links], "hovertemplate": "%{label}: %{value:,} features<extra></extra>",
            },
        )
    )  # fmt: skip
    style(drawn, HEIGHT)
    caption = (
        "Width: number of features. A feature is matched where the pair beats a rotated, unrelated dictionary (1 % of "
        "whose features would match); carried on: at half that distance or less; changed: beyond it."
    )
    return Figure("flow", embed(drawn), HEIGHT, "Flow of features from site to site.", caption)


def _site(sae: str) -> str:
    """The end of an SAE's name that says its site: "resid_post.15"."""
    return ".".join(sae.split(".")[-2:])


def chosen(material: Material) -> list[Path]:
    """The paths that are shown: of two sites or more, the longest first, then by the mean score of their features."""
    found: list[tuple[int, float, Path]] = []
    known = _scores(material.candidates)
    for paths in material.paths:
        for (_,), rows in paths.table.filter(pl.col("length") > 1).group_by("path", maintain_order=True):
            path = tuple((paths.saes[s], int(f)) for s, f in rows.sort("site").select("site", "feature").iter_rows())
            if all(p in known for p in path):
                found.append((len(path), sum(known[p] for p in path) / len(path), path))
    found.sort(key=lambda x: (-x[0], -x[1], x[2]))
    shown, cards = [], 0
    for length, _, path in found:
        if cards + length > MOST_CARDS and shown:
            break
        shown.append(path)
        cards += length
    return shown


def _scores(candidates: pl.DataFrame | None) -> dict[tuple[str, int], float]:
    if candidates is None:
        return {}
    table = candidates.drop_nulls(["balanced_accuracy"]).unique(["sae", "feature"], keep="first")
    return {(s, f): b for s, f, b in table.select("sae", "feature", "balanced_accuracy").iter_rows()}


def picks(material: Material) -> list[Pick]:
    """The features of the paths that are shown, for cards."""
    return [Pick(sae, feature, f"on a path over {len(p)} sites") for p in chosen(material) for sae, feature in p]


def table(material: Material, cards: Sequence[FeatureCard]) -> PageTable | None:
    """One row per path, a column per site; each feature leads to its card."""
    paths = chosen(material)
    if not paths:
        return None
    saes = list(dict.fromkeys(sae for path in paths for sae, _ in path))
    at = {(c.pick.sae, c.pick.feature): (i + 1, c.title) for i, c in enumerate(cards)}
    rows = []
    for number, path in enumerate(paths, 1):
        features = dict(path)
        cells = [text(f"Path {number}", words.plural(len(path), "site"))]
        for sae in saes:
            if sae not in features:
                cells.append(BLANK)
                continue
            card, title = at.get((sae, features[sae]), (0, ""))
            cells.append(TableCell(title, f"feature {features[sae]}", kind="text", link=f"card-{card}" if card else ""))
        rows.append(TableRow(tuple(cells)))
    columns = (Column("Path", kind="text"), *(Column(_site(s), kind="text") for s in saes))
    return PageTable("Features followed from site to site; each leads to its card", columns, tuple(rows))
