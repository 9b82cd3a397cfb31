"""The page of one feature as plain data: what there is of it, and for what there is not the command that makes it.

Must never know how it is served.
"""

from itertools import groupby
from shlex import quote
from typing import Any

import numpy as np

from saelab.core.errors import UserError
from saelab.explore.columns import MEANINGS, labelled
from saelab.explore.drawing import Shown, coloured, drawn_histogram, shown, strip
from saelab.explore.links import Links
from saelab.explore.material import FeatureMaterial, SaeMaterial
from saelab.explore.opened import Placed
from saelab.explore.session import Session
from saelab.report.words import finite, listing, percent, plural

NOTHING = "no term stands out"
TILES = ("balanced_accuracy",)


def feature_page(session: Session, sae: str, feature: int, links: Links) -> Shown:
    """All that the template of a feature prints. Raises `UserError` for what is not open or not there."""
    one = session.explored.opened(sae)
    if not 0 <= feature < one.d_sae:
        raise UserError(f"There is no feature {feature}: {sae} has 0 to {one.d_sae - 1}.")
    material = session.material(sae)
    known = None if material is None else material.feature(feature)
    page: Shown = {
        "title": f"{sae} {feature}", "sae": sae, "feature": feature, "site": one.site or "",
        "description": description_of(session, sae, feature, known), "actions": _actions(session, sae, feature, links),
        "tiles": _tiles(session, sae, feature, known), "meanings": MEANINGS,
        "own_text": links.page("text") if links.live else "",
    }  # fmt: skip
    page |= _turns(material, sae, feature, links) | _of_material(session, sae, feature, known, links)
    return (
        page
        | _effects(session, sae, feature)
        | _steered(session, sae, feature)
        | _partners(session, sae, feature, links)
    )


def description_of(session: Session, sae: str, feature: int, known: FeatureMaterial | None = None) -> str:
    """What a feature responds to, in words."""
    if known is not None:
        return known.description or (NOTHING if known.max_activation else "dead on the text that was read")
    return session.described(sae, feature) or NOTHING


def _actions(session: Session, sae: str, feature: int, links: Links) -> list[Shown]:
    copies = [("Markdown", "md"), ("JSON", "json"), ("Python", "py")]
    found: list[Shown] = []
    if links.live:
        found.append({"label": "Steer with it", "href": links.page("steer", f=f"{sae}:{feature}:0.3")})
    found += [
        {"label": f"Copy {said}" if links.live else said, "href": links.feature(sae, feature, kind), "copies": said}
        for said, kind in copies
    ]
    if away := session.explored.neuronpedia(sae, feature):
        found.append({"label": "Neuronpedia", "href": away, "away": True})
    return [{"copies": "", "away": False} | a for a in found]


def _tiles(session: Session, sae: str, feature: int, known: FeatureMaterial | None) -> list[Shown]:
    tiles = []
    of_run = session.explored.in_brief(sae, feature)
    density, largest = of_run if known is None else (known.density, known.max_activation)
    if density is not None and finite(density) is not None:
        tiles.append({"label": "active on", "value": percent(density, 3), "note": "of tokens"})
    if finite(largest) is not None:
        tiles.append({"label": "largest value", "value": shown(largest), "note": "activation units"})
    for name, placed in session.explored.interpretability(sae, feature).items():
        label, _ = labelled("interpretability" if name in TILES else name)
        note = f"above {percent(placed.share)} of {placed.n:,}"
        tiles.append({"label": label, "value": shown(placed.value), "note": note})
    return tiles[:4]


def _turns(material: SaeMaterial | None, sae: str, feature: int, links: Links) -> Shown:
    """The live features before and after; in an exported folder those that have a page."""
    if material is None:
        return {"before": links.feature(sae, feature - 1) if feature else "", "after": links.feature(sae, feature + 1)}
    live = material.live
    if not links.live:
        live = np.array([f for f in live.tolist() if links.feature(sae, f)], np.int64)
    first, last = np.searchsorted(live, feature), np.searchsorted(live, feature, side="right")
    return {
        "before": links.feature(sae, int(live[first - 1])) if first else "",
        "after": links.feature(sae, int(live[last])) if last < len(live) else "",
    }


def _of_run(session: Session, sae: str, feature: int) -> list[Shown]:
    """Contexts that a run has kept of a feature's largest values, for as long as there is no material."""
    found = session.explored.largest_contexts(sae, feature)
    if not found:
        return []
    largest = max(max(c.activations, default=0.0) for c in found)
    return [{"name": "largest, as its run kept them", "contexts": [coloured(c, largest) for c in found]}]


