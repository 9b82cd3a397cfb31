"""What the page says, section by section: a heading, a sentence on how to read it, and its tables and figures.

A section whose artefacts do not exist is one sentence that says what is missing. The order and the words live here; the
look lives in the templates. Pure functions of `Material` and the cards.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from saelab.instrument.readers import HEADLINE
from saelab.report import (
    evaluation_tables,
    feature_card,
    figures,
    flow,
    matching_tables,
    tables,
    words,
)
from saelab.report.adopted import adopted, adopted_of
from saelab.report.feature_card import FeatureCard
from saelab.report.material import Material
from saelab.report.parts import Part, Section
from saelab.report.steering_sections import arms, instrument, selection, steering_of


@dataclass(frozen=True)
class Fact:
    """A labelled value; `title` is the whole of a value that was shortened."""

    label: str
    value: str
    title: str = ""


@dataclass(frozen=True)
class FactGroup:
    """A titled group of facts."""

    title: str
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Bar:
    """A bar of a plain bar list: its width in percent of the longest."""

    label: str
    width: str
    value: str


@dataclass(frozen=True)
class Bars:
    """A titled bar list."""

    title: str
    bars: tuple[Bar, ...]


GROUPS = (
    ("Language model", "lm"),
    ("Text", "text"),
    ("Counts", "counts"),
    ("What the judge was paid for", "spend"),
    ("The judge's anchors, asked first and last", "anchors"),
    ("Seeds", "seeds"),
    ("Versions", "versions"),
    ("Machine", "machine"),
)
SHOWN_FILES = 5  # of those that were damaged


def sections(material: Material, cards: Sequence[FeatureCard]) -> list[Section]:
    """All sections in reading order."""
    first: tuple[Callable[[Material], Section], ...] = (instrument, scatter, agreement, arms)
    if material.selection is not None:
        first = (*first, selection)
    first = (*first, grid, *([adopted] if adopted_of(material) else []))
    makers = (*first, *([evaluations] if material.evaluations is not None else []), what_was_run)
    last = [matching(material, cards), training(material), feature_cards(cards, material)]
    return [make(material) for make in makers] + last


def what_was_run(material: Material) -> Section:
    """LM, text, seeds, versions, seconds, and what is missing."""
    summary = material.summary
    name, title = "run", "What was run"
    if not summary and not material.states.height:
        return Section(name, title, "", absent="The run left no summary (summary.json) yet.")
    facts = [group for head, key in GROUPS for group in fact_groups(head, summary.get(key) or {})]
    parts = [Part("facts", facts)] if facts else []
    seconds = stage_seconds(summary)
    if seconds:
        most = max(seconds.values()) or 1.0
        bars = tuple(Bar(words.label(k), f"{100 * s / most:.1f}", words.duration(s)) for k, s in seconds.items())
        total = words.duration(sum(seconds.values()))
        parts.append(Part("bars", Bars(f"Time by stage: {total} of work, some of it side by side", bars)))
    if material.states.height:
        parts.append(Part("table", tables.states(material.states)))
    lead = "What is needed to trace or repeat this page. A failed judgement is counted here and enters no mean."
    return Section(name, title, lead + remade(summary), tuple(parts))


def remade(summary: Mapping[str, Any]) -> str:
    """A sentence on the files that were found damaged and made again; nothing where there were none."""
    files = list(dict.fromkeys(str(r["file"]) for r in summary.get("remade") or []))
    if not files:
        return ""
    more = [f"{words.number(len(files) - SHOWN_FILES, 0)} more"] if len(files) > SHOWN_FILES else []
    named = words.listing([*files[:SHOWN_FILES], *more])
    return f" {words.plural(len(files), 'file')} of the run had been damaged, and were made again: {named}."


def stage_seconds(summary: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by stage; the wall time of the last call, which the study keeps beside them, is no stage."""
    found = {k: words.finite(v) for k, v in (summary.get("seconds") or {}).items() if k != "this_call"}
    return {k: s for k, s in found.items() if s is not None}


def fact_groups(title: str, values: Mapping[str, Any]) -> list[FactGroup]:
    """One group of facts, or one per name where the record holds records by name (of LMs)."""
    if values and all(isinstance(v, Mapping) for v in values.values()):
        return [FactGroup(f"{title}, {name}", flatten(v)) for name, v in values.items()]
    return [FactGroup(title, flatten(values, grouped=title != "Seeds"))] if values else []


def flatten(values: Mapping[str, Any], prefix: str = "", *, grouped: bool = True) -> tuple[Fact, ...]:
    """Facts of a summary record; nested records get their parent's label in front."""
    found: list[Fact] = []
    for key, value in values.items():
        name = f"{prefix}{words.label(str(key))}"
        if isinstance(value, Mapping):
            found += flatten(value, f"{name}, ", grouped=grouped)
        else:
            found.append(_fact(name, value, grouped))
    return tuple(found)


