"""A cell's key is its meaning; the executor does each cell once, and goes on after a failure."""

from pathlib import Path

import pytest

from saelab.core.errors import UserError
from saelab.store.ledger import Ledger
from saelab.study.cells import Cell, in_order
from saelab.study.executors import run_in_process


def cells() -> list[Cell]:
    text = Cell("text", "text", {"n": 1})
    train = Cell("train", "a", {"k": 2}, (text,))
    return [text, train, Cell("interp", "a", {}, (train,)), Cell("interp", "b", {}, (train,))]


def test_a_key_is_settings_and_inputs_and_nothing_else() -> None:
    text = Cell("text", "t", {"n": 1})
    assert Cell("text", "t", {"n": 1}, estimate=99.0).key == text.key
    assert Cell("text", "t", {"n": 2}).key != text.key
    other = Cell("text", "t", {"n": 2})
    assert Cell("train", "a", {}, (text,)).key != Cell("train", "a", {}, (other,)).key, "an input's change is a change"


def test_inputs_come_first_and_once() -> None:
    text, train, one, two = cells()
    assert in_order([two, one, train]) == [text, train, two, one]


class Recorder:
    def __init__(self, root: Path, fail_at: str | None = None):
        self.root, self.fail_at, self.calls = root, fail_at, []

    def __call__(self, cell: Cell) -> list[Path]:
        self.calls.append(str(cell))
        if str(cell) == self.fail_at:
            raise UserError("boom")
        path = self.root / f"{cell.stage}.{cell.name}.txt"
        path.write_text(cell.key)
        return [path]


def test_finished_cells_are_not_done_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    first = Recorder(tmp_path, fail_at="interp a")
    with pytest.raises(UserError):
        run_in_process(cells(), first, ledger)
    assert first.calls == ["text text", "train a", "interp a"]
    second = Recorder(tmp_path)
    ran = run_in_process(cells(), second, ledger)
    assert second.calls == ["interp a", "interp b"] == [str(c) for c in ran]
    assert run_in_process(cells(), second, ledger) == []
    (tmp_path / "train.a.txt").write_text("spoilt")
    assert [str(c) for c in run_in_process(cells(), second, ledger)] == ["train a"], (
        "control: a spoilt artefact is redone"
    )


def test_ctrl_c_is_recorded_as_not_done(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")

    def work(cell: Cell) -> list[Path]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_process(cells(), work, ledger)
    assert [r.state for r in ledger.rows()] == ["failed"]