def _of_material(session: Session, sae: str, feature: int, known: FeatureMaterial | None, links: Links) -> Shown:
    if known is None:
        kept = _of_run(session, sae, feature)
        nothing = "Only what its run kept is known yet." if kept else "There is nothing of this feature's contexts yet."
        said = session.making.get(sae, nothing)
        absent = {"said": said, "command": f"saelab explore {quote(session.explored.opened(sae).reference)}"}
        return {"contexts": kept, "histogram_of": None, "lens": None, "lens_missing": absent, "beside": [],
                "dead": absent, "making": sae in session.under_way}  # fmt: skip
    by_band = groupby(known.contexts, key=lambda c: c.quantile)
    groups = [
        {"name": "largest" if band == "top" else f"{band} of its values",
         "contexts": [coloured(c, known.max_activation) for c in contexts]}
        for band, contexts in by_band
    ]  # fmt: skip
    dead = {"said": "This feature fires on no token of the text that was read: it is dead there.", "command": ""}
    lens = {"promotes": _scored(known.promotes), "suppresses": _scored(known.suppresses)}
    near = [(f, shown(c), "cosine of the decoder rows") for f, c in known.neighbours]
    together = [(f, shown(phi), f"phi; on {plural(n, 'token')} both") for f, phi, n in known.coactive]
    beside = [
        {"name": name, "rows": [_near(session, sae, row, links) for row in rows]}
        for name, rows in (("nearest decoder rows", near), ("fire on the same tokens", together))
    ]
    return {
        "contexts": groups, "histogram_of": drawn_histogram(known.histogram), "beside": beside, "making": False,
        "lens": lens if known.promotes else None, "dead": None if known.max_activation else dead,
        "lens_missing": {"said": "No language model was there to read promoted tokens with.", "command": ""},
    }  # fmt: skip


def _near(session: Session, sae: str, row: tuple[int, str, str], links: Links) -> Shown:
    feature, value, note = row
    said = session.described(sae, feature) or ""
    return {"feature": feature, "value": value, "note": note, "said": said, "href": links.feature(sae, feature)}


def _scored(rows: Any) -> list[Shown]:
    return [{"text": text, "value": shown(by)} for text, by in rows]


def _effects(session: Session, sae: str, feature: int) -> Shown:
    explored = session.explored
    rows = [_placed(name, p) for name, p in explored.effects(sae, feature).items()]
    rows += [_placed(f"{name}", p) for name, p in explored.lifts(sae, feature).items()]
    missing = session.absent(sae, "effects", "steering")
    if not rows and not missing:
        missing = [
            {"said": "Effects were measured for a sample of features; this one is not among them.", "command": ""}
        ]
    return {"effects": rows, "effects_missing": missing}


def _placed(name: str, placed: Placed) -> Shown:
    label, about = labelled(name)
    return {"label": label, "about": about, "value": shown(placed.value)} | strip(
        placed.value, placed.share, placed.quantiles
    )


def _steered(session: Session, sae: str, feature: int) -> Shown:
    texts = []
    for text in session.explored.steered(sae, feature):
        scores = [f"{labelled(name)[0]} {shown(value)}" for name, value in text.scores.items()]
        dose = f"{shown(text.dose)} nats" if text.dose is not None else ""
        strength = "" if text.strength is None else f"strength {shown(text.strength)}"
        arms = f"arm {listing(list(text.arms))}" if text.arms else ""
        about = "; ".join(part for part in (arms, dose, strength, *scores) if part)
        texts.append({"about": about, "prompt": text.prompt, "text": text.text})
    absent = session.absent(sae, "steering")
    none = {"said": "Its run has steered with a sample of features; this one is not among them.", "command": ""}
    return {"steered": texts, "steered_missing": absent[0] if absent else none}


def _partners(session: Session, sae: str, feature: int, links: Links) -> Shown:
    rows = []
    for p in session.explored.partners(sae, feature):
        row = {
            "sae": p.sae,
            "feature": p.feature,
            "relation": p.relation,
            "kind": p.kind,
            "distance": shown(p.distance),
        }
        rows.append(row | {"href": links.feature(p.sae, p.feature), "said": session.described(p.sae, p.feature) or ""})
    absent = session.absent(sae, "partners")
    none = {"said": "No matching gives this feature a partner.", "command": ""}
    return {
        "partners": rows, "partners_missing": absent[0] if absent else none,
        "path": links.path(sae, feature) if any(p["relation"] == "site" for p in rows) else "",
    }  # fmt: skip
