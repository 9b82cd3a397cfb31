"""What a name in a table means to a reader: its label, its unit, whether its sign or its size ranks.

Catalogue entries (criteria, architectures, judges) are or carry such records; a run folder keeps them in `names.json`,
so that its page can be made without the code that computed its tables. Plain data: must never know torch or a file.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A measured quantity. signed: both tails are far from nothing, so it is ranked by its size."""

    name: str
    label: str
    unit: str = ""
    signed: bool = False


@dataclass(frozen=True)
class Look:
    """How a kind of SAE is shown: its name as its paper writes it, its colours on light and on dark paper (#rrggbb)."""

    label: str
    light: str
    dark: str
