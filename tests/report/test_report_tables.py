"""Tables: every row of the artefacts has its row, failures are counted apart, and nothing is rounded into a claim."""

from pathlib import Path

import polars as pl
import pytest
from report_run import ARCHITECTURES, LEVELS, NAMES, build_run

from saelab.report import grid_tables, record, tables
from saelab.report.cells import PageTable
from saelab.report.material import Material, read_material
from saelab.report.sections import frank
from saelab.report.steering_sections import floor


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return read_material(build_run(tmp_path_factory.mktemp("tables")))


def texts(table: PageTable, kind: str = "row") -> list[list[str]]:
    return [[c.text for c in r.cells] for r in table.rows if r.kind == kind]


def test_the_grid_has_every_sae_once_in_the_papers_order(material: Material) -> None:
    assert material.saes is not None
    rows = texts(grid_tables.measured(material.saes, NAMES))
    assert len(rows) == 17
    assert [r[0] for r in rows[1:4]] == ["ReLU\u00a016", "ReLU\u00a032", "ReLU\u00a064"]
    assert [r[0] for r in rows[1:16:3]] == [f"{n}\u00a016" for n in ("ReLU", "Gated", "TopK", "BatchTopK", "JumpReLU")]
    worth = grid_tables.steered(material.saes, NAMES)
    assert worth is not None
    steered = texts(worth)
    assert len(steered) == material.saes["n_steered"].drop_nulls().len() and steered[0][0] == rows[1][0]
    assert len(rows) > len(steered), "an SAE that was never to be steered has no row there"
    assert steered[2][1] == "missing (8)"
    none = material.saes.with_columns(n_steered=pl.lit(None, pl.Int64))
    assert grid_tables.steered(none, NAMES) is None


def test_every_tau_and_psi_has_a_row(material: Material) -> None:
    """Groups in both modes, psi per axis, one Psi, the overall row once; nothing is added."""
    assert material.agreement is not None
    first = material.agreement.filter(pl.col("y") == "utility")
    reported, matched = tables.agreements(first, NAMES)
    assert len(texts(reported)) == len(ARCHITECTURES) + len(LEVELS) + 1
    assert [r[0] for r in texts(reported, "total")] == [
        "All SAEs", *["ψ, mean of the groups"] * 3, "Ψ, mean of the ψ",
    ]  # fmt: skip
    assert [r[0] for r in texts(matched, "heading")] == ["Sparsity level varies", "Architecture varies"]
    assert "ReLU / smollm2-135m" in [r[0] for r in texts(matched)]
    assert "L0 32 / smollm2-135m" in [r[0] for r in texts(matched)]
    assert len(tables.agreements(material.agreement, NAMES)) == 6
    assert [t.folded for t in tables.agreements(material.agreement, NAMES)] == [False, False, True, True, True, True]


def test_an_axis_without_any_tau_is_one_row(material: Material) -> None:
    """One LM: "LM varies" has fifteen groups of one. They are counted in one row, and a known axis is left alone."""
    assert material.agreement is not None
    lone = material.agreement.filter((pl.col("y") == "utility") & (pl.col("mode") == "matched"))
    gone = pl.col("axis") == "level"
    lone = lone.with_columns(
        value=pl.when(gone).then(None).otherwise("value"), n=pl.when(gone).then(1).otherwise("n"),
        state=pl.when(gone).then(pl.lit("too_few")).otherwise("state"),
    )  # fmt: skip
    (table,) = tables.agreements(lone, NAMES)
    assert [[c.text for c in r.cells] for r in table.rows][1][:3] == ["All 5 groups", "1", "missing (5)"]
    assert table.rows[1].cells[2].note == "too few SAEs"
    assert len(texts(table)) == 1 + 3


def test_the_frank_sentence_counts_the_small_groups(material: Material) -> None:
    """Five reported and five matched groups of three; without them the sentence is gone."""
    assert material.agreement is not None
    said = frank(material.agreement, "interpretability", "utility")
    assert "cannot see steering" in frank(material.agreement, "interpretability", "utility", gate="failed")
    assert "n = 16" in said and "The 10 groups of four SAEs or fewer" in said and "one language model" in said
    large = material.agreement.filter(pl.col("n") > 4)
    assert "or fewer" not in frank(large, "interpretability", "utility")
    assert "missing (1)" in frank(large.with_columns(value=pl.lit(None, pl.Float64)), "interpretability", "utility")


def test_states_add_up_and_what_was_not_asked_is_no_failure(tmp_path: Path) -> None:
    table = pl.DataFrame(
        [("s", "ok", None, 5), ("s", "too_few", None, 2), ("s", "dead", None, 7), ("s", "refused", "too long", 1)],
        ["stage", "state", "reason", "n"],
        orient="row",
    )
    (row,) = texts(record.states(table))
    assert row[1:4] == ["8", "5", "3"]
    assert row[4:] == ["2 too few windows; 1 the judge refused: too long", "7 never fired"]


def test_a_missing_estimate_keeps_its_reason(material: Material) -> None:
    assert material.feature_level is not None and material.selection is not None
    rows = tables.feature_level(material.feature_level, NAMES).rows
    cells = [c for r in rows for c in r.cells if c.kind == "missing"]
    assert [(c.text, c.note) for c in cells] == [("missing (1)", "not measured")]
    regrets = [r.cells[-1] for r in rows]
    assert regrets[0].note.endswith("blindly 0.62") and regrets[-1].text == ""
    pooled, single = tables.selections(material.selection, NAMES)
    assert not any(c.kind == "missing" for r in pooled.rows for c in r.cells)
    assert any(c.note == "no judged generation" for r in single.rows for c in r.cells)


def test_a_score_that_no_steering_reaches_too_is_said_to_show_nothing() -> None:
    """Said of no difference and of one that goes the wrong way; of the controls, a clear one and none at all, not."""

    def selection(over: float | None, p: float | None) -> pl.DataFrame:
        row = {"sae": "all", "arm": "none", "over": over, "over_low": over, "over_high": over, "over_p": p}
        return pl.DataFrame([row])

    for over, p in ((0.02, 0.3), (-0.3, 0.001)):
        assert "not show that steering does anything" in floor(selection(over, p), NAMES)
    assert all(floor(found, NAMES) == "" for found in (selection(0.3, 0.001), selection(None, None)))
