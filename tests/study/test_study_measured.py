"""A plan by measurement: hours of what was done a little of, and estimates, said to be so, of the rest."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from saelab.cli import main
from saelab.lm.tiny import tiny_lm
from saelab.saes.base import TrainConfig
from saelab.study import measured
from saelab.study.costs import plan_table
from saelab.study.measured import measure
from saelab.study.spec import StudyConfig, saes_of
from tiny_world import world


def test_hours_grow_as_the_work_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the steps take twice the hours; a pass that takes longer shows. Control: nothing else changes by it."""
    study = StudyConfig.parse(world(tmp_path))
    clock = iter(range(10**6))
    monkeypatch.setattr(measured.time, "perf_counter", lambda: float(next(clock)))  # every piece of work takes 1 s
    found = measure(study, seconds=1.0).hours
    assert set(found) == {"harvest", "select", "gate", "steer", "train"} and min(found.values()) >= 0
    doubled = study.model_copy(update={"training": study.training.model_copy(update={"steps": 20})})
    monkeypatch.setattr(measured, "_trained", lambda *a: 1e-9)
    once, twice = (measure(s, seconds=1.0).hours for s in (study, doubled))
    assert twice["train"] == pytest.approx(2 * once["train"])
    assert {k: v for k, v in twice.items() if k != "train"} == {k: v for k, v in once.items() if k != "train"}


def test_what_is_measured_is_what_the_study_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels of one training once, with what is frozen. Control: without `joint_levels` each level has its own."""
    data, seen = world(tmp_path), list[list[TrainConfig]]()
    monkeypatch.setattr(measured, "train", lambda configs, *_, **__: seen.append(configs))
    grid = data["models"][0]["grids"][0]
    grid |= {"architectures": ["hierarchicaltopk"], "levels": [2, 4], "freeze": ["none", "soft"]}
    for joint, trained in ((True, 2), (False, 4)):
        grid["joint_levels"] = joint
        study = StudyConfig.parse(data)
        measured._trained(study, saes_of(study), torch.zeros(256, 32))
        assert len(seen[-1]) == trained and {c.freeze for c in seen[-1]} == {"none", "soft"}
        assert ((2, 4) in {c.model_dump()["ks"] for c in seen[-1]}) is joint


def test_a_text_of_few_rows_is_measured_too(tmp_path: Path) -> None:
    """Control: of more contexts there are as many rows more."""
    data, rows = world(tmp_path), list[int]()
    for contexts in (1, 3):
        data["harvest"]["batch_contexts"] = contexts
        found = measured._harvested(StudyConfig.parse(data), tiny_lm(), ["resid_post.1"], 0.0)[1]
        rows.append(len(found))
    assert 0 < rows[0] < 32 and rows[1] == 3 * rows[0]


def test_the_table_says_what_was_measured(tmp_path: Path) -> None:
    study = StudyConfig.parse(world(tmp_path))
    table = {row["stage"]: row for row in plan_table(study, {"train": 7.0, "harvest": 1.0}).to_dicts()}
    assert table["train"] == {"stage": "train", "cells": 1, "hours": 7.0, "from": "measured"}
    assert table["interp"]["from"] == "estimate" and table["total"]["from"] == "both"
    rest = sum(row["hours"] for name, row in table.items() if name != "total")
    assert table["total"]["hours"] == pytest.approx(rest, abs=0.02 * len(table))
    assert "from" not in plan_table(study).columns, "control: nothing was measured"


def test_a_plan_that_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(world(tmp_path / "world")))
    assert main(["plan", str(tmp_path / "study.yaml"), "--measure", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    of = {row["stage"]: row["from"] for row in record["stages"]}
    assert of["steer"] == of["train"] == "measured" and of["stats"] == "estimate" and record["memory_gib"] > 0
    assert main(["plan", str(tmp_path / "study.yaml"), "--measure"]) == 0
    assert "marked measured" in capsys.readouterr().out
