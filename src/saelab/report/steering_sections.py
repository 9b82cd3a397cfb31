"""The sections on steering: whether it can be seen, which features do it, and what ratings say where there are any.

Pure functions of `Material`.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from saelab.instrument.readers import HEADLINE
from saelab.report import figures, steering_figures, steering_tables, tables, words
from saelab.report.material import Material
from saelab.report.names import Names
from saelab.report.parts import Part, Section


def instrument(material: Material) -> Section:
    """Whether this study can see steering, and the dose it was looked for at."""
    name, title = "instrument", "Can this study see steering?"
    record = material.summary.get("instrument") or {}
    if not record.get("sites"):
        return Section(name, title, "", absent="This study was not gated: nothing shows that it can see steering.")
    lead = (
        "Before anything is said of features, texts are steered by known classes, which has to show, and by the "
        "features of a dictionary that nobody trained, which must show less than half as much. A text's lift is its "
        "score under its own feature's reader less that under the readers of the others (0: nothing specific)."
    )
    parts = [Part("callout", f"{s['lm']}, {s['site']}: {_gated(s)}") for s in record["sites"]]
    if material.controls is not None and material.controls.height:
        parts.append(Part("table", steering_tables.controls(material.controls, material.names)))
    if material.doses is not None and material.doses.height:
        parts += [
            Part("heading", "Dose response"),
            Part("figure", steering_figures.doses(material.doses, material.names)),
        ]
    return Section(name, title, lead, tuple(parts))


def _gated(site: Mapping[str, Any]) -> str:
    """What a site's gate says, and the dose its features are steered at."""
    chosen = site["chosen"]
    dose, strength = words.finite(chosen["dose"]), words.finite(chosen["strength"])
    if dose is None or strength is None:
        return f"{site['sentence']}{_read_by(site)}"
    found = {
        "no_dev_signal": "no dose shows on the texts that choose it, so the one at which the classes show is taken, or "
        "the nearest to 0.3 nats where they show at none",
    }.get(chosen["state"], "chosen on further texts with features of some of the SAEs")
    share = words.number(chosen["share"])
    held = {
        "sae": " Every SAE's features are moved as far as gives its own median feature that KL.",
        "feature": " Every feature is moved as far as gives it that KL.",
        "feature_dev": " Every feature is moved by the dose that is best on its own dev texts, by this where none is.",
        "factors": f" Every feature is moved by {chosen.get('factor')} times its largest activation.",
    }.get(str(site.get("held")), "")
    return (
        f"{site['sentence']} Features are moved by {words.adaptive(strength)} ({share} of the stream's norm), at which "
        f"the median feature has a KL of {words.adaptive(dose)} nats per token: {found}.{held}{_read_by(site)}"
    )


def _read_by(site: Mapping[str, Any]) -> str:
    """Who says what a text is about, and how many answers of a language model could not be used."""
    if site.get("reader") is None:  # a run of before
        return ""
    answers = site.get("answers") or {}
    lost = sum(n for state, n in answers.items() if state != "ok")
    asked = f", asked {sum(answers.values()):,} times ({lost:,} without a rating)" if answers else ""
    return f" What a text is about is read by {site['reader']}{asked}."


def arms(material: Material) -> Section:
    """What features do that were chosen in one way or another, beside a random dictionary."""
    name, title = "arms", "Which features steer"
    table = material.arms
    if table is None or not table.height:
        return Section(name, title, "", absent="No features have been steered with yet (stats/arms.parquet).")
    lead = (
        "Lift of the features that each criterion chose, less that of the features of a random dictionary of the same "
        "width and L0 under their own readers: the interval is of these SAEs, of which features were drawn; beneath it "
        "that of SAEs like these. Percentiles are held against features taken without selection, "
        "by permuting within every SAE which features were chosen. The outcome named first asks whether a text is "
        "about what the feature is about. The second asks "
        "whether the model reads in the text what was written into it, which is partly an echo. "
        "Every feature writes to the same few prompts: intervals and p are of these prompts, but for those that say "
        "“prompts like these”, which take two prompts (reliability) or four (differences, paired by prompt)."
    )
    parts = [Part("table", t) for t in steering_tables.arms(table, material.names)]
    if material.spread is not None and material.spread.height:
        parts.append(Part("table", steering_tables.spread(material.spread, material.names)))
    return Section(name, title, lead, tuple(parts))


def steering_of(material: Material) -> str:
    """The column of SAEs that says how they steer: the instrument's headline, or ratings where it has not run."""
    saes = material.saes
    seen = saes is not None and HEADLINE in saes.columns and saes[HEADLINE].null_count() < saes.height
    return HEADLINE if seen else "utility"


def selection(material: Material) -> Section:
    """What choosing features gains, beside controls."""
    name, title = "selection", "What selection gains in ratings"
    table = material.selection
    if table is None or not table.height:
        return Section(name, title, "", absent="No selection has been evaluated yet (stats/selection.parquet).")
    lead = (
        "Mean steering score (0 to 2, held-out instructions) of the features that a criterion chose, beside features "
        "taken without selection and two controls that any real effect has to beat."
    )
    names = material.names
    made = tables.selections(table, names, told=told(table, names))
    if said := floor(table, names):
        lead = f"{lead} {said}"
    parts = (Part("figure", figures.selection(table, names)), *(Part("table", t) for t in made))
    return Section(name, title, lead, parts)


def told(table: pl.DataFrame, names: Names) -> bool:
    """Whether texts steered without selection score higher than texts without steering: only then is a gain a share."""
    return not floor(table, names)


def floor(table: pl.DataFrame, names: Names) -> str:
    """Said where texts steered without selection cannot be told from texts without any steering (paired over SAEs)."""
    pooled = table.filter((pl.col("sae") == "all") & pl.col("arm").is_in(names.arms_of("baseline")))
    row = pooled.row(0, named=True) if pooled.height else {}
    over, p = words.finite(row.get("over")), words.finite(row.get("over_p"))
    if over is None or p is None or (over > 0 and p < 0.05):
        return ""
    low, high = words.finite(row["over_low"]), words.finite(row["over_high"])
    span = "" if low is None or high is None else f" {words.interval(low, high, 3)}"
    return (
        "Steering with features taken without selection changes the score by "
        f"{words.number(over, 3, signed=True)}{span} against texts without any steering (p {words.p_value(p)} after "
        "Holm): these scores do not show that steering does anything, so no ranking by them can be trusted."
    )
