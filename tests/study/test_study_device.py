"""A whole study on an accelerator: every stage runs there, and its results are those of the CPU.

The accelerator is pretended (pretended.py); what a real one's kernels compute, and how fast, cannot be seen here.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pretended import CPU, PLACE, pretended_by_name
from saelab.cli import main
from saelab.core.errors import UserError
from saelab.core.hardware import DEVICE, device_of
from saelab.store.layout import RunFolder
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.spec import StudyConfig
from saelab.workflow import run_study
from tiny_world import world

LAYERS = ["resid_post.0", "resid_post.1"]


def asked(data: dict[str, Any], device: str, trained: str = "cpu") -> StudyConfig:
    changed = json.loads(json.dumps(data))
    (model,) = changed["models"]
    model["grids"][0] |= {"architectures": ["jumprelu"], "sites": LAYERS}
    model["paths"] = [{"architecture": "jumprelu", "level": 4, "sites": LAYERS}]
    model["device"], changed["training"]["device"] = device, trained
    changed["selection"] = {"criteria": ["kl", "delta_confidence", "output_score"], "positions": "all"}
    return StudyConfig.parse(changed)


def differences(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Where two records differ by more than rounding."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = sorted(ours.keys() | theirs.keys())
        return [d for k in keys for d in differences(ours.get(k), theirs.get(k), f"{at}.{k}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{at}[{i}]")]
    if isinstance(ours, float) and isinstance(theirs, float):
        return [] if theirs == pytest.approx(ours, rel=1e-4, abs=1e-6) else [f"{at}: {ours} {theirs}"]
    return [] if ours == theirs else [f"{at}: {ours} {theirs}"]


def test_a_whole_study_there_is_the_study_here(tmp_path: Path) -> None:
    """Control: one activation that is not what the model gave is seen in the results."""
    data, seen = world(tmp_path / "world"), list[torch.device]()
    with sdpa_kernel(SDPBackend.MATH):  # of several, the one that all devices have: equal to the bit
        run_study(asked(data, "cpu"), tmp_path / "here")
        with pretended_by_name(seen):
            run_study(asked(data, str(PLACE)), tmp_path / "there")
    assert {PLACE, CPU} == set(seen), "the language model there, training here"
    here, there = (json.loads(RunFolder(tmp_path / name).results.path.read_text()) for name in ("here", "there"))
    assert differences(here, there) == []
    assert RunFolder(tmp_path / "there").report.is_file()
    there["saes"][0]["fvu"] *= 1.01
    assert differences(here, there) != []


def test_training_there_too(tmp_path: Path) -> None:
    """With SAEs that are trained there, which differ in their last digits: as good, and scored to the end."""
    data, seen = world(tmp_path / "world"), list[torch.device]()
    for name, place in (("here", CPU), ("there", PLACE)):
        with pretended_by_name(seen):
            run(asked(data, str(place), str(place)), tmp_path / name, stages=("text", "harvest", "train", "interp"))
    own, other = (
        json.loads(RunFolder(tmp_path / n).interp("jumprelu.l0_4.resid_post.1").fidelity.path.read_text())
        for n in ("here", "there")
    )
    assert other["fvu"] == pytest.approx(own["fvu"], rel=0.01) and other["l0"] == pytest.approx(own["l0"], rel=0.05)


def test_where_it_runs_is_no_part_of_what_is_asked(tmp_path: Path) -> None:
    data = world(tmp_path)
    here, there = (cells_of(asked(data, d, d)) for d in ("cpu", "cuda"))
    assert [c.key for c in here] == [c.key for c in there]


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps", ""])
def test_a_device_that_is_not_there_is_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEVICE, "cpu")
    with pytest.raises(UserError, match="device"):
        run_study(asked(world(tmp_path), name), tmp_path / "run")
    assert main(["select", "path:nowhere", "--device", name or "-"]) == 2
    capsys.readouterr()


def test_auto_is_what_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE, "cpu")
    assert device_of("auto") == CPU
    monkeypatch.setenv(DEVICE, "cuda:99")
    with pytest.raises(UserError, match="cuda:99"):
        device_of("auto")
    assert device_of("cpu") == CPU, "control: what is said goes before it"


@pytest.mark.sweep
def test_every_verb_that_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = world(tmp_path / "world")
    run_study(asked(data, "auto"), tmp_path / "run")  # `interp` of a run keeps to what its study says
    first, second = (f"path:{tmp_path}/run/saes/jumprelu.l0_4.{site}" for site in LAYERS)
    lm, text = f"path:{tmp_path}/world/lm", f"path:{tmp_path}/world/text.jsonl"
    commands = [
        ["steer", first, "1", "2", "--lm", lm, "--prompt", "the cat", "--strength", "0.2"],
        ["feature", first, "1", "2", "--lm", lm, "--text", text],
        ["select", first, "--lm", lm, "--top", "3"],
        ["select", first, "--lm", lm, "--top", "3", "--edit", "scale"],
        ["match", first, second, "--lm", lm, "--text", text, "--out", str(tmp_path / "match")],
        ["inspect", first, "--lm", lm],
        [
            "interp",
            str(tmp_path / "run"),
            "--preset",
            "tiny",
            "--only",
            "core",
            "--only",
            "fuzzing",
            "--only",
            "intervention",
        ],
        ["evaluate", first, second, "--lm", lm, "--out", str(tmp_path / "evaluated"), "--text", text],
    ]
    for command in commands:
        seen: list[torch.device] = []
        with pretended_by_name(seen):
            assert main(command) == 0, (command, capsys.readouterr().err)
        assert PLACE in seen, command
