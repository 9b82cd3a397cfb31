"""What a section of the page is made of: its parts, named by how they are drawn. Plain records."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Part:
    """A piece of a section, named by how it is drawn."""

    kind: Literal["table", "figure", "facts", "bars", "cards", "callout", "heading", "text"]
    content: Any


@dataclass(frozen=True)
class Section:
    """A section: `absent` set means that there is nothing to show and why."""

    name: str
    title: str
    lead: str
    parts: tuple[Part, ...] = ()
    absent: str = ""
