"""What a name in a table means to a reader: its label, its unit, whether its sign or its size ranks.

Catalogue entries (criteria, architectures, judges) are or carry such records; a run folder keeps them in `names.json`,
so that its page can be made without the code that computed its tables. Plain data: must never know torch or a file.
"""

from dataclasses import dataclass

LONGEST = 64  # bytes of a name: two of them and what stands between make one folder's name


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


def path_part(name: str) -> str:
    """`name`, where it can be the name of one folder inside a run; a `ValueError` says why it cannot."""
    if not name.strip(". ") or name != name.strip() or name.startswith("."):
        raise ValueError(f"{name!r} is no name: it needs letters or digits, and no dot or blank in front")
    wrong = next((c for c in name if c in "/\\" or not c.isprintable()), None)
    if wrong is not None or "--" in name:
        raise ValueError(f"{name!r} holds {wrong or '--'!r}, which no name of a folder may")
    if len(name.encode(errors="replace")) > LONGEST:
        raise ValueError(f"{name!r} is longer than {LONGEST} bytes")
    return name
