"""The ledger: a cell is done only while its artefacts are what they were; two processes never hold one cell."""

import multiprocessing
import os
from pathlib import Path

import pytest

from saelab.core.errors import ArtefactError
from saelab.store.ledger import Ledger


def test_done_only_while_the_artefact_is_intact(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    artefact = tmp_path / "a.txt"
    artefact.write_text("right")
    assert not ledger.done("k")
    assert ledger.take("k", "stage", "name") == "taken"
    assert not ledger.done("k"), "running is not done"
    ledger.finish("k", 1.0, [artefact])
    assert ledger.done("k")
    artefact.write_text("wrong")
    assert not ledger.done("k"), "a changed artefact is not done"
    artefact.unlink()
    assert not ledger.done("k"), "a missing artefact is not done"


def test_a_failed_cell_is_recorded_and_can_be_claimed_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.take("k", "stage", "name")
    ledger.fail("k", "boom")
    row = ledger.row("k")
    assert row is not None and row.state == "failed" and row.error == "boom"
    assert ledger.take("k", "stage", "name") == "taken"
    row = ledger.row("k")
    assert row is not None and row.attempts == 2


def _claim(path: Path, queue: "multiprocessing.Queue[str]") -> None:
    queue.put(Ledger(path).take("k", "stage", "name"))


def test_a_living_owner_keeps_its_cell_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    mine = Ledger(path)
    mine.take("k", "stage", "name")
    other = context.Process(target=_claim, args=(path, queue))
    other.start()
    assert queue.get(timeout=60) == "held", "this process lives and holds the cell"
    other.join()
    mine.fail("k", "stopped")
    second = context.Process(target=_claim, args=(path, queue))
    second.start()
    assert queue.get(timeout=60) == "taken"
    second.join()
    assert Ledger(path).take("k", "stage", "name") == "taken", "its owner is dead"


def test_a_broken_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(os.urandom(4096))
    with pytest.raises(ArtefactError, match=r"ledger\.sqlite"):
        Ledger(path)
