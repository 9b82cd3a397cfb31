"""What the page says, section by section: a heading, a sentence on how to read it, and its tables and figures.

A section whose artefacts do not exist is one sentence that says what is missing. The order and the words live here; the
look lives in the templates. Pure functions of `Material` and the cards.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from saelab.instrument.readers import HEADLINE
from saelab.report import baselines as baseline_section
from saelab.report import (
    evaluation_tables,
    feature_card,
    figures,
    flow,
    grid_tables,
    matching_tables,
    statistics_sections,
    tables,
    words,
)
from saelab.report.adopted import adopted, adopted_of, all_adopted
from saelab.report.feature_card import FeatureCard
from saelab.report.glossary import glossary
from saelab.report.human_section import human
from saelab.report.material import Material
from saelab.report.names import coordinates
from saelab.report.parts import Part, Section
from saelab.report.record import what_was_run
from saelab.report.steering_sections import arms, instrument, selection, steering_of

AGAIN = (
    "The same SAE trained again with another seed, feature by feature. MCC: the mean cosine of partners, the greatest "
    "that any pairing reaches; chance is that of a dictionary with the same covariance that shares no feature."
)


def sections(material: Material, cards: Sequence[FeatureCard], shown: str = "") -> list[Section]:
    """All sections in reading order, then what the run does not hold and what was run. shown: the figure at the top."""
    which = all_adopted(material)  # then the pairs are what was asked for, and stand first
    makers: list[Callable[[Material], Section]] = [*([adopted] if which else []), instrument, agreement, arms]
    makers += [selection] if material.selection is not None else []
    makers += [human] if material.arms is not None else []
    makers += [lambda m: grid(m, cards)]
    makers += [adopted] if adopted_of(material) and not which else []
    makers += [baselines] if material.baselines is not None and material.baselines.height else []
    makers += [evaluations] if material.evaluations is not None else []
    makers += [lambda m: matching(m, cards)]
    makers += [training] if material.training is not None or not adopted_of(material) else []
    makers += [lambda m: feature_cards(cards, m)]
    every = [_without(make(material), shown) for make in makers]
    absent = tuple(Part("text", s.absent) for s in every if s.absent)
    lead = "`saelab run` on this folder goes on from here; what a study does not ask for stays absent."
    rest = [Section("absent", "What this run does not hold", lead, absent)] if absent else []
    return [*(s for s in every if not s.absent), *rest, *glossary(material), what_was_run(material)]


def _without(section: Section, figure: str) -> Section:
    """A section without the figure that stands at the top of the page already."""
    kept = tuple(p for p in section.parts if p.kind != "figure" or p.content.name != figure)
    return replace(section, parts=kept)


def grid(material: Material, cards: Sequence[FeatureCard] = ()) -> Section:
    """Every SAE, with the random dictionary beside it."""
    name, title = "grid", "The grid of SAEs"
    asked = material.asked_about
    if material.saes is None or asked is None or not asked.height:
        return Section(name, title, "", absent="No SAE has been measured yet (stats/saes.parquet).")
    lead = (
        "One row per SAE: lower FVU (fraction of variance unexplained) and higher cross-entropy (CE) recovered are "
        "better, and both must beat the random dictionary of the same L0, in grey. A name leads to a feature's card."
    )
    if asked.height < material.saes.height:
        lead += " Controls of training stand in the tables alone, not in the figures or in what is claimed."
    first = {c.pick.sae: f"card-{i}" for i, c in reversed(list(enumerate(cards, 1)))}
    own = {r["sae"] for r in adopted_of(material)}
    parts = (
        Part("figure", figures.frontier(asked, material.names)),
        Part("table", grid_tables.measured(material.saes, material.names, own, first)),
    )
    steered = grid_tables.steered(material.saes, material.names, own)
    return Section(name, title, lead, parts if steered is None else (*parts, Part("table", steered)))


def baselines(material: Material) -> Section:
    """Which scores tell trained SAEs from frozen ones."""
    assert material.baselines is not None
    return baseline_section.section(material.baselines, material.names)


def evaluations(material: Material) -> Section:
    """SAEBench's suite, one row per SAE."""
    table = material.evaluations
    assert table is not None
    presets = words.listing(sorted(set(table["preset"].to_list())))
    lead = (
        f"The evaluations of SAEBench on every SAE, at the preset {presets}. Files in SAEBench's own layout are in the "
        "folder saebench; settings and deviations stand in each."
    )
    theirs = material.published
    parts = [Part("table", evaluation_tables.suite(table, material.saes, material.names, theirs))]
    if theirs is not None and theirs.height:
        lead += " Published results stand below as their files give them; settings that differ are listed."
        parts.append(Part("table", evaluation_tables.differing(theirs)))
    return Section("evaluations", "The SAEBench suite", lead, tuple(parts))


