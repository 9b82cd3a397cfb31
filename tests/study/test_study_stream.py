"""A whole study whose SAEs are trained as the language model runs: a sample is stored, and every stage reads that."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from saelab.activations.shards import ActivationShards
from saelab.cli import main
from saelab.core.config import digest_of
from saelab.saes.formats import load_sae
from saelab.store.layout import RunFolder
from saelab.study.fresh import Wanted, study_text
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.spec import StudyConfig, saes_of
from saelab.study.streams import streamed, why
from saelab.workflow import run_study
from tiny_world import world

LAYERS = ["resid_post.0", "resid_post.1"]
SAMPLE = 52


def asked(data: dict[str, Any], **harvest: Any) -> StudyConfig:
    grid = data["models"][0]["grids"][0] | {"sites": LAYERS[1:]}
    other = grid | {"sites": LAYERS[:1], "architectures": ["jumprelu"], "steer": False}
    transcoder = grid | {"sites": ["mlp_in.1"], "target": "mlp_out", "steer": False}
    models = [data["models"][0] | {"grids": [grid, other, transcoder]}]
    return StudyConfig.parse(data | {"models": models, "harvest": data["harvest"] | harvest})


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    return world(tmp_path / "world")


def test_a_streamed_study_to_its_page(data: dict[str, Any], tmp_path: Path) -> None:
    study = asked(data, stream=True, sample_tokens=32 * SAMPLE, buffer_rows=500, batch_contexts=4)
    page = run_study(study, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    lm = study.models[0].key
    assert [c.name for c in cells_of(study) if c.stage == "train"] == [f"{lm}.stream"], "one pass for all sites"
    for site in (*LAYERS, "mlp_in.1", "mlp_out.1"):
        shards = ActivationShards(folder.activations(lm) / site)
        assert max(r.stop for r in shards.manifest.shards) == SAMPLE < study.text.train_contexts
    for spec in saes_of(study):
        if spec.reads is None:
            assert load_sae(folder.sae(spec.name)).cfg.site == spec.site
        assert 0 < folder.interp(spec.name).fidelity.read()["fvu"] < 1.5
    text = folder.results.read()["text"][lm]
    assert text["trained_from"] == "stream" and text["positions"] == 32 * SAMPLE < text["train_tokens"]
    assert "<html" in page.read_text()[:500]
    run(study, tmp_path / "run")
    assert folder.results.read()["text"][lm] == text, "finished: nothing changes"


def test_stored_where_it_fits_and_the_stream_where_it_does_not(data: dict[str, Any]) -> None:
    """What a study was before keys of the stream were there is what it is without them."""
    stored, small, never = asked(data), asked(data, stored_gb=1e-6), asked(data, stream=False, stored_gb=0)
    model = stored.models[0]
    assert [streamed(s, s.models[0]) for s in (stored, small, never)] == [False, True, False]
    assert "stored_gb is 64" in why(stored, model) and "would take" in why(small, small.models[0])
    assert {c.key for c in cells_of(stored)} == {c.key for c in cells_of(never)}
    assert {c.key for c in cells_of(stored) if c.stage == "harvest"} != {
        c.key for c in cells_of(small) if c.stage == "harvest"
    }
    named = {"sites", "contexts", "lm", "dtype"}
    (harvest,) = (c for c in cells_of(stored) if c.stage == "harvest")
    assert set(harvest.settings) - named == {"batch_contexts", "shard_contexts", "sink_ratio"}
    assert digest_of(stored.harvest.own.model_dump(mode="json")) == digest_of(stored.harvest.model_dump(mode="json"))


def test_a_stream_is_asked_for_by_a_flag() -> None:
    plain, asked_for = (study_text(Wanted("smollm2-135m", ["resid_post.1"], ["topk"], ["4"], 64, tokens=10**4,
                                          stream=stream)) for stream in (False, True))  # fmt: skip
    before, after = (StudyConfig.parse(yaml.safe_load(text)) for text in (plain, asked_for))
    assert after.harvest.stream is True and before == after.model_copy(update={"harvest": before.harvest})


def test_saes_of_a_stream_in_several_cells(data: dict[str, Any]) -> None:
    whole, parts = (asked(data, stream=True, stream_saes=n) for n in (None, 2))
    names = [[c.name for c in cells_of(s) if c.stage == "train"] for s in (whole, parts)]
    assert [len(n) for n in names] == [1, 2]
    trained = [{n for c in cells_of(s) if c.stage == "train" for n in c.settings["saes"]} for s in (whole, parts)]
    assert trained[0] == trained[1] == {s.name for s in saes_of(whole)}


@pytest.mark.parametrize("asked", [True, False])
def test_training_gives_up_what_was_finished_where_it_is_asked_to(
    asked: bool, data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal of other settings names `--replace`."""
    seen: list[bool] = []

    def noted(study: StudyConfig, place: Path, *, replace: bool, **_: object) -> RunFolder:
        seen.append(replace)
        RunFolder(place).saes.mkdir(parents=True)
        return RunFolder(place)

    monkeypatch.setattr("saelab.study.run.run", noted)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(data))
    said = ["train", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "run")]
    assert main([*said, *(["--replace"] if asked else [])]) == 0 and seen == [asked]
