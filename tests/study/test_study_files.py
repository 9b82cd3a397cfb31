"""Study files: scales, axes, judges, plans; what is wrong is named with what was meant."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from saelab.core.errors import UserError
from saelab.judges.scripted import ScriptedJudge
from saelab.store.layout import RunFolder
from saelab.study.cards import card_table
from saelab.study.cells import Cell
from saelab.study.costs import disk_bytes, judge_calls, plan_table, training_bytes
from saelab.study.plan import cells_of
from saelab.study.scales import merged, read_study
from saelab.study.sizes import size_of
from saelab.study.spec import StudyConfig, saes_of
from saelab.study.stages import do
from saelab.study.workspace import Workspace

STUDIES = Path(__file__).parents[2] / "studies"


def written(path: Path, data: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_scale_is_a_study_of_its_own(study_data: dict[str, Any], tmp_path: Path) -> None:
    small = {"training": {"steps": 7}, "steering": {"factors": [3.0]}}
    path = written(tmp_path / "s.yaml", study_data | {"scales": {"small": small}})
    whole, part = read_study(path), read_study(path, "small")
    assert whole == StudyConfig.parse(study_data), "without a scale the file stands as it is"
    assert part.name == "tiny-small" and part.training.steps == 7 and part.steering.factors == (3.0,)
    assert part.training.batch == whole.training.batch, "mappings are merged"
    assert merged({"a": {"b": [1, 2]}}, {"a": {"b": [3]}}) == {"a": {"b": [3]}}, "lists are replaced"
    with pytest.raises(UserError, match="smal") as found:
        read_study(path, "smal")
    assert "small" in str(found.value)
    with pytest.raises(UserError, match="scales"):
        read_study(written(tmp_path / "t.yaml", study_data | {"scales": ["small"]}))


@pytest.mark.parametrize(
    ("where", "key", "meant"),
    [
        ((), "modles", "models"),
        (("training",), "step", "steps"),
        (("models", 0), "grid", "grids"),
        (("models", 0, "grids", 0), "architecture", "architectures"),
        (("text", "corpus"), "sorce", "source"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(
    study_data: dict[str, Any], where: tuple, key: str, meant: str
) -> None:
    inside: Any = study_data
    for part in where:
        inside = inside[part]
    inside[key] = 1
    with pytest.raises(UserError, match=f"unknown key '.*{key}'. Did you mean .*{meant}"):
        StudyConfig.parse(study_data)


def test_widths_and_training_seeds_are_axes(study_data: dict[str, Any]) -> None:
    plain = StudyConfig.parse(study_data)
    study_data["models"][0]["grids"][0] |= {"d_sae": [48, 64], "seeds": [0, 1]}
    study_data["models"][0]["paths"] = []
    study = StudyConfig.parse(study_data)
    names = [s.name for s in saes_of(study)]
    assert len(names) == len(set(names)) == 4 * 4 + 1
    assert "topk.l0_4.resid_post.1.w64" in names and "topk.l0_4.resid_post.1.w64.s1" in names
    train = {c.name: c.settings["seed"] for c in cells_of(study) if c.stage == "train"}
    assert len(set(train.values())) == len(train) == 3, "one training run per site and seed, each with its own seed"
    own = {c.name: c.key for c in cells_of(plain) if c.stage == "train"}
    again = {c.name: c.key for c in cells_of(study) if c.stage == "train"}
    site = next(n for n in own if n.endswith("resid_post.2"))
    assert own[site] == again[site], "a run that did not change keeps its key"


def test_a_path_through_several_widths_says_which(study_data: dict[str, Any]) -> None:
    for grid in study_data["models"][0]["grids"]:
        grid["d_sae"] = [48, 64]
    with pytest.raises(UserError, match="give d_sae"):
        StudyConfig.parse(study_data)
    study_data["models"][0]["paths"][0]["d_sae"] = 64
    assert [c.name for c in cells_of(StudyConfig.parse(study_data)) if c.stage == "match"] == [
        "jumprelu.l0_8.resid_post.1.w64--jumprelu.l0_8.resid_post.2.w64"
    ]
    study_data["models"][0]["paths"][0]["level"] = 16
    with pytest.raises(UserError, match="no grid trains"):
        StudyConfig.parse(study_data)


def test_the_judge_is_part_of_what_it_judges_and_of_nothing_else(study_data: dict[str, Any]) -> None:
    def keys(**judge: Any) -> dict[str, dict[str, str]]:
        study = StudyConfig.parse(study_data | ({"judge": judge} if judge else {}))
        found: dict[str, dict[str, str]] = {}
        for cell in cells_of(study):
            found.setdefault(cell.stage, {})[cell.name] = cell.key
        return found

    plain, paid = keys(), keys(name="openai:gpt-4o-mini")
    assert plain["train"] == paid["train"] and plain["harvest"] == paid["harvest"]
    assert plain["interp"] != paid["interp"] and plain["steer"] != paid["steer"]
    assert "calibrate" in plain and "calibrate" not in paid, "only the lexical judge has cuts to set"
    assert keys(name="openai:gpt-4o-mini", price=(1.0, 2.0), concurrency=2) == paid, "what it costs changes nothing"
    assert keys(name="openai:another")["steer"] != paid["steer"]
    assert StudyConfig.parse(study_data | {"judge": "lexical"}) == StudyConfig.parse(study_data)
    assert "anchors" not in plain and set(paid["anchors"]) == {"start", "end"}
    for wrong in ("gpt-4", "openai:", "lexica"):
        with pytest.raises(UserError, match="no judge"):
            StudyConfig.parse(study_data | {"judge": wrong})


def test_a_plan_counts_calls_and_dollars(study_data: dict[str, Any]) -> None:
    assert judge_calls(StudyConfig.parse(study_data)) is None, "the lexical judge is free"
    study_data["interp"]["calibrated"] = False
    judge = {"name": "openai:x", "price": [1.0, 2.0]}
    found = judge_calls(StudyConfig.parse(study_data | {"judge": judge}))
    assert found is not None and found.dollars is not None
    texts = 4 * (7 * 3 + 6 * 2)  # four steered SAEs; seven directions, six features beside them unsteered
    anchored = 2 * (30 + 4)  # two rounds: thirty texts, and ten windows of four descriptions
    assert found.calls == 3 * texts + 5 * 48 * 2 + anchored, "28 windows are two questions of 14"
    assert found.dollars == pytest.approx((found.prompt_tokens + 2 * found.completion_tokens) / 1e6)
    assert judge_calls(StudyConfig.parse(study_data | {"judge": "openai:x"})).dollars is None, "no price, no number"


def test_a_larger_model_takes_longer_and_sizes_are_read_from_names() -> None:
    assert size_of("hf:google/gemma-2-9b-it").d_model == 3584
    assert size_of("hf:org/thing-7b-chat").parameters == 7e9 and not size_of("hf:org/thing-7b-chat").known
    assert not size_of("path:somewhere").known
    assert size_of("hf:a/b-270m").parameters == pytest.approx(270e6)


def test_the_shipped_studies() -> None:
    paper, reduced, small = (
        read_study(STUDIES / "paper.yaml"),
        read_study(STUDIES / "reduced.yaml"),
        read_study(STUDIES / "reduced.yaml", "small"),
    )
    for study, n, levels in ((paper, 90, (50, 820)), (reduced, 90, (8, 256)), (small, 86, (8, 256))):
        saes = saes_of(study)
        assert len(saes) == n and {len({s.architecture for s in saes}), len({s.level for s in saes})} == {5, 6}
        assert (min(s.level for s in saes), max(s.level for s in saes)) == levels
        assert plan_table(study).height == len({c.stage for c in cells_of(study)}) + 1
    assert {s.d_sae for s in saes_of(paper)} == {16384} and paper.training.steps * paper.training.batch >= 5e8
    assert [m.grids[0].sites for m in paper.models] == [("resid_post.12",), ("resid_post.17",), ("resid_post.20",)]
    stored = paper.model_copy(update={"harvest": paper.harvest.model_copy(update={"stream": False})})
    assert disk_bytes(stored) > 1e12 > 2e11 > disk_bytes(paper, 8) > disk_bytes(paper) > disk_bytes(small)
    assert judge_calls(paper) is not None and judge_calls(reduced) is None


def test_the_paper_on_eight_cards() -> None:
    """Hours by assumed rates: more cards, fewer hours; and what is known by hand of the stage that takes most."""
    paper = read_study(STUDIES / "paper.yaml")
    one, eight = (card_table(paper, n).to_dicts() for n in (1, 8))
    hours = {row["stage"]: (row["card_hours"], row["hours"]) for row in eight}
    gemma, width = 5 * 5e8 / 200_000 / 3600, 2304 * 16384
    read = gemma * (2.6 + 3.1 + 9.2) / 2.6
    steps = 5e8 * 30 * 16384 * (2304 + 2048 + 3584) / (1.5e6 * width) / 3600
    assert hours["train"][0] == pytest.approx(read + steps, rel=1e-3)
    assert hours["train"][1] == pytest.approx(hours["train"][0] / 8, abs=0.01)
    assert sum(row["hours"] for row in one[:-1]) == pytest.approx(one[-1]["hours"], abs=0.1)
    assert one[-1]["hours"] > eight[-1]["hours"]
    assert all(row["assumed_a_second"] for row in eight[:-1]) and eight[-1]["hours"] < 240
    six = 4 * 6 * 8 * 3584 * 16384  # weights, gradients, two moments
    assert six + 2 * 9.2e9 < training_bytes(paper, stored=False) < six + 2 * 9.2e9 + 4e9


@pytest.mark.parametrize(("last", "state"), [(0, "same"), (2, "changed"), ("down", "too_few")])
def test_a_model_that_judges_answers_its_anchors_before_and_after_all_it_judges(
    study_data: dict[str, Any], tmp_path: Path, last: int | str, state: str
) -> None:
    """First and last of the cells; what is left says in a state whether the judge stayed, in no number if not known."""
    study = StudyConfig.parse(study_data | {"judge": "openai:x"})
    cells = cells_of(study)
    start, end = (c for c in cells if c.stage == "anchors")
    assert cells[0] == start and [c.stage for c in cells[cells.index(end) + 1 :]] == ["stats"]
    assert {c.name for c in end.inputs if c.stage == "steer"} == {s.name for s in saes_of(study) if s.steer}
    run = RunFolder(tmp_path)

    def asked(answer: int | str, cell: Cell) -> list[Path]:
        turns = iter([0, 1] * 20)
        return do(cell, Workspace(study, run, asked={"judge": ScriptedJudge(lambda _: answer or next(turns))}))

    assert asked(0, start) == [run.anchors("start").path]
    assert asked(last, end) == [run.anchors("end").path]
    drift = run.anchors("end").read()["drift"]
    assert drift["state"] == state and (drift["kappa"] is None) == (state == "too_few")