def scatter(material: Material) -> figures.Figure | None:
    """Interpretability against how SAEs steer; None where no SAE has both scores."""
    saes, y = material.asked_about, steering_of(material)
    if saes is None or not saes.drop_nulls(["interpretability", y]).height:
        return None
    return figures.scatter(saes, material.names, y, {r["sae"] for r in adopted_of(material)})


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
    name, title = "agreement", "Interpretability against steering"
    table = material.agreement
    if table is None or not table.height:
        return Section(name, title, "", absent="No rank agreement has been computed yet (stats/agreement.parquet).")
    lead = (
        "Kendall's τ (τ-b, corrected for ties) is +1 when both scores rank the SAEs alike, 0 when the rankings are "
        "unrelated, −1 when one is the other reversed. Grey: where τ falls by chance in 95 of 100 cases. In the figure "
        "each mark is one SAE, with 95 % intervals over its features; it leads to its row."
    )
    names, parts = material.names, list[Part]()
    notes = (names.judges.get(judge, {}).get("note") for judge in material.judges)
    if drawn := scatter(material):
        parts.append(Part("figure", drawn))
    parts += [Part("callout", str(note)) for note in (*notes, _drift(material)) if note]
    parts += [
        Part("callout", frank(table, *table.select("x", "y").row(0), gate=material.gate)),
        Part("table", tables.overall(table, names)),
    ]
    parts += [Part("table", t) for t in tables.agreements(table, names)]
    if material.feature_level is not None and material.feature_level.height:
        parts.append(Part("heading", "Feature by feature, within SAEs"))
        text = "The same question one level down: within one SAE, does a feature's score predict how well it steers?"
        parts += [Part("text", text), Part("table", tables.feature_level(material.feature_level, names))]
    parts += statistics_sections.parts(material.questions, names)
    return Section(name, title, lead, tuple(parts))


def overall(table: pl.DataFrame, x: str, y: str) -> dict[str, Any] | None:
    """The row of the overall tau of two variables; of several LMs that inside them, as their levels are no relation."""
    whole = table.filter((pl.col("mode") == "overall") & (pl.col("x") == x) & (pl.col("y") == y))
    found = whole.filter(pl.col("statistic") == "tau")
    inside = whole.filter((pl.col("statistic") == "tau within") & pl.col("value").is_not_null())
    found = inside if inside.height else found
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
    where = " inside language models" if row["statistic"] == "tau within" else ""
    parts = [f"τ{where} = {words.number(value)}{shown}, n = {n}{tail}: {words.verdict(value, low, high, p)}."]
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
    again = [Part("table", matching_tables.repeats(material.repeats))] if material.repeats else []
    if not material.pairs and again:
        return Section(name, "Features found again", AGAIN, tuple(again))
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
    if held := [pair for pair in material.pairs if pair.quality.get("controls")]:
        parts.append(Part("table", matching_tables.controls(held, material.names)))
    if drawn := flow.figure(material.pairs):
        parts += [Part("heading", "What is carried on, what changes, what is born"), Part("figure", drawn)]
        parts.append(Part("table", matching_tables.classes(flow.neighbours(material.pairs))))
    if followed := flow.table(material, cards):
        parts.append(Part("table", followed))
    if again:
        parts += [Part("heading", "Features found again"), Part("text", AGAIN), *again]
    return Section(name, title, lead, tuple(parts))


def training(material: Material) -> Section:
    """Training curves."""
    name, title = "training", "Training curves"
    if material.training is None or not material.training.height:
        return Section(name, title, "", absent="There are no training metrics (saes/*.training/metrics.parquet).")
    known = _places(material)
    lead = (
        "One line per SAE: FVU should fall and flatten, L0 should settle at its target, dead features should stay few."
    )
    parts = [Part("figure", figures.training(material.training, known, material.names))]
    if material.saes is None:
        parts.append(Part("table", tables.trained(material.training, known, material.names)))
    return Section(name, title, lead, tuple(parts))


def _places(material: Material) -> dict[str, tuple[str, float]]:
    """Architecture and level of every SAE: of the grid, or, before there is one, as names of SAEs say them."""
    if material.saes is not None:
        rows = material.saes.drop_nulls("level").iter_rows(named=True)
        return {r["sae"]: (r["architecture"], float(r["level"])) for r in rows}
    trained = [] if material.training is None else material.training["sae"].unique().to_list()
    found = {sae: coordinates(sae) for sae in trained}
    return {s: (c[0], float(c[1])) for s, c in found.items() if c and c[0] in material.names.architectures}


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
    drawn = None if material.candidates is None or not material.steers else figures.features(material.candidates, cards)
    parts = [Part("figure", drawn)] if drawn else []
    return Section(name, title, lead, (*parts, Part("cards", tuple(cards))))
