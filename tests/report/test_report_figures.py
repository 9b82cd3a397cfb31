"""Figures: what is drawn is what is in the tables, and nothing that is not."""

import polars as pl
import pytest
from report_run import ARCHITECTURES, NAMES, build_run

from saelab.report import figures, flow
from saelab.report.chart import Drawn, Figure
from saelab.report.feature_card import FeatureCard, Pick
from saelab.report.matching_tables import certificate
from saelab.report.material import Material, SaePair, read_material
from saelab.report.names import Names, anchors
from saelab.report.page import stylesheet


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return read_material(build_run(tmp_path_factory.mktemp("figures")))


def drawn(figure: Figure) -> list[Drawn]:
    """What says something where the pointer rests: marks and lines, not axes."""
    return [p for panel in figure.panels for p in panel.paths if p.title]


def test_an_sae_without_a_score_is_not_drawn_and_counted(material: Material) -> None:
    """Never at zero: seventeen SAEs, three without utility, fourteen marks with bars on both axes."""
    assert material.saes is not None
    figure = figures.scatter(material.saes, material.names)
    known = material.saes.drop_nulls("utility")
    marks = drawn(figure)
    for sae, x, y in known.select("sae", "interpretability", "utility").iter_rows():
        (mark,) = [m for m in marks if m.title.startswith(f"{sae}: ")]
        assert f"interpretability {x:.2f}" in mark.title and f" {y:.2f} [" in mark.title and mark.fill != "var(--paper)"
    assert len(marks) == known.height == 14
    bars = [p.d for panel in figure.panels for p in panel.paths if p.faint]
    assert len(bars) == 14 and all(d.count("M") == 2 for d in bars)
    assert "3 SAEs" in figure.caption and "Hollow" not in figure.caption
    assert figures.scatter(known, material.names).caption == ""
    assert any("n = 14 SAEs" in label.text for label in figure.panels[0].labels)


def test_a_score_without_an_interval_is_hollow_and_said(material: Material) -> None:
    """An SAE whose features all score 0 is not the surest point of the figure. Control: with an interval, none is."""
    assert material.saes is not None
    first = pl.col("sae") == material.saes["sae"][0]
    ends = ("utility", "utility_low", "utility_high")
    values = {"null": (0.0, None, None), "bare": (0.0, 0.0, 0.0), "known": (0.0, 0.0, 0.2)}
    found = {}
    for name, value in values.items():
        cells = [pl.when(first).then(v).otherwise(c).alias(c) for c, v in zip(ends, value, strict=True)]
        figure = figures.scatter(material.saes.with_columns(cells), material.names)
        found[name] = sum(m.fill == "var(--paper)" for m in drawn(figure)), "Hollow: 1 SAE" in figure.caption
    assert found == {"null": (1, True), "bare": (1, True), "known": (0, False)}


def test_architecture_is_the_colour_and_level_the_shape(material: Material) -> None:
    assert material.saes is not None
    figure = figures.scatter(material.saes, material.names)
    marks = drawn(figure)
    assert {m.fill for m in marks} == {NAMES.colour(a) for a in ARCHITECTURES}
    (_, architectures), (_, levels) = figure.keys
    assert [k.label for k in architectures] == [NAMES.architecture(a) for a in ARCHITECTURES]
    assert [k.label for k in levels] == ["16", "32", "64"] and len({k.paths for k in levels}) == 3
    assert {m.link for m in marks} < set(anchors(material.saes).values()), "every mark leads to a row"


def test_every_architecture_of_the_record_has_a_colour_in_both_themes() -> None:
    style = stylesheet() + NAMES.style()
    for variable in (*map(NAMES.colour, NAMES.architectures), NAMES.colour("of another run"), *flow.SHADES.values()):
        assert style.count(f"{variable.removeprefix('var(').removesuffix(')')}:") == 2, variable
    assert not set(flow.SHADES.values()) & {NAMES.colour(name) for name in NAMES.architectures}
    assert len({NAMES.colour(name) for name in NAMES.architectures}) == len(NAMES.architectures)


@pytest.mark.parametrize("light", ["red; } body { display: none", "#12345", "#12345g", "#123456\n", None])
def test_what_is_no_colour_reaches_no_style_sheet(light: str | None) -> None:
    """A record is as untrusted as any text of a run. Control: a colour is used."""
    hostile = {'"><b>': {"label": "x", "light": light, "dark": "#000000"}}
    assert Names(hostile).style() == "" and Names(hostile).colour('"><b>') == "var(--other)"
    sound = Names(hostile | {"a": {"label": "x", "light": "#123456", "dark": "#000000"}})
    assert "#123456" in sound.style() and sound.colour("a") == "var(--kind-0)"
    assert Names().colour('"><b>') == "var(--other)"


