"""Templates filled with plain data: what is printed is text and integers, and everything is escaped.

Must never know what a page is about.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from saelab.explore.links import Links, ServedLinks
from saelab.explore.live import LiveModel
from saelab.report.page import TEMPLATES
from saelab.report.words import visible

HERE = Path(__file__).parent
STATIC = HERE / "static"
COLOURS = TEMPLATES / "colours.css"  # the same as of the report
MENU = (("Features", ""), ("Try a text", "text"), ("Steer", "steer"), ("Compare", "compare"))
LINKS = ServedLinks()


def environment() -> jinja2.Environment:
    """Templates that escape everything and print text and integers only."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
    )


def _printable(value: object) -> object:
    if isinstance(value, Markup | jinja2.Undefined):
        return value
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"a page may not print {type(value).__name__} {value!r}")


def script_data(data: Any) -> Markup:
    """Data inside a page, as JSON that no HTML parser ends early."""
    text = json.dumps(data, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


class Pages:
    """Templates filled in, with the menu and the state of the language model."""

    def __init__(self, model: LiveModel, links: Links = LINKS):
        self.model, self.links, self.env = model, links, environment()

    def render(self, template: str, page: Mapping[str, Any], *, here: str = "-") -> str:
        """A page. here: which item of the menu it is."""
        items = MENU if self.links.live else MENU[:1]
        menu = [
            {"label": label, "here": name == here, "href": self.links.page(name) if name else self.links.home()}
            for label, name in items
        ]
        state = self.model.state
        known = {"links": self.links, "menu": menu, "model": state}
        return self.env.get_template(template).render(known | dict(page))
