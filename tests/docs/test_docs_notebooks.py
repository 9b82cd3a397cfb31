"""The notebooks run from their first cell to their last, on a tiny model."""

import runpy
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.py"))


@pytest.mark.sweep
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[n.stem for n in NOTEBOOKS])
def test_it_runs(notebook: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NOTEBOOK_LM", "tiny")
    names = runpy.run_path(str(notebook))
    said = capsys.readouterr().out
    assert len(said.splitlines()) > 3 and "nan" not in said.lower()
    if "proof" in names:
        assert names["proof"].gap < 1e-6 * names["proof"].cost
    if "effects" in names:
        assert names["effects"].height == names["WIDTH"]


def test_there_are_three_of_cells() -> None:
    assert len(NOTEBOOKS) == 3
    assert all(n.read_text(encoding="utf-8").count("\n# %%") >= 4 for n in NOTEBOOKS)
