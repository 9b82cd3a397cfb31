"""The instrument in a study: outcomes reach every table and the record, and what cannot be read is a state."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.judges.catalogue import JudgeConfig
from saelab.judges.scripted import ScriptedJudge
from saelab.store.files import read_json
from saelab.store.layout import RunFolder
from saelab.store.tables import read_table
from saelab.study.costs import power_of
from saelab.study.plan import cells_of
from saelab.study.spec import StudyConfig
from saelab.workflow import run_study

CLASSES = {
    "letters": "abcdefgh", "later": "ijklmnop", "last": "qrstuvwxyz", "numbers": "0123456789", "marks": "!?.,;:()",
}  # fmt: skip


@pytest.fixture
def steered(study_data: dict[str, Any]) -> dict[str, Any]:
    """The tiny study without ratings, its paths or its second site."""
    study_data["models"][0]["paths"] = []
    study_data["models"][0]["grids"] = study_data["models"][0]["grids"][:1]
    study_data["steering"].pop("ratings")
    return study_data


@pytest.fixture
def class_files(tmp_path: Path) -> list[str]:
    """Five files of texts, a class each."""
    found = []
    for name, letters in CLASSES.items():
        path = tmp_path / f"{name}.jsonl"
        texts = [" ".join(letters[i % len(letters) :] + str(i)) for i in range(20)]
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        found.append(str(path))
    return found


def test_outcomes_reach_the_tables_the_record_and_the_page(steered: dict[str, Any], tmp_path: Path) -> None:
    study = StudyConfig.parse(steered)
    page = run_study(study, tmp_path / "run").read_text()
    run, record = RunFolder(tmp_path / "run"), read_json(tmp_path / "run" / "results.json")
    saes = read_table(run.stats.root / "saes.parquet")
    outcomes = {s: run.steering(s).outcomes.read() for s in saes["sae"]}
    for row in saes.iter_rows(named=True):
        drawn = outcomes[row["sae"]].filter((pl.col("arm") == "random") & (pl.col("outcome") == "described"))
        assert row["n_steered"] == drawn["feature"].n_unique()
        assert row["described"] == pytest.approx(drawn["percentile"].mean()) or drawn.height < 3
        assert drawn["kl_per_token"].is_finite().all() and (drawn["strength"] > 0).all()
    assert saes["utility"].null_count() == saes.height, "nothing was rated, so there is no utility"
    assert not run.ratings("").root.exists() and not (run.root / "judges").exists()
    assert set(record["instrument"]) >= {"passed", "state", "controls", "sites"}
    assert record["instrument"]["state"] == "not_gated" and record["verdict"].startswith("This study was not gated")
    assert record["verdict"] in page and "not gated" in page
    assert set(record["steering_lift"]) >= {"value", "low", "high"}
    assert {a["outcome"] for a in record["arms"]} == {"described", "read_back"}
    assert {s["score"] for s in record["spread"]} >= {"interpretability", "described", "read_back"}
    assert {q["question"] for q in record["questions"]} >= {"partial", "regression", "noise", "tier"}
    random = next(q for q in record["questions"] if q["question"] == "tier" and q["about"] == "random")
    assert random["state"] in ("ok", "too_few"), "the control criterion goes through the same choice"
    texts = run.steering(saes["sae"][0]).readings.read()
    assert texts.filter(pl.col("feature") >= 0)["described"].null_count() == 0
    assert texts.filter(pl.col("feature") < 0)["described"].null_count() == 60, "unsteered texts belong to no feature"


def test_a_gate_that_fails_says_so_first_and_no_card_says_steers(
    steered: dict[str, Any], class_files: list[str], tmp_path: Path
) -> None:
    """A random model cannot be steered by these classes: blind, or told apart from none."""
    steered["instrument"] |= {"classes": class_files, "class_texts": 16}
    run_study(StudyConfig.parse(steered), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    record = run.results.read()
    gate = run.instrument("tiny", "resid_post.1").gate.read()
    assert gate["state"] == "failed" and not record["instrument"]["passed"]
    assert record["verdict"].startswith("This study cannot see steering: ")
    page = run.report.read_text()
    assert "cannot see steering" in page and "interpretable and steers" not in page
    assert "Lift less a random dictionary" not in page


def test_features_that_cannot_be_read_are_a_state(steered: dict[str, Any], tmp_path: Path) -> None:
    """SAEs so dense that no feature is rare enough to be read: the study ends, without outcomes and with a reason."""
    steered["models"][0]["grids"] = [
        {"sites": ["resid_post.1"], "architectures": ["topk"], "levels": [24], "d_sae": 48}
    ]
    run_study(StudyConfig.parse(steered), tmp_path / "run")
    run, record = RunFolder(tmp_path / "run"), read_json(tmp_path / "run" / "results.json")
    folder = run.steering("topk.l0_24.resid_post.1")
    assert folder.outcomes.read().height == 0 and folder.manifest.read()["n_readable"] < 3
    assert record["saes"][0]["described"] is None and record["saes"][0]["n_steered"] == 0
    assert record["steering_lift"]["value"] is None
    assert "Too few features" in record["verdict"]


def test_features_are_moved_by_their_own_dev_or_by_factors(
    steered: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read by a language model; every feature says how far it was moved and why."""
    judge = ScriptedJudge(lambda request: float(len(request.judged_text()) % 3), name="local:scripted")
    monkeypatch.setattr(JudgeConfig, "open", lambda config, replies: judge)
    steered["models"][0]["grids"][0] |= {"architectures": ["topk"], "levels": [4]}
    steered["models"][0]["grids"] = steered["models"][0]["grids"][:1]
    lm = steered["models"][0]["lm"]
    for held, more in (("feature_dev", {"dev_copies": 1}), ("factors", {"factors": [0.5, 2.0]})):
        steered["instrument"] |= {"strength": held, "reader": f"local:{lm}", "readers_asked": 2} | more
        run_study(StudyConfig.parse(steered), tmp_path / held)
        run = RunFolder(tmp_path / held)
        gate = run.instrument("tiny", "resid_post.1").gate.read()
        found = run.steering("topk.l0_4.resid_post.1").outcomes.read()
        assert gate["reader"] == "local:scripted" and gate["held"] == held and set(gate["answers"]) == {"ok"}
        assert set(found["dose_state"]) <= {"ok", "no_dev_signal"} and (found["kl_per_token"] > 0).all()
        if held == "feature_dev":
            known = dict(zip((*gate_doses(steered), gate["chosen"]["dose"]),
                             (*gate["chosen"]["distances"], gate["chosen"]["strength"]), strict=True))  # fmt: skip
            assert [known[dose] for dose in found["dose"]] == found["strength"].to_list()
        else:
            assert gate["chosen"]["factor"] in (0.5, 2.0) and found["strength"].n_unique() > 1
        page = run.report.read_text()
        assert "read by local:scripted, asked" in page and "Every feature is moved by" in page