def _fact(name: str, value: Any, grouped: bool) -> Fact:
    if value is None:
        return Fact(name, "not recorded")
    if isinstance(value, bool):
        return Fact(name, "yes" if value else "no")
    if isinstance(value, int):
        return Fact(name, words.number(value, 0) if grouped else str(value))
    if isinstance(value, float):
        return Fact(name, "not recorded" if words.finite(value) is None else words.adaptive(value))
    whole = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return Fact(name, whole if len(whole) <= 96 else whole[:80] + "…", "" if len(whole) <= 96 else whole)


def grid(material: Material) -> Section:
    """Every SAE, with the random dictionary beside it."""
    name, title = "grid", "The grid of SAEs"
    if material.saes is None or not material.saes.height:
        return Section(name, title, "", absent="No SAE has been measured yet (stats/saes.parquet).")
    lead = (
        "One row per SAE: lower FVU (fraction of variance unexplained) and higher cross-entropy (CE) recovered are "
        "better, and both must beat the random dictionary of the same L0, in grey."
    )
    parts = (
        Part("figure", figures.frontier(material.saes, material.names)),
        Part("table", tables.grid(material.saes, material.names, {r["sae"] for r in adopted_of(material)})),
    )
    return Section(name, title, lead, parts)


def evaluations(material: Material) -> Section:
    """SAEBench's suite, one row per SAE."""
    table = material.evaluations
    assert table is not None
    presets = words.listing(sorted(set(table["preset"].to_list())))
    lead = (
        f"The evaluations of SAEBench on every SAE, at the preset {presets}. Files in SAEBench's own layout are in the "
        "folder saebench; settings and deviations stand in each."
    )
    parts = (Part("table", evaluation_tables.suite(table, material.saes, material.names)),)
    return Section("evaluations", "The SAEBench suite", lead, parts)


def scatter(material: Material) -> Section:
    """Interpretability against how SAEs steer."""
    name, title = "scatter", "Interpretability against steering"
    saes, y = material.saes, steering_of(material)
    known = 0 if saes is None else saes.drop_nulls(["interpretability", y]).height
    if saes is None or not known:
        return Section(name, title, "", absent="No SAE has both an interpretability score and one of steering yet.")
    judge = f", as judged by {words.listing(material.judges)}" if material.judges else ""
    lead = (
        f"Each mark is one SAE: further right, its features are easier to recognise{judge}; "
        "higher, texts steered by them are more about what they are about. Bars are 95 % intervals over its features."
    )
    parts = [Part("figure", figures.scatter(saes, material.names, y))]
    notes = (material.names.judges.get(judge, {}).get("note") for judge in material.judges)
    parts += [Part("callout", str(note)) for note in (*notes, _drift(material)) if note]
    return Section(name, title, lead, tuple(parts))


def _drift(material: Material) -> str:
    """What a reader must be told of the judge's anchors; nothing where they were not asked or the judge stayed."""
    found = material.summary.get("anchors") or {}
    if found.get("state") == "changed":
        kappa = words.number(float(found["kappa"]), signed=True)
        return f"The judge changed during the run: weighted kappa of its two rounds over the anchors is {kappa}."
    if found.get("state") == "too_few":
        return f"Whether the judge stayed the same is not known: it answered {found.get('n')} anchors twice."
    return ""


def agreement(material: Material) -> Section:
    """Rank agreement: overall, by axis, and feature by feature."""
    name, title = "agreement", "Agreement of the two rankings"
    table = material.agreement
    if table is None or not table.height:
        return Section(name, title, "", absent="No rank agreement has been computed yet (stats/agreement.parquet).")
    lead = (
        "Kendall's τ (τ-b, corrected for ties) is +1 when both scores rank the SAEs alike, 0 when the rankings are "
        "unrelated, −1 when one is the other reversed. Grey: where τ falls by chance in 95 of 100 cases."
    )
    names, parts = material.names, list[Part]()
    parts += [
        Part("callout", frank(table, *table.select("x", "y").row(0), gate=material.gate)),
        Part("table", tables.overall(table, names)),
    ]
    parts += [Part("table", t) for t in tables.agreements(table, names)]
    if material.feature_level is not None and material.feature_level.height:
        parts.append(Part("heading", "Feature by feature, within SAEs"))
        text = "The same question one level down: within one SAE, does a feature's score predict how well it steers?"
        parts += [Part("text", text), Part("table", tables.feature_level(material.feature_level, names))]
    return Section(name, title, lead, tuple(parts))


def overall(table: pl.DataFrame, x: str, y: str) -> dict[str, Any] | None:
    """The row of the overall tau of two variables."""
    found = table.filter(
        (pl.col("mode") == "overall") & (pl.col("x") == x) & (pl.col("y") == y) & (pl.col("statistic") == "tau")
    )
    return found.row(0, named=True) if found.height else None