def test_training_draws_every_sae(material: Material) -> None:
    assert material.training is not None and material.saes is not None
    known = {r["sae"]: (r["architecture"], float(r["level"])) for r in material.saes.iter_rows(named=True)}
    found = drawn(figures.training(material.training, known, material.names))
    assert len(found) == 3 * material.training["sae"].n_unique()
    unknown = drawn(figures.training(material.training, {}, material.names))
    assert {line.stroke for line in unknown} == {"var(--other)"}


def test_matching_curves_join_neighbours_only() -> None:
    """Adjacent pairs are a line; a pair two sites apart stands alone; a rival without a value has no line."""

    def pair(a: int, b: int, cost: float) -> SaePair:
        quality = {
            "cost": cost, "skip": {"explained_variance": 0.5, "ce_change": 0.6}, "baselines": {"random": 8.0},
            "compared_with": {"drop": {"explained_variance": 0.1, "ce_change": None}},
        }  # fmt: skip
        return SaePair(f"t.resid_post.{a}", f"t.resid_post.{b}", quality, matched=2, features=4)

    pairs = [pair(14, 16, 9.0), pair(15, 16, 2.0), pair(14, 15, 1.0)]
    chain, alone, *chance = figures.curves(pairs, "cost", NAMES)
    assert (chain.x, chain.y, chain.chain) == (("14 → 15", "15 → 16"), (0.5, 1.0), True)
    assert (alone.x, alone.y, alone.chain) == (("14 → 16",), (4.5,), False)
    assert [c.y for c in chance] == [(2.0, 2.0), (2.0,)]
    assert {c.name for c in figures.curves(pairs, "explained_variance", NAMES)} == {
        "Matched features",
        "Blocks dropped",
    }
    assert {c.name for c in figures.curves(pairs, "ce_change", NAMES)} == {"Matched features"}
    assert figures.curves(pairs, "matching_score", NAMES) == []


def test_a_certificate_says_what_is_proved() -> None:
    assert certificate({"cost": 10.0, "gap": 0.0}) == "optimal"
    assert certificate({"cost": 10.0, "gap": 0.2}) == "within 2.00 %"
    assert certificate({"cost": 10.0}) == "no proof"


def test_single_saes_and_controls_are_kept_apart(material: Material) -> None:
    assert material.selection is not None
    figure = figures.selection(material.selection, material.names)
    marks = drawn(figure)
    single = [m for m in marks if m.fill == "var(--soft-faint)"]
    assert len(single) == material.selection.filter(pl.col("sae") != "all").drop_nulls("score").height
    assert [sum(m.fill == shade for m in marks) for shade in ("var(--accent)", "var(--soft)")] == [3, 2]
    places = [label.text for label in figure.panels[0].labels if label.anchor == "end"]
    assert places[::-1] == ["No selection", "Delta Token Confidence", "Output score", "Random direction, equal norm",
                            "Unsteered"]  # fmt: skip


def test_every_panel_says_what_it_shows_and_its_n(material: Material) -> None:
    assert material.saes is not None and material.training is not None and material.selection is not None
    made = {
        "frontier": (figures.frontier(material.saes, material.names), ["FVU (lower is better)", "CE recovered"]),
        "training": (figures.training(material.training, {}, material.names), ["FVU", "L0 (log scale)", "Dead"]),
        "matching": (figures.matching(material.pairs, material.names), ["Cost per", "Matching", "Explained", "CE"]),
        "selection": (figures.selection(material.selection, material.names), [""]),
    }
    for figure, titles in made.values():
        for panel, title in zip(figure.panels, titles, strict=True):
            said = [label.text for label in panel.labels if label.kind == "title"]
            assert (not title and not said) or said[0].startswith(title)
            assert any("n = " in label.text for label in panel.labels if label.kind == "axis")


def test_a_long_run_and_many_features_stay_small(material: Material) -> None:
    """What is left out is said; cards are always drawn. Control: a small one is drawn whole and says nothing."""
    many = pl.DataFrame({"sae": ["a"] * 9000, "tokens": range(9000), "fvu": 0.5, "l0": 3.0, "dead_share": 0.1})
    assert "At most about 200 rows" in figures.training(many, {}, NAMES).caption
    assert figures.training(many.head(50), {}, NAMES).caption == ""
    table = pl.DataFrame({"sae": ["a"] * 9000, "feature": range(9000), "description": "x"})
    table = table.with_columns(balanced_accuracy=pl.col("feature") / 9000, percentile=0.5)
    card = FeatureCard(Pick("a", 8, "drawn at random"), "x", (), (), (), (), ())
    figure = figures.features(table, [card])
    assert figure is not None and "Of the others" in figure.caption and "n = 9,000 features" in str(figure.panels)
    assert [m.link for m in drawn(figure)] == ["card-1"] and sum(len(p.d) for p in figure.panels[0].paths) < 200_000
    small = figures.features(table.head(20), [card])
    assert small is not None and "Of the others" not in small.caption
