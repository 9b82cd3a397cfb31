"""A whole study on a tiny language model: every stage, the page, nothing done twice, the same bytes after a stop."""

import hashlib
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from saelab.core.errors import UserError
from saelab.judges.cache import ReplyCache
from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger
from saelab.store.tables import read_table
from saelab.study import stages, workspace
from saelab.study.cells import Cell
from saelab.study.costs import judged_texts, plan_table
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.spec import StudyConfig, saes_of
from saelab.workflow import run_study


def sums(run: RunFolder) -> dict[str, str]:
    """sha256 of every artefact that is a function of the study: all but timings and what holds them."""
    skipped = {
        "ledger.sqlite",
        "ledger.sqlite-wal",
        "ledger.sqlite-shm",
        "summary.json",  # results.json is not skipped
        "report.html",
        "metrics.parquet",
    }
    files = sorted(p for p in run.root.rglob("*") if p.is_file() and p.name not in skipped)
    return {str(p.relative_to(run.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_whole_study_twice_and_interrupted(
    study: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = run_study(study, tmp_path / "one")
    one = RunFolder(tmp_path / "one")
    assert page == one.report and "<html" in page.read_text()[:500]
    summary = one.summary.read()
    assert len(summary["saes"]) == 5 and summary["agreement"] and summary["selection"] and summary["matching"]
    assert set(summary["seconds"]) >= {"text", "harvest", "train", "interp", "select", "steer", "match", "stats"}
    rows = read_table(one.stats.root / "saes.parquet")
    assert rows["utility"].null_count() == 1, "only the grid that is not steered has no utility"

    # Finished: the same call runs no cell.
    calls: list[str] = []
    real = stages.do
    monkeypatch.setattr("saelab.study.run.do", lambda cell, work: calls.append(str(cell)) or real(cell, work))
    run(study, tmp_path / "one")
    assert calls == []

    # Interrupted before every fourth cell: the same artefacts, no finished cell twice.
    interrupted = tmp_path / "two"
    budget = {"left": 4}

    def failing(cell: Cell, work: workspace.Workspace) -> list[Path]:
        if not budget["left"]:
            raise KeyboardInterrupt
        budget["left"] -= 1
        calls.append(str(cell))
        return real(cell, work)

    monkeypatch.setattr("saelab.study.run.do", failing)
    for _ in range(20):
        budget["left"] = 4
        try:
            run(study, interrupted)
            break
        except KeyboardInterrupt:
            continue
    assert len(calls) == len(set(calls)) == len(cells_of(study))
    assert sums(RunFolder(interrupted)) == sums(one)


def test_a_spoilt_artefact_is_made_again(study: StudyConfig, tmp_path: Path) -> None:
    run(study, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert "spend" not in folder.summary.read()
    with closing(ReplyCache(folder.replies)) as cache:
        cache.record("model", "question", "ok", (10, 3))  # as a paid judge does
    before = sums(folder)
    spoilt = folder.interp("topk.l0_4.resid_post.1").root / "features.parquet"
    spoilt.write_bytes(spoilt.read_bytes()[:-50])
    run(study, tmp_path / "run")
    assert sums(folder) == before
    assert all(r.state == "done" for r in Ledger(folder.ledger).rows())
    tokens = {"prompt_tokens": 10, "completion_tokens": 3}
    assert folder.summary.read()["spend"] == {"calls": 1, "failed_calls": 0, **tokens}


def test_plan_and_names(study: StudyConfig) -> None:
    names = [s.name for s in saes_of(study)]
    assert names[0] == "topk.l0_4.resid_post.1" and len(set(names)) == 5
    table = plan_table(study)
    assert table.filter(table["stage"] == "total")["cells"].item() == len(cells_of(study))
    features = 3 + 2 + 1
    assert judged_texts(study) == 4 * ((features + 1) * (2 + 1) + features * (1 + 1)), "steered, and unsteered beside"
    other = study.model_copy(update={"seed": 1})
    assert {c.key for c in cells_of(study) if c.stage == "train"} != {
        c.key for c in cells_of(other) if c.stage == "train"
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"sites": ["resid_post.x"]}, "resid_post"),
        ({"architectures": ["topq"]}, "architectures"),
        ({"levels": []}, "levels"),
        ({"widht": 4}, "unknown key"),
    ],
)
def test_a_bad_study_is_a_sentence(study: StudyConfig, tmp_path: Path, change: dict, sentence: str) -> None:
    data = study.model_dump(mode="json")
    data["models"][0]["grids"][0] |= change
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=sentence):
        StudyConfig.from_yaml(path)


def test_a_level_beyond_the_dictionary_and_a_foreign_folder(study: StudyConfig, tmp_path: Path) -> None:
    data = study.model_dump(mode="json")
    data["models"][0]["grids"][1]["d_sae"] = 8
    with pytest.raises(UserError, match="needs more than 8 features"):
        cells_of(StudyConfig.parse(data))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.yaml").write_text(study.model_copy(update={"name": "another"}).to_yaml())
    with pytest.raises(UserError, match="another"):
        run(study, tmp_path / "run")


def test_a_run_of_an_older_format_is_not_gone_on_with(study: StudyConfig, tmp_path: Path) -> None:
    """Whatever its study file says, it is named by its format first; nothing in it is touched."""
    folder = RunFolder(tmp_path)
    Ledger(folder.ledger)
    folder.study.write_text("name: tiny\na_key_of_long_ago: 1\n")
    with pytest.raises(UserError, match="older format 0"):
        run(study, tmp_path)
    assert folder.study.read_text().endswith("long_ago: 1\n")


def test_the_shipped_demo_is_a_whole_grid() -> None:
    demo = StudyConfig.from_yaml(Path(__file__).parents[2] / "src" / "saelab" / "study" / "demo.yaml")
    steered = [s for s in saes_of(demo) if s.steer]
    assert len(saes_of(demo)) == 12 and {s.site for s in steered} == {"resid_post.15"}
    assert len({(s.architecture, s.level) for s in steered}) == 10 == 5 * len({s.level for s in steered})
