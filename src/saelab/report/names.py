"""What the page calls things, and in which colour: the run's own record of its names (`names.json`).

A name that the record does not hold is shown as it is written, in grey; text of a record is as untrusted as any other
of a run, so a colour that is no colour is not used and no name reaches a style sheet. Knows no catalogue and no file.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from markupsafe import Markup

from saelab.report import words
from saelab.report.chart import DASHES

Records = Mapping[str, Mapping[str, Any]]
OTHER = "other"  # the class and the colour of what has none


@dataclass(frozen=True)
class Names:
    """The record's parts, each by name and in the order in which it is shown (see `study/names.py`)."""

    architectures: Records = field(default_factory=dict)
    measures: Records = field(default_factory=dict)
    arms: Records = field(default_factory=dict)
    judges: Records = field(default_factory=dict)
    matchings: Records = field(default_factory=dict)

    def architecture(self, name: str) -> str:
        """An architecture as its paper writes it."""
        return str(self.architectures.get(name, {}).get("label") or name)

    def swatch(self, name: str) -> str:
        """The CSS class of an architecture: its place in the record, or `other`."""
        shown = [n for n, look in self.architectures.items() if _is_colour(look)]
        return f"kind-{shown.index(name)}" if name in shown else OTHER

    def colour(self, name: str) -> str:
        """The CSS variable of an architecture's colour."""
        return f"var(--{self.swatch(name)})"

    def order(self, names: list[str]) -> list[str]:
        """Architectures in the order of the record, unknown ones last, each once."""
        known = list(self.architectures)
        return sorted(set(names), key=lambda n: (known.index(n) if n in known else len(known), n))

    def in_grid_order(self, saes: pl.DataFrame) -> pl.DataFrame:
        """SAEs by LM, site, width and steps, then architecture (in the order of the record) and level."""
        order = list(self.architectures)
        rank = pl.col("architecture").replace_strict(
            order, range(len(order)), default=len(order), return_dtype=pl.Int64
        )
        place = [c for c in ("lm", "site", "width", "steps") if c in saes.columns]
        return saes.sort(*place, rank, "architecture", "level", "sae")

    def arm(self, name: str) -> str:
        """What chose some features, in words."""
        return str(self.arms.get(name, {}).get("label") or name.replace("_", " "))

    def arms_of(self, role: str) -> list[str]:
        """The arms that are `chosen`, the `baseline` or `control`."""
        return [name for name, arm in self.arms.items() if arm.get("role") == role]

    def variable(self, name: str) -> str:
        """A measured quantity in words; `SCORE after ARM` and `gain in SCORE by ARM` name the arm too."""
        if found := re.fullmatch(r"(gain in )?(\S+) (after|by) (\S+)", name):
            gain, score, how, arm = found.groups()
            return f"{gain or ''}{self.variable(score)} {how} {self.arm(arm)}"
        return str(self.measures.get(name, {}).get("label") or words.label(name))

    def line(self, name: str) -> tuple[str, str, str]:
        """What a matching is read against, as it is drawn: its label, colour and dash."""
        known = self.matchings.get(name, {})
        colour, dash = (str(known.get(key)) for key in ("colour", "dash"))
        shown = str(known.get("label") or words.upper(words.label(name)))
        shade = colour if re.fullmatch(r"line-\d", colour) else OTHER
        return shown, f"var(--{shade})", dash if dash in DASHES else "dot"

    def beside(self, measure: str) -> tuple[str, str]:
        """The baseline that stands beside a measure of a matching, and its short name; empty where none is known."""
        found = ((n, str(b.get("note"))) for n, b in self.matchings.items() if b.get("note_of") == measure)
        return next(found, ("", ""))

    def style(self) -> Markup:
        """The colours of the architectures as CSS: variables for light and dark paper, and a class for each."""
        looks = [look for look in self.architectures.values() if _is_colour(look)]
        light, dark = (
            " ".join(f"--kind-{i}: {look[paper]};" for i, look in enumerate(looks)) for paper in ("light", "dark")
        )
        classes = " ".join(f".swatch.kind-{i} {{ background: var(--kind-{i}); }}" for i in range(len(looks)))
        dark_rule = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
        return Markup(f":root {{ {light} }}\n{dark_rule}\n{classes}\n") if looks else Markup("")


def coordinates(sae: str) -> tuple[str, int] | None:
    """Architecture and level as the name of a trained SAE says them ("jumprelu.l0_32.resid_post.15")."""
    found = re.match(r"([^.]+)\.l0_(\d+)\.", sae)
    return (found[1], int(found[2])) if found else None


def anchors(saes: pl.DataFrame | None) -> dict[str, str]:
    """The id on the page of every SAE's row in the grid."""
    return {} if saes is None else {sae: f"sae-{i}" for i, sae in enumerate(saes["sae"].unique(maintain_order=True))}


def _is_colour(look: Mapping[str, Any]) -> bool:
    return all(re.fullmatch(r"#[0-9a-f]{6}", str(look.get(paper))) for paper in ("light", "dark"))
