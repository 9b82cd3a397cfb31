"""The report: one HTML file that holds everything it shows, made of a run's tables.

The page opens from disk and loads nothing: figures are SVG, and the page's own Content-Security-Policy lets only the
script that it names by hash run and no address be reached. Token text, model text and judges' words are hostile: every
value is escaped by Jinja, nothing of a run is ever marked safe, and a value that is neither text nor an integer is
refused, so that no None or NaN can be printed. The same artefacts give the same bytes.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from saelab.report import feature_card, flow, words
from saelab.report.headline import answer_lines, opening, picture, question, tiles
from saelab.report.material import Material, read_evidence, read_material
from saelab.report.sections import sections
from saelab.report.unchanged import signed
from saelab.store.files import write_text
from saelab.store.layout import RunFolder
from saelab.store.sums import check_run

TEMPLATES = Path(__file__).parent / "templates"
MADE = (
    "Made by saelab from the tables of this run; the page holds everything it shows, loads nothing, and is rebuilt by "
    "saelab report."
)


def write_report(run: RunFolder, out: Path | None = None) -> Path:
    """Write the report of a run and return its path (`out`, or report.html in the run folder).

    Raises `UserError` where the folder holds no artefact at all and `ArtefactError` where one is broken; an artefact
    that does not exist yet becomes a sentence in its section.
    """
    check_run(run)
    material = read_material(run)
    picks = [] if material.candidates is None else feature_card.choose(material.candidates, gated=material.steers)
    taken = {(p.sae, p.feature) for p in picks}
    picks += [p for p in flow.picks(material) if (p.sae, p.feature) not in taken]
    evidence = {sae: read_evidence(run, sae) for sae in dict.fromkeys(p.sae for p in picks)}
    cards = [feature_card.make(p, evidence[p.sae], material.names) for p in picks]
    path = out or run.report
    write_text(path, signed(render(material, cards), run))
    return path


def render(material: Material, cards: list[feature_card.FeatureCard]) -> str:
    """The page as HTML."""
    shown = picture(material)
    name = str(material.summary.get("study") or "")
    return printed(
        title=f"{name}: saelab report".lstrip(": "),
        kicker=f"Study {name}" if name else "A study that is not finished",
        question=question(material),
        answer=answer_lines(material),
        picture=shown,
        opening=opening(material),
        tiles=tiles(material),
        sections=sections(material, cards, shown.name if shown else ""),
        looks=material.names.style(),
    )


def printed(*, looks: str = "", **values: Any) -> str:
    """A page of these values. looks: rules beside the style sheet's."""
    script = _script((TEMPLATES / "page.js").read_text("utf-8"))
    page = environment().get_template("page.html")
    values = {"picture": None, "tiles": (), "made": MADE} | values
    return page.render(style=stylesheet() + looks, hashes=_hash(script), script=script, **values)


def stylesheet() -> Markup:
    """The rules of every page; the colours of architectures come from the record beside them."""
    return Markup("".join((TEMPLATES / name).read_text("utf-8") for name in ("colours.css", "style.css")))


def environment() -> jinja2.Environment:
    """Templates that escape everything and print only text and integers."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
    )
    env.globals["further"] = lambda n: f"{words.plural(n, 'further prompt')}"
    return env


def _printable(value: object) -> object:
    """What may be printed: our own markup, text (made visible), integers. Anything else is a mistake of ours."""
    if isinstance(value, Markup | jinja2.Undefined):
        return value
    if isinstance(value, str):
        return words.visible(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"the page may not print {type(value).__name__} {value!r}")


def _script(text: str) -> Markup:
    """A script of our own, with the line ends that an HTML parser will see (its hash must match)."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError("a script that holds </script or <!-- cannot be inlined")
    return Markup(text)


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
