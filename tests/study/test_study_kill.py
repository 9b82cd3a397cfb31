"""A study killed with SIGKILL, and two launchers on one folder, in processes of their own."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from saelab.store.ledger import Ledger
from saelab.study.cells import Cell
from saelab.study.executors import run_in_process
from saelab.study.spec import StudyConfig

TOOL = Path(__file__).parents[2] / "tools" / "kill_study.py"


@pytest.mark.sweep
def test_killed_and_gone_on_says_the_same(study: StudyConfig, tmp_path: Path) -> None:
    """Ten kills by hand: `python tools/kill_study.py src/saelab/study/demo.yaml --kills 10 --out ...`."""
    path = tmp_path / "study.yaml"
    path.write_text(study.to_yaml())
    command = [sys.executable, str(TOOL), str(path), "--kills", "2", "--out", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "the same" in found.stdout


def chain(n: int) -> list[Cell]:
    """A cell that all others need, and n others."""
    first = Cell("text", "first", {})
    return [first, *(Cell("interp", str(i), {}, (first,)) for i in range(n))]


def test_two_launchers_share_a_folder(tmp_path: Path) -> None:
    """Threads stand for processes: each launcher has a ledger of its own, and nothing else in common but the folder."""
    calls: list[tuple[str, str]] = []
    together = threading.Barrier(2, timeout=30)

    class Launcher(threading.Thread):
        def run(self) -> None:
            ledger = Ledger(tmp_path / "ledger.sqlite")
            together.wait()
            self.ran = run_in_process(chain(12), self.work, ledger)

        def work(self, cell: Cell) -> list[Path]:
            calls.append((str(cell), self.name))
            path = tmp_path / f"{cell.name}.txt"
            path.write_text(cell.key)
            threading.Event().wait(0.05)
            return [path]

    launchers = [Launcher(), Launcher()]
    for launcher in launchers:
        launcher.start()
    for launcher in launchers:
        launcher.join(60)
    names = [name for name, _ in calls]
    assert sorted(names) == sorted(str(c) for c in chain(12)), "every cell once"
    assert {who for _, who in calls} == {launcher.name for launcher in launchers}, "control: both did some"
    assert all(row.attempts == 1 and row.state == "done" for row in Ledger(tmp_path / "ledger.sqlite").rows())


def test_a_cell_finished_between_looking_and_taking_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other launcher finishes the cell just after this one has looked at its row."""
    ledger, other = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    real, looked = ledger.row, []

    def row(key: str):
        found = real(key)
        if not looked:
            looked.append(key)
            assert other.take("k", "text", "t") == "taken"
            (tmp_path / "made.txt").write_text("made")
            other.finish("k", 1.0, [tmp_path / "made.txt"])
        return found

    monkeypatch.setattr(ledger, "row", row)
    assert ledger.take("k", "text", "t") == "done"