def frank(table: pl.DataFrame, x: str, y: str, *, gate: str = "passed") -> str:
    """What the overall tau says and what its n allows; what the small groups can say at all. After a failed gate, that
    it says nothing.
    """
    row = overall(table, x, y)
    if gate == "failed":
        return "This study cannot see steering, so the numbers below do not say whether the two go together."
    if row is None:
        return "There is no overall τ for this pair."
    n, value = int(row["n"] or 0), words.finite(row["value"])
    low, high = words.finite(row["low"]), words.finite(row["high"])
    if value is None:
        return f"The overall τ is missing (1): {words.reason(row['state'])}. {words.allowance(n)}"
    shown = "" if low is None or high is None else f" {words.interval(low, high)}"
    p = words.finite(row["p"])
    tail = "" if p is None else f", p {words.p_value(p)}" if p < 0.0005 else f", p = {words.p_value(p)}"
    parts = [f"τ = {words.number(value)}{shown}, n = {n}{tail}: {words.verdict(value, low, high, p)}."]
    parts.append(words.allowance(n))
    own = table.filter((pl.col("x") == x) & (pl.col("y") == y) & (pl.col("statistic") == "tau"))
    groups = own.filter((pl.col("n") <= 4) & pl.col("value").is_not_null())
    if groups.height and n > 4:
        parts.append(
            f"The {words.plural(groups.height, 'group')} of four SAEs or fewer cannot show anything one by one."
        )
    lms = table.filter((pl.col("axis") == "lm") & (pl.col("mode") == "reported"))["group"].drop_nulls().n_unique()
    if lms == 1:
        parts.append("All SAEs are of one language model; nothing here speaks of others.")
    return " ".join(parts)


def matching(material: Material, cards: Sequence[FeatureCard] = ()) -> Section:
    """Features followed from site to site."""
    name, title = "matching", "Features from layer to layer"
    if not material.pairs:
        return Section(name, title, "", absent="No SAEs have been matched yet (matching/*/quality.json).")
    lead = (
        "Each feature of one site is paired with one of the next. If pairs mean the same, they fire together, and "
        "writing the first site's codes through the second's decoder, in place of the block, loses little."
    )
    parts = [
        Part("figure", figures.matching(material.pairs, material.names)),
        Part("table", matching_tables.matchings(material.pairs, material.names)),
    ]
    if drawn := flow.figure(material.pairs):
        parts += [Part("heading", "What is carried on, what changes, what is born"), Part("figure", drawn)]
        parts.append(Part("table", matching_tables.classes(flow.neighbours(material.pairs))))
    if followed := flow.table(material, cards):
        parts.append(Part("table", followed))
    return Section(name, title, lead, tuple(parts))


def training(material: Material) -> Section:
    """Training curves."""
    name, title = "training", "Training curves"
    if material.training is None or not material.training.height:
        return Section(name, title, "", absent="There are no training metrics (saes/*.training/metrics.parquet).")
    known = {} if material.saes is None else {
        r["sae"]: (r["architecture"], float(r["level"]))
        for r in material.saes.drop_nulls("level").iter_rows(named=True)
    }  # fmt: skip
    lead = (
        "One line per SAE: FVU should fall and flatten, L0 should settle at its target, dead features should stay few."
    )
    return Section(name, title, lead, (Part("figure", figures.training(material.training, known, material.names)),))


def feature_cards(cards: Sequence[FeatureCard], material: Material) -> Section:
    """The cards."""
    name, title = "features", "Feature cards"
    if not cards:
        return Section(name, title, "", absent="No feature has been described yet (interp/*/features.parquet).")
    reasons = [c.pick.reason for c in cards]
    count = [f"{reasons.count(r)} “{r}”" for r in dict.fromkeys(reasons)]
    lead = (
        f"{words.plural(len(cards), 'feature')} chosen by rule, not by hand: {words.listing(count)}. The stronger a "
        "token is shaded, the more the feature fires on it; marked words in the texts are terms of the description."
    )
    headline = None if material.untrained is None else material.untrained.filter(pl.col("outcome") == HEADLINE)
    ours, theirs = feature_card.rate(material.candidates), feature_card.rate(headline)
    if material.gate == "passed" and ours is not None and theirs is not None:
        lead += (
            f" A feature “steers” where its texts have a mean percentile of at least {feature_card.STEERS:g} and a "
            f"lift of at least {feature_card.SPECIFIC:g}: {words.percent(ours)} of the steered features do, and "
            f"{words.percent(theirs)} of those of random dictionaries."
        )
    elif material.gate != "passed":
        lead += " No feature is said to steer, as nothing shows that this study could see it."
    return Section(name, title, lead, (Part("cards", tuple(cards)),))
