"""The tables of what could explain a tau: a table per question, a value or the reason for its absence in every row."""

from dataclasses import MISSING, fields
from typing import Any

import polars as pl

from saelab.report import steering_tables
from saelab.report.human_section import human
from saelab.report.material import Material
from saelab.report.names import Names
from saelab.report.sections import frank, overall
from saelab.report.statistics_sections import TITLES, parts


def questions() -> pl.DataFrame:
    row = {
        "about": "delta", "y": "described", "value": 0.1, "low": -0.2, "high": 0.4, "p": 0.3, "p_holm": 0.6, "n": 10,
        "state": "ok", "note": "top 1 up: +0.065 where it was chosen", "null_low": -0.15, "null_high": 0.17,
        "interval_method": "t over SAEs", "p_method": "shuffled criteria",
    }  # fmt: skip
    absent = row | {
        "value": None,
        "low": None,
        "high": None,
        "p": None,
        "p_holm": None,
        "state": "too_few",
        "note": None,
    }
    return pl.DataFrame(
        [{"question": q} | r for q in TITLES for r in (row, absent)], schema_overrides={"p": pl.Float64}
    )


def test_every_question_is_a_table_with_its_rows() -> None:
    found = parts(questions(), Names({}))
    tables = [p.content for p in found if p.kind == "table"]
    assert [t.caption for t in tables] == list(TITLES.values()) and found[0].kind == "heading"
    for table in tables:
        given, absent = table.rows
        assert "0.10" in given.cells[2].text and "0.40" in given.cells[2].note
        assert absent.cells[2].kind == "missing" and "too few SAEs" in absent.cells[2].title + absent.cells[2].note
        assert "t over SAEs; shuffled criteria" in given.cells[6].text
    assert "shuffled [\u22120.150, 0.170]" in tables[-1].rows[0].cells[6].text


def test_a_run_that_did_not_ask_has_no_heading() -> None:
    assert parts(None, Names({})) == [] and parts(questions().clear(), Names({})) == []


def test_of_several_lms_the_page_speaks_of_what_is_inside_them() -> None:
    """Levels of LMs alone make an overall tau. Control: where there is no row inside LMs, the overall one is said."""
    levels = {"x": "a", "y": "b", "mode": "overall", "axis": None, "group": "all", "statistic": "tau", "value": 0.7,
              "low": 0.5, "high": 0.8, "p": 0.0001, "n": 30, "state": "ok"}  # fmt: skip
    inside = levels | {"statistic": "tau within", "value": 0.02, "low": -0.3, "high": 0.3, "p": 0.9}
    both, alone = pl.DataFrame([levels, inside]), pl.DataFrame([levels])
    assert (overall(both, "a", "b") or {})["value"] == 0.02 and (overall(alone, "a", "b") or {})["value"] == 0.7
    assert frank(both, "a", "b").startswith("τ inside language models = 0.02")
    assert frank(alone, "a", "b").startswith("τ = 0.70")


def answers(texts: str) -> pl.DataFrame:
    row = {"rater": "anna", "what": "finds the steered text", "of": "SAEs", "value": 0.9, "low": 0.6, "high": 1.0,
           "n": 11, "neither": 5, "by_hits": None, "says": "above chance", "texts": texts}  # fmt: skip
    other = row | {"what": "chooses as described", "by_hits": 0.69, "value": None, "low": None, "says": "too few"}
    return pl.DataFrame([row, other], schema_overrides={"by_hits": pl.Float64})


def material(table: pl.DataFrame | None) -> Material:
    plain: dict[str, Any] = {f.name: None for f in fields(Material) if f.default is MISSING}
    plain |= {"summary": {}, "names": Names({}), "states": pl.DataFrame(), "pairs": (), "repeats": (), "judges": ()}
    return Material(**plain, human=table, steered_texts="these")


def test_what_people_answered_stands_on_the_page_of_the_texts_that_it_is_of() -> None:
    """Control: of other texts, or of nobody, there is a sentence and no number."""
    section = human(material(answers("these")))
    first, second = section.parts[0].content.rows
    assert [c.text for c in first.cells] == [
        "anna", "finds the steered text", "SAEs", "0.90", "", "11", "5", "above chance"
    ]  # fmt: skip
    assert first.cells[3].note == "[0.60, 1.00]" and second.cells[3].kind == "missing"
    assert second.cells[4].text == "0.69"
    for absent, said in ((answers("others"), "other texts"), (None, "saelab rate")):
        section = human(material(absent))
        assert not section.parts and said in section.absent


def test_few_prompts_stand_under_the_figures_that_they_concern() -> None:
    row = {"score": "described", "items": 10, "repeats": 30.0, "f": 2.0, "p": 0.03, "reliability": 0.5, "se": 0.02,
           "between": 0.02, "smallest": 0.08, "prompts": 4.0, "prompt_se": 0.011, "prompt_p": 0.2,
           "reliability_prompts": 0.31, "state": "ok"}  # fmt: skip
    cells = steering_tables.spread(pl.DataFrame([row]), Names({})).rows[0].cells
    assert cells[5].under == "prompts like these 0.31" and cells[6].under == "4 prompts add (p 0.200) 0.011"
    bare = {k: v for k, v in row.items() if "prompt" not in k}
    assert not any(c.under for c in steering_tables.spread(pl.DataFrame([bare]), Names({})).rows[0].cells)
