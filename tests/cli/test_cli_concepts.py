"""`saelab concepts` on a tiny model: its tables are the folder's, resumed for nothing, errors are sentences."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from axbench_files import write_axbench
from saelab.cli import main
from saelab.core.errors import UserError
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.store.folders import ConceptsFolder
from saelab.study.concepts import steering_means

SMALL = ("--site", "resid_post.1", "--factors", "0.5,1", "--dev", 1, "--test", 2, "--new", 5, "--temperature", 0)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`--lm` names no download here."""
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: tiny_lm())
    (tmp_path / "data").mkdir()
    return write_axbench(tmp_path / "data")


def call(*arguments: object) -> int:
    return main(["concepts", *map(str, arguments)])


def test_tables_files_and_resume(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = (files, "--out", tmp_path / "out", *SMALL, "--methods", "diff_means,pca")
    assert call(*wanted, "--json", "--axbench") == 0
    first: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {r["method"] for r in first["detection"]} == {"diff_means", "pca", "bag_of_words"}
    own = {r["method"]: r for r in first["steering"]}
    assert {"diff_means", "pca", "prompting", "unsteered", "random_direction"} == set(own)
    assert own["diff_means"]["less_baseline"] is None and own["pca"]["less_baseline"] is not None
    folder = ConceptsFolder(tmp_path / "out")
    mean = folder.utility.read().filter(method="pca")["test_score"].mean()
    assert own["pca"]["score"] == pytest.approx(mean) and own["pca"]["concepts"] == 2
    wide = folder.wide.read()
    assert (wide["PCA_perplexity"].drop_nulls() > 1).all() and "LAT_perplexity" not in wide.columns
    # Again: the model writes nothing, and the tables are the same.
    monkeypatch.setattr(LanguageModel, "generate_ids", None)
    assert call(*wanted, "--json") == 0
    assert json.loads(capsys.readouterr().out) == first
    assert call(*wanted) == 0
    assert "diff_means" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ((), "Directions need a site"),
        (("--site", "resid_post.1", "--methods", "sae_auroc"), "sae_auroc needs an SAE"),
        (("--site", "resid_post.1", "--methods", "diff_mean"), "Did you mean diff_means"),
        (("--site", "resid_post.1", "--factors", "a"), "numbers separated by commas"),
        (("--site", "resid_post.1", "--judge", "gpt"), "no judge 'gpt'"),
        (("--site", "resid_post.1", "--test", 38), "lexical judge"),
        (("--site", "resid_post.1", "--n", 0), "No concept"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[object, ...], sentence: str
) -> None:
    assert call(files, "--out", tmp_path / "out", *more) == 2
    assert sentence in capsys.readouterr().err


def test_a_baseline_that_was_not_steered_with_is_a_sentence(tmp_path: Path) -> None:
    folder = ConceptsFolder(tmp_path)
    folder.utility.write(pl.DataFrame({"method": ["pca"], "feature": [0], "test_score": [1.0]}))
    with pytest.raises(UserError, match="'lat'"):
        steering_means(folder, baseline="lat")
