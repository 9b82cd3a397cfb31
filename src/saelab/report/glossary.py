"""The words of the page that are this field's or this tool's own, each in a sentence; only those that the page uses."""

from saelab.report.cells import Column, PageTable, TableRow, text
from saelab.report.material import Material
from saelab.report.parts import Part, Section

SAES = (
    ("FVU", "Share of the activations' variance that an SAE's reconstruction leaves unexplained."),
    (
        "CE recovered",
        "Share of the damage of ablating a site that the reconstruction undoes, in the LM's cross-entropy.",
    ),
    ("L0", "Features that are active on a token, on average."),
    ("dead", "Of a feature: it never fires on the text that is read."),
    (
        "random dictionary",
        "Random directions of an SAE's width and L0. What an SAE does not do better owes nothing to it.",
    ),
    (
        "interpretability",
        "Balanced accuracy with which a judge tells from a feature's description where it fires on other text; 0.5 is "
        "chance.",
    ),
)
STEERING = (
    ("dose, KL", "How far a feature is moved: the change of the next token's distribution that this makes, in nats."),
    (
        "described",
        "Outcome of a steered text: how near it is to the contexts and terms of the feature, by sentence embeddings.",
    ),
    (
        "read back",
        "Outcome of a steered text: how much the LM, reading it unsteered, is in the state of text on which the "
        "feature is active.",
    ),
    (
        "percentile",
        "Of a text's score under its own feature's reader among those under other features' readers; 0.5 is chance.",
    ),
    (
        "lift",
        "A text's score under its own feature's reader less the mean under the others' readers; 0: nothing specific.",
    ),
    ("gate", "Whether steering by known classes shows in an outcome and steering by a random dictionary does not."),
)
RANKS = (
    ("τ", "Kendall's tau_b: rank agreement of two scores over SAEs, from −1 to 1, with ties."),
    ("ψ, Ψ", "Of 2510.03659: the mean τ of the groups of one axis (ψ), and the mean of the ψ of all axes (Ψ)."),
    (
        "reliability",
        "Share of the spread of a score over SAEs that is not noise of the features drawn; 0: not told apart.",
    ),
)
MATCHED = (
    ("matched", "Two features of neighbouring sites are paired, each once; every one of a smaller SAE has a partner."),
    ("carried on", "Of a feature: its partner is nearer than half the reject cost. Being matched does not say so."),
    ("changed", "Of a feature: its partner is further than that, but nearer than the reject cost."),
    ("born, died", "Of a feature: at the site before, or after, nothing is nearer than the reject cost."),
    ("merged, split off", "Of a feature without a partner: it is a part of one that another feature is matched with."),
    ("one to many", "Of a pair: its feature of the second site shares the first one's with others that split off it."),
    (
        "ambiguous",
        "Of a pair: given another neighbour of one of the two, the other adds nothing that chance would not.",
    ),
)
AGAIN = (
    (
        "stability",
        "Mean cosine of a feature with its partners in the same SAE trained with other seeds. Of an SAE: the mean over "
        "its features, PW-MCC (2505.20254) with signed cosines.",
    ),
)


def glossary(material: Material) -> list[Section]:
    """The section; none for a page that needs none of its words."""
    words = [
        *(SAES if material.saes is not None else ()),
        *(STEERING if material.arms is not None else ()),
        *(RANKS if material.agreement is not None else ()),
        *(MATCHED if material.pairs else ()),
        *(AGAIN if material.repeats else ()),
    ]
    if not words:
        return []
    rows = tuple(TableRow((text(word), text(meaning))) for word, meaning in sorted(words, key=lambda w: w[0].lower()))
    columns = (Column("Word", kind="text"), Column("Meaning", kind="text"))
    table = PageTable("What words mean on this page", columns, rows)
    return [
        Section(
            "words", "Words", "Definitions with their equations: docs/glossary.md of saelab.", (Part("table", table),)
        )
    ]