def gate_doses(data: dict[str, Any]) -> list[float]:
    return data["instrument"]["doses"]


def test_a_change_of_the_instrument_is_another_cell(steered: dict[str, Any]) -> None:
    def keys(data: dict[str, Any]) -> dict[str, str]:
        return {str(c): c.key for c in cells_of(StudyConfig.parse(data))}

    before = keys(steered)
    steered["instrument"]["temperature"] = 0.5
    after = keys(steered)
    changed = {name.split(" ")[0] for name in before if before[name] != after[name]}
    assert changed == {"gate", "steer", "stats"}


def test_ratings_are_made_where_they_are_asked_for(steered: dict[str, Any]) -> None:
    """By default of a judge that is a language model, never of the one that counts words."""
    for judge, asked, rated in (("lexical", None, False), ("lexical", True, True), ("openai:m", None, True),
                                ("openai:m", False, False)):  # fmt: skip
        steered |= {"judge": judge}
        steered["steering"]["ratings"] = asked
        study = StudyConfig.parse(steered)
        stages = {c.stage for c in cells_of(study)}
        assert study.rated == rated and ("rate" in stages) == rated
        assert ("calibrate" in stages) == (rated and judge == "lexical")


def test_more_texts_and_features_see_more(steered: dict[str, Any]) -> None:
    few = power_of(StudyConfig.parse(steered))
    steered["steering"]["arms"][-1] = {"random": 12}
    more = power_of(StudyConfig.parse(steered))
    steered["instrument"]["feature_copies"] = 4
    most = power_of(StudyConfig.parse(steered))
    assert few and more and most and few.se == pytest.approx(2 * more.se)
    assert few.smallest > more.smallest > most.smallest
    steered["steering"]["arms"][-1] = {"random": 4800}
    crowded = power_of(StudyConfig.parse(steered))
    assert crowded and crowded.features == 48, "an SAE has no more features than that"
    steered["models"][0]["grids"][0]["steer"] = False
    assert power_of(StudyConfig.parse(steered)) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reader": "embeding"}, "embedding"),
        ({"unsteered_copies": 3}, "unsteered"),
        ({"doses": []}, "doses"),
        ({"classes": ["nowhere.txt"]}, "nowhere.txt"),
        ({"classes": "nowhere.txt"}, "nowhere.txt"),  # one file is a list of one
        ({"label": "kind"}, "instrument.label"),  # of no table
    ],
)
def test_what_cannot_be_read_is_refused_with_its_key(
    steered: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    steered["instrument"] |= change
    with pytest.raises(UserError) as error:
        run_study(StudyConfig.parse(steered), tmp_path / "run")
    assert words in str(error.value) and "instrument" in str(error.value)
