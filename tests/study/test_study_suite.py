"""The suite as cells: only where a study asks for it, on a finished run, once, and with the same bytes."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from saelab.cli import main
from saelab.core.errors import ArtefactError, UserError
from saelab.report.material import read_material
from saelab.report.sections import evaluations, sections
from saelab.store.files import write_text
from saelab.store.layout import RunFolder
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.spec import StudyConfig, saes_of

# What needs no text of the wheel.
ONLY = ("core", "autointerp", "absorption_first_letter", "meta_structure_decoder_variance", "fuzzing", "intervention")


@pytest.fixture
def asked(study_data: dict[str, Any]) -> StudyConfig:
    return StudyConfig.parse(study_data | {"suite": {"preset": "tiny", "only": list(ONLY)}})


def test_a_study_without_a_suite_has_the_cells_it_had(study: StudyConfig, asked: StudyConfig) -> None:
    plain, more = cells_of(study), cells_of(asked)
    assert [c.key for c in plain] == [c.key for c in more[: len(plain)]]
    assert [c.stage for c in more[len(plain) :]].count("evaluate") == len(saes_of(asked)) == 5
    assert [c.stage for c in more].count("read") == 1  # the words, for both sites in one pass
    with pytest.raises(UserError, match="suite"):
        StudyConfig.parse({**study.model_dump(mode="json"), "suite": {"preset": "big"}})


def test_the_suite_runs_on_a_run_folder_twice_alike(
    study: StudyConfig, asked: StudyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = ("text", "harvest", "train", "interp")
    first = run(study, tmp_path / "one", stages=stages)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    arguments = ["interp", str(tmp_path / "one"), "--preset", "tiny", "--json"]
    for name in ONLY:
        arguments += ["--only", name]
    assert main(arguments) == 0 and "Meta-SAE" in capsys.readouterr().out
    second = run(asked, tmp_path / "two", stages=(*stages, "read", "evaluate"))
    for sae in saes_of(asked):
        one, two = first.interp(sae.name).evaluations.path, second.interp(sae.name).evaluations.path
        assert one.read_bytes() == two.read_bytes()
    files = [sorted(p.relative_to(r.root) for p in r.saebench.rglob("*.json")) for r in (first, second)]
    assert files[0] == files[1] and len(files[0]) >= 3 * 5
    assert all((first.root / f).read_bytes() == (second.root / f).read_bytes() for f in files[0])


def test_the_report_has_a_section_only_with_results(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    metrics = ["ce_loss_score", "tpp_threshold_10_total_metric"]
    rows = {"kind": ["core", "tpp"], "category": ["a", "b"], "metric": metrics, "value": [0.9, None],
            "preset": ["small"] * 2, "reason": [None, "no probe"]}  # fmt: skip
    folder.interp("relu").evaluations.path.parent.mkdir(parents=True)
    pl.DataFrame(rows).write_parquet(folder.interp("relu").evaluations.path)
    write_text(folder.summary.path, "{}")
    material = read_material(folder)
    made = {s.name: s for s in sections(material, [])}
    (part,) = made["evaluations"].parts
    table = part.content
    texts = [c.text + c.note for c in table.rows[-1].cells]
    assert texts == ["relu", "0.900", "missing (1)no probe"]
    folder.interp("relu").evaluations.path.unlink()
    assert "evaluations" not in {s.name for s in sections(read_material(folder), [])}


def test_published_results_stand_beside_with_the_settings_that_differ(
    study_data: dict[str, Any], tmp_path: Path
) -> None:
    """Another's file gives its own number; the control, this run's own file, differs in nothing."""
    stages = ("text", "harvest", "train", "interp")
    grid = {"sites": ["resid_post.1"], "architectures": ["topk"], "levels": [4], "d_sae": 48, "steer": False}
    study_data["models"][0] |= {"grids": [grid], "paths": []}
    suite: dict[str, Any] = {"preset": "tiny", "only": ["core"]}
    folder = run(StudyConfig.parse(study_data | {"suite": suite}), tmp_path / "run", stages=(*stages, "evaluate"))
    files = sorted((folder.saebench / "core").glob("*.json"))
    theirs = tmp_path / "theirs"
    (theirs / "core").mkdir(parents=True)
    data = json.loads(files[0].read_text())
    same = json.loads(files[0].read_text()) | {"sae_lens_release_id": "same"}
    data["eval_config"] |= {"context_size": 4096, "llm_batch_size": 99}
    data |= {"sae_lens_release_id": "gemma-scope", "sae_lens_id": "layer_12/width_16k"}
    (metrics,) = (m for m in data["eval_result_metrics"].values() if "ce_loss_score" in m)
    metrics["ce_loss_score"] = 0.125
    (theirs / "core" / "a.json").write_text(json.dumps(data))
    (theirs / "core" / "b.json").write_text(json.dumps(same))
    (theirs / "notes.json").write_text("{}")
    beside = StudyConfig.parse(study_data | {"suite": suite | {"against": f"path:{theirs}"}})
    assert [c.key for c in cells_of(beside) if c.stage != "published"] == [
        c.key for c in cells_of(StudyConfig.parse(study_data | {"suite": suite}))
    ], "what is set beside changes nothing that is measured"
    run(beside, folder.root, stages=(*stages, "evaluate", "published"))
    table = folder.stats.table("published").read()
    rows = {(r["sae"], r["metric"]): r for r in table.to_dicts()}
    found = rows["gemma-scope/layer_12/width_16k", "ce_loss_score"]
    assert found["value"] == 0.125 and "context_size 4096 (here: " in found["differs"]
    assert "llm_batch_size" not in found["differs"] and rows["same", "ce_loss_score"]["differs"] == ""
    page = evaluations(read_material(folder))
    assert "gemma-scope/layer_12/width_16k" in repr(page) and "context_size 4096" in repr(page)
    (theirs / "core" / "a.json").write_text(json.dumps(data | {"eval_result_metrics": 3}))
    with pytest.raises(ArtefactError, match=r"a\.json is not a result of SAEBench"):
        run(beside, folder.root, stages=(*stages, "evaluate", "published"))
    shutil.rmtree(theirs / "core")
    with pytest.raises(UserError, match=r"suite.against: .* holds no result of SAEBench"):
        run(beside, folder.root, stages=(*stages, "evaluate", "published"))
