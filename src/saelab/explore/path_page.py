"""One feature through the layers as plain data: each site's feature, and what the matching says of the step.

Must never know how it is served.
"""

from saelab.explore.drawing import Shown, coloured, shown
from saelab.explore.feature_page import description_of
from saelab.explore.links import Links
from saelab.explore.session import Session

SHOWN = 3  # contexts of a step


def path_page(session: Session, sae: str, feature: int, links: Links) -> Shown:
    """What the template of a path prints. Raises `UserError` for what is not open or not there."""
    explored = session.explored
    explored.check(sae, feature)
    places = explored.path(sae, feature)
    steps, before = list[Shown](), None
    for name, number in places:
        material = session.material(name)
        known = None if material is None else material.feature(number)
        site = explored.opened(name).site or name
        between = ""
        if before is not None:
            pairs = [p for p in explored.partners(*before) if (p.sae, p.feature) == (name, number)]
            between = "; ".join(f"{p.kind}, distance {shown(p.distance)}" for p in pairs[:1])
        top = [] if known is None else [c for c in known.contexts if c.quantile == "top"][:SHOWN]
        promoted = [] if known is None else [t for t, _ in known.promotes[:8]]
        steps.append({
            "sae": name, "feature": number, "site": site, "href": links.feature(name, number), "between": between,
            "here": (name, number) == (sae, feature), "description": description_of(session, name, number, known),
            "contexts": [coloured(c, known.max_activation) for c in top] if known else [],
            "promotes": f"promotes {' '.join(promoted)}" if promoted else "",
        })  # fmt: skip
        before = (name, number)
    absent = session.absent(sae, "partners")
    alone = {"said": "No matching follows this feature to another site.", "command": ""}
    missing = (absent[0] if absent else alone) if len(steps) < 2 else None
    made = next((session.making[n] for n, _ in places if n in session.making), "")
    under_way = any(n in session.under_way for n, _ in places)
    title, heading = f"{sae} {feature} through the layers", f"{sae} · feature {feature}"
    return {
        "making": made,
        "under_way": under_way,
        "title": title,
        "heading": heading,
        "steps": steps,
        "missing": missing,
    }
