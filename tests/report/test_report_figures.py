"""Figures: what is drawn is what is in the tables, and nothing that is not."""

import json
from pathlib import Path

import plotly.graph_objects as go
import polars as pl
import pytest
from report_run import NAMES, build_run

from saelab.report import figures
from saelab.report.figures import Figure
from saelab.report.matching_tables import certificate
from saelab.report.material import Material, SaePair, read_material
from saelab.report.names import Names


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return read_material(build_run(tmp_path_factory.mktemp("figures")))


def traces(figure: Figure) -> list[dict]:
    return json.loads(figure.spec)["data"]


def points(figure: Figure) -> list[tuple[float, float]]:
    return [p for t in traces(figure) for p in zip(t.get("x", []), t.get("y", []), strict=True) if p[0] is not None]


def test_an_sae_without_a_score_is_not_drawn_and_counted(material: Material) -> None:
    """Never at zero: seventeen SAEs, three without utility, fourteen marks with bars on both axes."""
    assert material.saes is not None
    figure = figures.scatter(material.saes, material.names)
    known = material.saes.drop_nulls("utility").select("interpretability", "utility").rows()
    assert sorted(points(figure)) == sorted(known)
    assert "3 SAEs" in figure.caption
    for trace in traces(figure):
        if trace["x"] != [None]:
            assert len(trace["error_x"]["array"]) == len(trace["error_y"]["arrayminus"]) == len(trace["x"])
            assert min(trace["error_x"]["array"] + trace["error_x"]["arrayminus"]) > 0
    whole = figures.scatter(material.saes.drop_nulls("utility"), material.names)
    assert whole.caption == ""


def test_architecture_is_the_colour_and_level_the_symbol(material: Material) -> None:
    assert material.saes is not None
    marks = [t for t in traces(figures.scatter(material.saes, material.names)) if t["x"] != [None]]
    colours = {t["marker"]["color"] for t in marks}
    assert len(colours) == len(marks) == 5 and all(c.startswith("var(--") for c in colours)
    assert {s for t in marks for s in t["marker"]["symbol"]} == {"circle", "square", "diamond"}


def test_every_architecture_of_the_record_has_a_colour_in_both_themes() -> None:
    style = (Path(figures.__file__).parent / "templates" / "style.css").read_text() + NAMES.style()
    for name in (*NAMES.architectures, "of another run"):
        for variable in (NAMES.colour(name), NAMES.colour(name, faint=True)):
            assert style.count(f"{variable.removeprefix('var(').removesuffix(')')}:") == 2, variable
    assert len({NAMES.colour(name) for name in NAMES.architectures}) == len(NAMES.architectures)


@pytest.mark.parametrize("light", ["red; } body { display: none", "#12345", "#12345g", "#123456\n", None])
def test_what_is_no_colour_reaches_no_style_sheet(light: str | None) -> None:
    """A record is as untrusted as any text of a run. Control: a colour is used."""
    hostile = {'"><b>': {"label": "x", "light": light, "dark": "#000000"}}
    assert Names(hostile).style() == "" and Names(hostile).colour('"><b>') == "var(--other)"
    sound = Names(hostile | {"a": {"label": "x", "light": "#123456", "dark": "#000000"}})
    assert "#123456" in sound.style() and sound.colour("a") == "var(--kind-0)"
    assert Names().colour('"><b>') == "var(--other)"


def test_nan_cannot_be_embedded() -> None:
    with pytest.raises(ValueError, match="JSON"):
        figures.embed(go.Figure(go.Scatter(x=[float("nan")], y=[1])))


def test_training_draws_every_sae(material: Material) -> None:
    assert material.training is not None and material.saes is not None
    known = {r["sae"]: (r["architecture"], float(r["level"])) for r in material.saes.iter_rows(named=True)}
    found = traces(figures.training(material.training, known, material.names))
    assert len(found) == 3 * material.training["sae"].n_unique()
    unknown = traces(figures.training(material.training, {}, material.names))
    assert {t["line"]["color"] for t in unknown} == {"var(--other)"}


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
    single, chosen, controls = traces(figures.lifts(material.selection, material.names))
    assert len(single["x"]) == material.selection.filter(pl.col("sae") != "all").drop_nulls("score").height
    assert chosen["y"] == ["No selection", "Delta Token Confidence", "Output score"]
    assert controls["y"] == ["Random direction, equal norm", "Unsteered"]
