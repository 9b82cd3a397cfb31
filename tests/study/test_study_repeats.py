"""`seeds` of a grid: every two trainings of an SAE are matched; stability reaches tables, record and page."""

from typing import Any

import polars as pl
import pytest

from saelab.store.files import read_json
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.plan import cells_of
from saelab.study.spec import StudyConfig
from saelab.workflow import run_study


@pytest.fixture
def repeated(study_data: dict[str, Any]) -> dict[str, Any]:
    """One SAE trained twice, steered with, and one that was trained once."""
    study_data["models"][0]["paths"] = []
    one = {"sites": ["resid_post.1"], "architectures": ["topk"], "d_sae": 48}
    study_data["models"][0]["grids"] = [
        one | {"levels": [4], "seeds": [0, 1]},
        one | {"levels": [8], "steer": False},
    ]
    study_data["steering"].pop("ratings")
    return study_data


def test_every_two_trainings_are_matched_once(repeated: dict[str, Any]) -> None:
    repeated["models"][0]["grids"][0] |= {"seeds": [0, 1, 2], "d_sae": [48, 64]}
    cells = [c for c in cells_of(StudyConfig.parse(repeated)) if c.stage == "match"]
    assert len(cells) == 2 * 3 and all(c.settings["repeat"] for c in cells)
    widths = [[".w48" in name for name in c.name.split("--")] for c in cells]
    assert all(a == b for a, b in widths), "an SAE of another width is no repeat"
    path = {"saes": ["topk.l0_4.resid_post.1.w48", "topk.l0_4.resid_post.1.w48.s1"]}
    repeated["models"][0]["paths"] = [path]
    repeated["matching"]["fold"] = "none"
    again = [c for c in cells_of(StudyConfig.parse(repeated)) if c.stage == "match"]
    assert len(again) == 6 and sum("repeat" not in c.settings for c in again) == 1, "control: a path keeps its own"


def test_stability_reaches_tables_record_and_page(repeated: dict[str, Any], tmp_path: Any) -> None:
    page = run_study(StudyConfig.parse(repeated), tmp_path / "run").read_text()
    run, record = RunFolder(tmp_path / "run"), read_json(tmp_path / "run" / "results.json")
    names = ["topk.l0_4.resid_post.1", "topk.l0_4.resid_post.1.s1"]
    pairs, quality = (run.matching(*names).matching.read(), run.matching(*names).quality.read())
    saes = {row["sae"]: row for row in read_table(run.stats.table("saes").path).iter_rows(named=True)}
    for name in names:
        assert saes[name]["stability"] == pytest.approx(quality["mcc"], abs=1e-6)
        assert saes[name]["stability_low"] < saes[name]["stability"] < saes[name]["stability_high"]
        assert saes[name]["random_stability"] == pytest.approx(quality["chance"])
    assert saes["topk.l0_8.resid_post.1"]["stability"] is None, "control: trained once"
    steered = read_table(run.stats.table("steered").path).filter(pl.col("sae") == names[1])
    of_second = dict(pairs.select("b", "cosine").iter_rows())
    assert steered.height and all(of_second[f] == s for f, s in steered.select("feature", "stability").iter_rows())
    assert "stability" in read_table(run.stats.table("features").path)["predictor"].to_list()
    assert {r["sae"]: r["stability"] for r in record["saes"]} == {n: row["stability"] for n, row in saes.items()}
    assert list(record["matching"]) == ["--".join(names)]
    assert "Features found again" in page and "Stability" in page and "over seeds, chance" in page
    assert "Flow of features" not in page, "two trainings are no two layers"
