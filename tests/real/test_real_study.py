"""A cut of the study on SmolLM2-135M-Instruct: real weights, real text, every stage, in a few minutes."""

from pathlib import Path

import pytest

from saelab.steering.arms import Arm
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.spec import StudyConfig
from saelab.workflow import run_study

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    demo = StudyConfig.from_yaml(Path(__file__).parents[2] / "src" / "saelab" / "study" / "demo.yaml")
    grid, side = demo.models[0].grids
    grids = (
        grid.model_copy(update={"architectures": ("topk", "batchtopk", "jumprelu"), "levels": (32,), "d_sae": 1024}),
        side.model_copy(update={"sites": ("resid_post.16",), "levels": (32,), "d_sae": 1024}),
    )
    path = demo.models[0].paths[0].model_copy(update={"level": 32, "sites": ("resid_post.15", "resid_post.16")})
    changes = {
        "name": "real cut",
        "models": (demo.models[0].model_copy(update={"grids": grids, "paths": (path,)}),),
        "text": demo.text.model_copy(update={"train_contexts": 384, "held_out_contexts": 16}),
        "training": demo.training.model_copy(update={"steps": 80, "batch": 1024}),
        "interp": demo.interp.model_copy(update={"fidelity_contexts": 16, "window_rows": 40_000, "n_scored": 80}),
        "steering": demo.steering.model_copy(
            update={
                "arms": (Arm(criterion="delta_confidence", n=1), Arm(criterion="output_score", n=1), Arm(random=16)),
            }
        ),
        "instrument": demo.instrument.model_copy(
            update={"doses": (0.5,), "n_dev": 8, "n_random": 32, "class_texts": 32, "contexts": 200}
        ),
        "matching": demo.matching.model_copy(update={"contexts": 8}),
        "resamples": 200,
    }
    return demo.model_copy(update=changes)


@pytest.fixture(scope="module")
def folder(study: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = RunFolder(tmp_path_factory.mktemp("real") / "run")
    run_study(study, run.root)
    return run


def test_the_saes_learnt_something(folder: RunFolder) -> None:
    for row in read_table(folder.stats.root / "saes.parquet").iter_rows(named=True):
        assert row["l0"] == pytest.approx(32, rel=0.25), row
        assert row["fvu"] < 0.5 < row["random_fvu"], "a random dictionary of the same L0 is the control"
        assert row["ce_recovered"] > 0.7 > row["random_ce_recovered"]
        assert row["dead_share"] < 0.2


def test_descriptions_tell_held_out_windows(folder: RunFolder) -> None:
    rows = read_table(folder.stats.root / "saes.parquet")
    assert rows["n_scored"].min() > 20
    assert (rows["interpretability_low"] > 0.5).all(), "0.5 is a description that says nothing"


def test_steering_is_seen_and_its_controls_stand_beside_it(folder: RunFolder) -> None:
    """The gate sees the known classes, and a random dictionary has less than half of their lift."""
    record = folder.results.read()
    assert record["instrument"]["passed"], record["verdict"]
    controls = {(c["name"], c["outcome"]): c for c in record["instrument"]["controls"]}
    assert controls["classes", "described"]["low"] > 0 and controls["classes", "described"]["p"] < 0.01
    assert controls["random_dictionary", "described"]["value"] < controls["random_dictionary", "described"]["bound"]
    arms = {(a["outcome"], a["arm"]): a for a in record["arms"]}
    assert {c for _, c in arms} == {"none", "delta_confidence", "output_score"}
    assert all(a["percentile"] > 0.5 for (_, c), a in arms.items() if c == "none"), "chance"
    for row in record["saes"]:
        assert row["n_steered"] is None or 0 < row["kl_per_token"] < 3
    assert record["counts"]["texts"] > 100


def test_matching_is_certified_and_beats_chance(folder: RunFolder) -> None:
    (quality,) = folder.summary.read()["matching"].values()
    assert abs(quality["gap"]) <= 1e-9 * quality["cost"]
    assert quality["cost"] < quality["baselines"]["random"]
    assert quality["over_chance"] > 1.5
    assert quality["skip"]["explained_variance"] > 0


def test_the_report_holds_every_section(folder: RunFolder) -> None:
    page = folder.report.read_text()
    for word in ("topk.l0_32.resid_post.15", "tau", "unsteered", "random dictionar", "output score", "lexical"):
        assert word in page.lower(), word
    assert "http://" not in page.split("<body", 1)[1].split("<script", 1)[0]
