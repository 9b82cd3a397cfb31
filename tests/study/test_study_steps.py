"""`steps` of a grid: SAEs trained for longer or shorter stand beside the others, as an axis of every table."""

from typing import Any

import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.plan import cells_of
from saelab.study.spec import StudyConfig, saes_of
from saelab.workflow import run_study


@pytest.fixture
def lengths(study_data: dict[str, Any]) -> dict[str, Any]:
    """One SAE trained as the study says, and for two other numbers of steps."""
    study_data["models"][0]["paths"] = []
    one = {"sites": ["resid_post.1"], "architectures": ["topk"], "levels": [4], "d_sae": 48}
    study_data["models"][0]["grids"] = [one, one | {"steps": [3, 9]}]
    study_data["steering"].pop("ratings")
    return study_data


def test_each_number_of_steps_is_a_training_of_its_own(lengths: dict[str, Any]) -> None:
    study = StudyConfig.parse(lengths)
    assert [s.name for s in saes_of(study)] == [
        "topk.l0_4.resid_post.1", "topk.l0_4.resid_post.1.steps_3", "topk.l0_4.resid_post.1.steps_9",
    ]  # fmt: skip
    cells = {c.name: c for c in cells_of(study) if c.stage == "train"}
    assert len(cells) == 3 and len({c.key for c in cells.values()}) == 3
    assert {c.settings["seed"] for c in cells.values()} == {cells["tiny.resid_post.1"].settings["seed"]}
    assert cells["tiny.resid_post.1.steps_9"].settings["training"]["steps"] == 9
    lengths["models"][0]["grids"] = lengths["models"][0]["grids"][:1]
    (alone,) = (c for c in cells_of(StudyConfig.parse(lengths)) if c.stage == "train")
    assert alone.key == cells["tiny.resid_post.1"].key, "a study that says nothing of steps keeps its keys"
    lengths["models"][0]["grids"][0] = lengths["models"][0]["grids"][0] | {"steps": [0]}
    with pytest.raises(UserError, match=r"steps\.0"):
        StudyConfig.parse(lengths)


def test_steps_reach_training_tables_and_page(lengths: dict[str, Any], tmp_path: Any) -> None:
    page = run_study(study := StudyConfig.parse(lengths), tmp_path / "run").read_text()
    run = RunFolder(tmp_path / "run")
    taken = {
        row["sae"]: row["step"]
        for name in ("", ".steps_3", ".steps_9")
        for row in read_table(run.training(f"tiny.resid_post.1{name}") / "metrics.parquet")
        .group_by("sae").agg(pl.col("step").max()).iter_rows(named=True)
    }  # fmt: skip
    told = dict(read_table(run.stats.table("saes").path).select("sae", "steps").iter_rows())
    assert told == taken and set(taken.values()) == {3, 9, study.training.steps}
    groups = read_table(run.stats.table("agreement").path).filter(pl.col("axis") == "steps")["group"].drop_nulls()
    assert {"3", "9"} <= set(groups)
    assert "9 steps of training" in page
