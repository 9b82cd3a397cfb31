"""Tables say what the frames say, in three styles, and a missing number is a dash."""

from html.parser import HTMLParser

import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.stats.agreement import agreement
from saelab.stats.gains import selection_gain
from saelab.stats.tables import TextTable, agreement_table, number, selection_table

AXES = {"architecture": "architecture", "level": "level"}


@pytest.fixture(scope="module")
def result() -> pl.DataFrame:
    rows = [(a, k) for a in ("top_k", "re&lu") for k in (16, 32, 64, 128, 256, 512)]
    x, y = numpy_generator("test tables").standard_normal((2, 12))
    table = pl.DataFrame(rows, schema=["architecture", "level"], orient="row").with_columns(x=x, y=x + y)
    return agreement(table, x="x", y="y", axes=AXES, draws=300)


def test_table_one_has_the_papers_layout(result: pl.DataFrame) -> None:
    table = agreement_table(result)
    first = [(r[0], r[1]) for r in table.rows]
    assert first[0] == ("overall", "all, BCa bootstrap")
    assert first[1:4] == [("architecture", "re&lu"), ("architecture", "top_k"), ("architecture", "ψ")]
    assert first[-2:] == [("level", "ψ"), ("", "Ψ")]
    assert table.rows[0][4] == number(result["value"][0])
    assert "– (too few)" in [r[4] for r in table.rows], "levels hold two SAEs each: a state, not a number"
    assert agreement_table(result, mode="matched").rows != table.rows


def test_styles_carry_the_same_cells(result: pl.DataFrame) -> None:
    table = agreement_table(result)
    cells: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            cells.append(data)

    Reader().feed(table.render("html"))
    assert {c for row in table.rows for c in row if c} <= set(cells)
    markdown = table.render("markdown").splitlines()
    assert [tuple(c.strip() for c in line[1:-1].split("|")) for line in markdown[4:]] == list(table.rows)
    latex = table.render("latex")
    assert latex.count(r"\\") == len(table.rows) + 1 and r"re\&lu" in latex and r"top\_k" in latex
    assert r"\toprule" in latex and r"$\psi$" in latex and "τ" not in latex
    with pytest.raises(UserError, match="Valid: markdown, html, latex"):
        table.render("word")


def test_markup_in_names_is_escaped() -> None:
    table = TextTable(("a|b",), (("<script>",), ("50 % {x}",)))
    assert "<script>" not in table.render("html")
    assert r"a\|b" in table.render("markdown")
    assert r"50 \% \{x\}" in table.render("latex")


def test_table_two_has_the_baseline_first() -> None:
    rows = [
        (f"s{i}", f"lm{i % 2}", reason, base + 0.02 * i)
        for i in range(8)
        for reason, base in (("random", 0.2), ("delta", 0.4), ("output", 0.3))
    ]
    frame = pl.DataFrame(rows, schema=["sae", "lm", "arm", "utility"], orient="row")
    table = selection_table(selection_gain(frame, by="lm", draws=300))
    assert table.headers == ("Selection", "all", "lm0", "lm1")
    assert [r[0] for r in table.rows] == ["random", "delta", "output"]
    assert table.rows[0][1].startswith("0.270 [") and table.rows[1][1].endswith("(+74.1 %)")


def test_a_missing_number_is_a_dash() -> None:
    assert number(None) == "–" and number(-0.25) == "−0.250"
