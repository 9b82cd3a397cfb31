"""What the columns of the feature index are called, and what each means, from the catalogues that measured them.

Must never know a page.
"""

from dataclasses import dataclass

from saelab.explore.index import KEYS, FeatureIndex
from saelab.instrument.readers import MEASURES
from saelab.report.words import label
from saelab.selection.criteria.catalogue import CRITERIA

LIFT = "_lift"
FIRST = ("density", "interpretability", "class")
PLAIN = {
    "density": ("density", "share of tokens on which the feature is active"),
    "max_activation": ("largest value", "in activation units"),
    "interpretability": (
        "interpretability",
        "balanced accuracy of the description on unseen windows; 0.5 says nothing",
    ),
    "auroc": ("interpretability (AUROC)", "of the description on unseen windows; 0.5 says nothing"),
    "class": ("class", "what becomes of the feature at the next site"),
    "distance": ("distance", "to its match at the next site"),
    "stability": ("stability", "cosine with its match in SAEs of other seeds"),
    "state": ("state", "live, or dead on the text that was read"),
}
TEXTS = ("description",)
MEANINGS = {
    "class": "what becomes of the feature: carried on (the match is near), changed (farther), merged (a part of "
    "another's match), died (no match)",
    "distance": "1 − cosine of the two decoder rows; 0 is the same direction",
    "arm": "Arm: why the feature was steered with (random: drawn at random; else the score that chose it).",
    "lift": "Lift: by how much the text is more what the feature stands for than texts without it.",
}


@dataclass(frozen=True)
class IndexColumn:
    """A column: its key, label and meaning; whether it is a number; its names, if few; whether it is shown at first."""

    name: str
    label: str
    about: str
    numeric: bool = False
    names: tuple[str, ...] = ()
    shown: bool = False


def labelled(name: str) -> tuple[str, str]:
    """Label and meaning of a column."""
    measures = {m.name: m for m in (*CRITERIA.values(), *MEASURES)}
    if name in PLAIN:
        return PLAIN[name]
    base = name.removesuffix(LIFT)
    if base in measures:
        unit = f"in {measures[base].unit}" if measures[base].unit else ""
        lift = base != name
        said = "lift of steered texts over texts without the feature" if lift else unit
        return (f"{measures[base].label}, lift" if lift else measures[base].label), said
    return label(name), ""


def columns_of(index: FeatureIndex) -> list[IndexColumn]:
    """All columns but the keys and texts; those that say most are shown at first."""
    first = [n for n in FIRST if n in index.columns]
    for kind in ([n for n in index.measures if n in CRITERIA], [n for n in index.measures if n.endswith(LIFT)]):
        first += kind[:1]
    found = []
    for name in index.columns:
        if name in (*KEYS, *TEXTS):
            continue
        said, about = labelled(name)
        numeric = name in index.measures
        names = () if numeric else tuple(map(str, index.table[name].drop_nulls().unique().sort().to_list()))
        if numeric or 0 < len(names) <= 20:
            found.append(IndexColumn(name, said, about, numeric, names, name in first))
    return found
