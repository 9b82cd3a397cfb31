"""The tables of what could explain a tau: a table per question, a value or the reason for its absence in every row."""

import polars as pl

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
