"""Killed at any moment and started again, a run ends with the same bytes; a damaged checkpoint is named, not used."""

import logging
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from planted import Stored, batches
from served import Runs, hashes, served

from saelab.core.errors import ArtefactError, ResourceError
from saelab.saes.catalogue import training_config
from saelab.store import tensors
from saelab.store.tables import read_table
from saelab.training import checkpoint
from saelab.training.checkpoint import latest
from saelab.training.config import TrainingConfig
from saelab.training.run import run, run_key


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def whole(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The bytes of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    assert runs.finish(folder) == 0
    found = hashes(folder)
    assert len(found) == 6
    return found


def test_sigkill_then_the_same_bytes(runs: Runs, tmp_path: Path, whole: dict[str, str]) -> None:
    for after in (0.1, 0.3):
        runs.kill(tmp_path, after)
    assert runs.finish(tmp_path) == 0
    assert hashes(tmp_path) == whole
    metrics = read_table(tmp_path / "training" / "metrics.parquet")
    assert metrics.group_by("sae", "step").len()["len"].max() == 1
    assert metrics["step"].unique().sort().to_list() == [*range(7, 40, 7), 40]
    assert not (tmp_path / "training" / "checkpoints").exists()


def test_what_a_killed_writer_left_is_taken_away(runs: Runs, tmp_path: Path, whole: dict[str, str]) -> None:
    """Its temporary file is no file of the SAE. Control: of another folder's nothing is touched."""
    names = {name.split("/")[1] for name in whole}
    for folder in (*(tmp_path / "saes" / name for name in names), tmp_path / "training", tmp_path / "other"):
        folder.mkdir(parents=True)
        (folder / ".0123456789abcdef.part").write_bytes(b"half")
    assert runs.finish(tmp_path) == 0
    assert hashes(tmp_path) == whole
    assert [p.parent.name for p in tmp_path.rglob("*.part")] == ["other"]


@pytest.mark.parametrize("write", [1, 6, 9])
def test_death_inside_a_write(runs: Runs, tmp_path: Path, whole: dict[str, str], write: int) -> None:
    assert runs.finish(tmp_path, write) == 137
    assert runs.finish(tmp_path) == 0
    assert hashes(tmp_path) == whole


@pytest.mark.sweep
def test_every_fault_point_and_random_kills(runs: Runs, tmp_path: Path, whole: dict[str, str]) -> None:
    for write in range(1, 100):
        folder = tmp_path / f"write{write}"
        if runs.finish(folder, write) == 0:
            assert write > 30  # four checkpoints of six files, six files of SAEs, the metrics
            break
        assert runs.finish(folder) == 0
        assert hashes(folder) == whole, write
    moments = random.Random(0)
    for i in range(20):
        folder = tmp_path / f"kill{i}"
        runs.kill(folder, moments.uniform(0, 2))
        assert runs.finish(folder) == 0
        assert hashes(folder) == whole, i


def test_sigterm_writes_a_checkpoint_first(runs: Runs, tmp_path: Path, whole: dict[str, str]) -> None:
    child = runs.start(tmp_path)
    while not list(tmp_path.glob("training/checkpoints/*/manifest.json")):
        time.sleep(0.005)
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
    assert runs.wait() in (0, 143)
    assert runs.finish(tmp_path) == 0
    assert hashes(tmp_path) == whole


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    runs: Runs, tmp_path: Path, whole: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert runs.finish(tmp_path, 22) == 137  # in the fourth checkpoint: two whole ones are kept
    folder = tmp_path / "training" / "checkpoints"
    newest = checkpoint._finished(folder)[0]
    key = checkpoint._read(newest).key
    weights = newest / "gated.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="saelab"):
        found = latest(folder, key)
    assert found is not None and found.step < int(newest.name[5:])
    assert "gated.safetensors" in caplog.text and "damaged" in caplog.text
    assert latest(folder, "another run") is None
    assert runs.finish(tmp_path) == 0
    assert hashes(tmp_path) == whole


def test_a_truncated_checkpoint_is_named(runs: Runs, tmp_path: Path, whole: dict[str, str]) -> None:
    assert runs.finish(tmp_path, 22) == 137
    folder = tmp_path / "training" / "checkpoints"
    newest = checkpoint._finished(folder)[0]
    with (newest / "jumprelu.safetensors").open("rb+") as handle:
        handle.truncate(200)
    with pytest.raises(ArtefactError, match=r"jumprelu.safetensors is damaged"):
        checkpoint._read(newest)
    assert runs.finish(tmp_path) == 0
    assert hashes(tmp_path) == whole


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full in the middle of the second checkpoint; with room again the same call ends with the same bytes."""
    configs = {"topk": training_config("topk", level=3, d_in=16, d_sae=48)}
    config = TrainingConfig(steps=24, batch=64, checkpoint_seconds=0)

    def go(name: str) -> list[Path]:
        source = Stored(batches(5, 64, 16))
        return run(config, configs, source, saes=tmp_path / name / "saes", folder=tmp_path / name / "t")

    go("whole")
    left, save = [3], tensors.save_file

    def until_full(*what: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, os.strerror(28))
        save(*what)

    with monkeypatch.context() as patch:
        patch.setattr(tensors, "save_file", until_full)
        with pytest.raises(ResourceError, match="disk is full"):
            go("full")
    found = latest(tmp_path / "full" / "t" / "checkpoints", run_key(config, configs, Stored(batches(5, 64, 16)), 0))
    assert found is not None and found.step == 8
    go("full")
    assert hashes(tmp_path / "full") == hashes(tmp_path / "whole")
