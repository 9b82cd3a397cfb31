"""Features from layer to layer: the flow of what is carried on, changed, died and born, and the longest paths.

The flow is drawn from the class counts of the matchings between neighbours. Of the paths (paths.parquet) the longest
whose features all have descriptions are shown, best described first; their features get cards, and the table links to
them. Pure functions of `Material`; reads nothing.
"""

from collections.abc import Sequence

import polars as pl

from saelab.report import words
from saelab.report.cells import BLANK, Column, PageTable, TableCell, TableRow, text
from saelab.report.chart import Drawing, Drawn, Figure, Label, patch
from saelab.report.feature_card import FeatureCard, Pick
from saelab.report.material import Material, SaePair

MOST_CARDS = 12
WIDTH, HEIGHT, TOP, EDGE, BAR = 640, 330, 26, 40, 12  # of the picture of a flow
BOTH, OUTGOING = ("carried on", "changed"), ("carried on", "changed", "merged", "died")
SHADES = {name: f"var(--{name.partition(' ')[0]})" for name in (*OUTGOING, "split off", "born")}

Path = tuple[tuple[str, int], ...]  # (SAE, feature) from site to site


def neighbours(pairs: Sequence[SaePair]) -> list[SaePair]:
    """The matchings between neighbours that carry class counts, in order of the layers."""
    known = [p for p in pairs if p.quality.get("classes") and not p.quality.get("composed")]
    least = min((p.span for p in known), default=0)
    return sorted((p for p in known if p.span == least), key=lambda p: (p.first.rpartition(".")[0], p.layers))


def figure(pairs: Sequence[SaePair]) -> Figure | None:
    """The flow of features through the sites, a picture per chain of SAEs; None where no matching carries classes."""
    steps = neighbours(pairs)
    if not steps:
        return None
    chains: dict[str, list[SaePair]] = {}
    for pair in steps:
        chains.setdefault(pair.first.rpartition(".")[0], []).append(pair)
    caption = (
        "Height: number of features. A feature is matched where the pair beats a rotated, unrelated dictionary (1 % of "
        "whose features would match); carried on: at half that distance or less; changed: beyond it. Merged: without a "
        "partner, but a part of a feature that another one is matched with; split off: the same from the second site."
    )
    keys = tuple(patch(name, shade) for name, shade in SHADES.items())
    panels = tuple(_flow(chain, name if len(chains) > 1 else "") for name, chain in chains.items())
    return Figure("flow", panels, (("", keys),), "Flow of features from site to site.", caption)


def _flow(chain: Sequence[SaePair], title: str) -> Drawing:
    """A chain of neighbours: a bar per site, a band per class of features between them."""
    per = (HEIGHT - TOP - 40) / max(sum(int(p.quality["classes"].get(k, 0)) for k in OUTGOING) for p in chain)
    gap = (WIDTH - 2 * EDGE - BAR) / len(chain)
    paths: list[Drawn] = []
    labels = [Label(f"{EDGE}", "14", title, "start", "title")] if title else []
    for i, pair in enumerate(chain):
        counts = {name: int(pair.quality["classes"].get(name, 0)) for name in SHADES}
        start, end = EDGE + i * gap + BAR, EDGE + (i + 1) * gap
        at = {"left": float(TOP), "right": float(TOP)}
        for name, shade in SHADES.items():
            tall, said = counts[name] * per, f"{name}: {words.number(counts[name], 0)} features, {pair.label}"
            if not counts[name]:
                continue
            left, right = ("left", "right") if name in BOTH else ("left", "") if name in OUTGOING else ("", "right")
            far = start + 0.3 * gap if not right else end
            near = end - 0.3 * gap if not left else start
            y_near = at[left] if left else at[right] + 14
            y_far = at[right] if right else at[left] + 14
            paths.append(Drawn(_band(near, far, y_near, y_far, tall), shade, title=said, faint=True))
            x = (near + far) / 2
            if tall > 12:
                labels.append(
                    Label(f"{x:.0f}", f"{(y_near + y_far + tall) / 2 + 4:.0f}", words.number(counts[name], 0))
                )
            for side in filter(None, (left, right)):
                at[side] += tall
        sites = [(pair.first, start - BAR, at["left"])] if i == 0 else []
        for sae, x, foot in (*sites, (pair.second, end, at["right"])):
            paths.append(Drawn(f"M{x:.1f} {TOP}h{BAR}V{foot:.1f}h-{BAR}Z", "var(--soft)", title=sae))
            labels.append(Label(f"{x + BAR / 2:.0f}", f"{foot + 32:.0f}", _site(sae), kind="axis"))
    return Drawing(WIDTH, HEIGHT, tuple(paths), tuple(labels))


def _band(start: float, end: float, left: float, right: float, tall: float) -> str:
    middle = (start + end) / 2
    over = f"M{start:.1f} {left:.1f}C{middle:.1f} {left:.1f} {middle:.1f} {right:.1f} {end:.1f} {right:.1f}"
    low, foot = right + tall, left + tall
    back = f"V{low:.1f}C{middle:.1f} {low:.1f} {middle:.1f} {foot:.1f} {start:.1f} {foot:.1f}Z"
    return over + back


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
