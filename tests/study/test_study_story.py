"""`saelab match --story` on a finished tiny run: which SAEs it takes, the table, the page, and what it refuses."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from saelab.cli import main
from saelab.judges import embedding
from saelab.store.layout import RunFolder
from saelab.study.folder import mark
from saelab.study.spec import StudyConfig, saes_of
from saelab.study.story import followed
from saelab.workflow import run_study

SITES = ["resid_post.0", "resid_post.1", "resid_post.2"]


@pytest.fixture
def path_study(study_data: dict[str, Any]) -> dict[str, Any]:
    """Three sites, at the first two of them also another level; nothing is steered with."""
    grid = {"sites": SITES, "architectures": ["jumprelu"], "levels": [8], "d_sae": 48, "steer": False}
    model = study_data["models"][0]
    model["grids"] = [grid, grid | {"sites": SITES[:2], "levels": [4]}]
    model["paths"] = [{"architecture": "jumprelu", "level": 8, "sites": SITES}]
    study_data["steering"].pop("ratings")
    return study_data


def test_the_steps_the_chain_and_the_levels_are_found(path_study: dict[str, Any]) -> None:
    model = path_study["models"][0]
    model["paths"].append({"architecture": "jumprelu", "level": 4, "sites": SITES[:2]})
    study = StudyConfig.parse(path_study)
    steps, chain, levels = followed(study, study.models[0])
    assert [s.site for s in chain] == SITES and [(a.site, b.site) for a, b in steps] == [
        (SITES[0], SITES[1]),
        (SITES[1], SITES[2]),
    ]
    assert {s.level for pair in steps for s in pair} == {8}, "steps are of one level"
    assert [(a.level, b.level, a.site) for a, b in levels] == [(4, 4, SITES[0]), (8, 8, SITES[0])]


def test_levels_are_of_saes_that_are_no_controls(path_study: dict[str, Any]) -> None:
    """Nor of other lengths of training. Control: those are among the study's SAEs."""
    for grid in path_study["models"][0]["grids"]:
        grid["freeze"] = ["none", "decoder"]
    longer = path_study["models"][0]["grids"][1] | {"steps": [30]}
    path_study["models"][0]["grids"].append(longer)
    study = StudyConfig.parse(path_study)
    levels = followed(study, study.models[0])[2]
    assert {(s.freeze, s.steps) for pair in levels for s in pair} == {("none", None)} and len(levels) == 2
    assert {(s.freeze, s.steps) for s in saes_of(study)} == {(f, n) for f in ("none", "decoder") for n in (None, 30)}


def test_a_run_without_paths_is_refused_before_a_judge_is_opened(
    path_study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(embedding.READERS, "embedding", lambda: pytest.fail("a judge is opened"))
    path_study["models"][0]["paths"] = []
    folder = RunFolder(tmp_path / "run")
    mark(folder)
    folder.study.write_text(StudyConfig.parse(path_study).to_yaml())
    assert main(["match", "--story", str(folder.root), "--out", str(tmp_path / "out")]) == 2
    assert "follows no feature" in capsys.readouterr().err


def test_a_run_becomes_a_table_and_a_page(
    path_study: dict[str, Any], sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setitem(embedding.READERS, "embedding", embedding.Words)
    path_study["matching"] = {"contexts": 4, "controls": []}
    run_study(StudyConfig.parse(path_study), tmp_path / "run")
    asked = ["match", "--story", str(tmp_path / "run"), "--contexts", "8", "--out", str(tmp_path / "out")]
    assert main([*asked, "--corpus", f"path:{sentences}"]) == 0
    table, page = pl.read_csv(tmp_path / "out" / "numbers.csv"), (tmp_path / "out" / "story.html").read_text()
    figures = set(table["figure"])
    assert figures >= {"1 norms", "3 decoder", "4", "5", "7", "8", "11 held-out text", "12", "14", "15", "16"}
    assert f"11 {sentences.name}" in figures, "the further text"
    assert set(table.filter(figure="7")["series"]) == {"folded", "directions", "unfolded", "chance"}
    assert {"random", "same", "folded"} <= set(table.filter(figure="4")["series"])
    assert "Figure 1:" in page and "tiny" in page and "embedding:" in page
    capsys.readouterr()
    assert main([*asked, "--judge", "lexical"]) == 2 and "cannot compare" in capsys.readouterr().err
    assert main(["match", "--story", str(tmp_path), "--out", str(tmp_path / "out")]) != 0, "control: no run"
    assert main(["match", str(tmp_path / "run")]) == 2 and "Name the next one" in capsys.readouterr().err
