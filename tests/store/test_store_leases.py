"""Leases: a living launcher keeps its cells under any host name, a dead, stopped or unreachable one loses them, and one
that has lost them puts nothing in place."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from saelab.core.errors import ResourceError, UserError
from saelab.store import files, leases
from saelab.store.files import write_text
from saelab.store.leases import Launcher, Watch
from saelab.store.ledger import Ledger
from saelab.study.cells import Cell
from saelab.study.executors import run_in_process

HOLDER = """
import sys, time, platform
from pathlib import Path
from saelab.core.errors import SaelabError
from saelab.store import leases
from saelab.store.files import write_text
from saelab.store.ledger import Ledger
root, host, boot = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
platform.node = lambda: host
if boot:
    leases._boot = lambda: boot
leases.BEAT = 0.05
ledger = Ledger(root / "ledger.sqlite")
print(ledger.take("k", "stage", "name"), flush=True)
sys.stdin.readline()
try:
    write_text(root / "artefact.txt", "of the first")
    ledger.finish("k", 1.0, [root / "artefact.txt"])
    print("finished", flush=True)
except SaelabError as error:
    print(error.exit_code, error.message, flush=True)
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "PATIENCE", 0.5)
    monkeypatch.setattr(leases, "BEAT", 0.05)


class Holder:
    """A process that holds the cell k until it is told to finish it."""

    def __init__(self, root: Path, host: str = "one", boot: str = "", wrap: tuple[str, ...] = ()):
        command = [*wrap, sys.executable, "-c", HOLDER, str(root), host, boot]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "taken\n"

    def go_on(self) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    found = Holder(tmp_path)
    yield found
    found.end()


def take(ledger: Ledger) -> str:
    return ledger.take("k", "stage", "name")


def taken_within(ledger: Ledger, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if take(ledger) == "taken":
            return True
        time.sleep(0.05)
    return False


def test_a_killed_launcher_under_another_host_name_is_taken_over_at_once(
    tmp_path: Path, holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "renamed")
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert take(ledger) == "held", "control: it lives, whatever this machine is called now"
    holder.end()
    assert take(ledger) == "taken"
    row = ledger.row("k")
    assert row is not None and row.attempts == 2


def test_a_zombie_does_not_live(tmp_path: Path, holder: Holder) -> None:
    holder.process.kill()  # and nobody waits for it
    while leases._stat(holder.process.pid)[0] != "Z":
        time.sleep(0.01)
    os.kill(holder.process.pid, 0)  # control: its number is still there
    assert take(Ledger(tmp_path / "ledger.sqlite")) == "taken"


@pytest.mark.usefixtures("quick")
def test_a_stopped_launcher_that_wakes_up_publishes_nothing(tmp_path: Path, holder: Holder) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with ledger._write():  # so that it is not stopped within a transaction of its own
        os.kill(holder.process.pid, signal.SIGSTOP)
    assert take(ledger) == "held", "it may go on"
    assert taken_within(ledger, 20)
    write_text(tmp_path / "artefact.txt", "of the second")
    ledger.finish("k", 1.0, [tmp_path / "artefact.txt"])
    before = ledger.row("k")
    os.kill(holder.process.pid, signal.SIGCONT)
    assert "5 This launcher stood still" in holder.go_on()
    assert (tmp_path / "artefact.txt").read_text() == "of the second" and ledger.row("k") == before
    assert not list(tmp_path.glob(f".*{files.PART}"))


def test_a_launcher_that_was_not_stopped_finishes(tmp_path: Path, holder: Holder) -> None:
    """Control of the last."""
    assert holder.go_on() == "finished\n"
    assert take(Ledger(tmp_path / "ledger.sqlite")) == "done"


@pytest.mark.skipif(shutil.which("unshare") is None or os.getuid() != 0, reason="needs name spaces")
@pytest.mark.usefixtures("quick")
def test_a_launcher_in_another_space_of_process_numbers_is_known_by_its_heartbeat(tmp_path: Path) -> None:
    """Its number means another process here, or none."""
    holder = Holder(tmp_path, wrap=("unshare", "-pf", "--mount-proc", "--kill-child"))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert not taken_within(ledger, 2.0), "it lives: both must not train one cell"
    holder.end()
    assert taken_within(ledger, 20)


@pytest.mark.usefixtures("quick")
def test_another_machine_is_named_and_after_a_restart_it_is_not_waited_for(tmp_path: Path) -> None:
    holder = Holder(tmp_path, host="there", boot="another boot")
    cell = Cell("text", "t", {})
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with ledger._write() as db:
        db.execute("UPDATE cells SET key = ?", (cell.key,))
    with pytest.raises(UserError, match=r"Another machine works on .*process \d+ on there"):
        run_in_process([cell], lambda c: [], ledger)
    holder.end()
    assert run_in_process([cell], lambda c: [], Ledger(tmp_path / "ledger.sqlite")) == [cell]


def test_a_launcher_gives_back_what_it_holds(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    assert take(first) == "taken" and take(second) == "held"
    first.close()
    assert take(second) == "taken"
    with pytest.raises(ResourceError, match="another took over"):
        first.finish("k", 1.0, [])
    del second
    assert take(Ledger(tmp_path / "ledger.sqlite")) == "taken", "one that was dropped holds nothing"


def test_who_lives() -> None:
    here = Launcher.here()
    assert here.state() == "living" and not here.elsewhere
    assert replace(here, started="1").state() == "dead", "a number that was given out again"
    assert replace(here, pid=2**22 + 1).state() == "dead"
    assert replace(here, host="x").state() == "living"
    assert replace(here, boot="x").state() == replace(here, space="x").state() == "unsure"


def test_a_heartbeat_that_goes_on_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(leases.time, "monotonic", lambda: now[0])
    watch = Watch()
    assert not watch.silent(1, 5)
    now[0] = leases.PATIENCE + 1
    assert not watch.silent(1, 6) and 1 in watch.moved
    now[0] *= 2
    assert watch.silent(1, 6), "control"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    """Neither a temporary name nor a folder nor the file itself; the run folder may be a link."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "own.txt").write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    ledger = Ledger(run / "ledger.sqlite")
    take(ledger)
    (run / "interp").symlink_to(victim)
    with pytest.raises(UserError, match="is a link"):
        write_text(run / "interp" / "own.txt", "theirs")
    (run / "a.json").symlink_to(victim / "own.txt")
    write_text(run / "a.json", "theirs")
    assert (victim / "own.txt").read_text() == "mine" and (run / "a.json").read_text() == "theirs"
    (run / "other.sqlite").symlink_to(victim / "own.txt")
    with pytest.raises(UserError, match="is a link"):
        Ledger(run / "other.sqlite")
    linked = tmp_path / "linked"
    linked.symlink_to(run)
    write_text(linked / "b.json", "control")


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "deep" / f".0123{files.PART}"
    left.parent.mkdir()
    left.write_text("half")
    (tmp_path / "deep" / ".kept").write_text("control")
    first = Ledger(tmp_path / "ledger.sqlite")
    assert left.exists(), "looking is no start"
    take(first)
    assert not left.exists() and (tmp_path / "deep" / ".kept").exists()
    left.write_text("half")
    Ledger(tmp_path / "ledger.sqlite").take("other", "stage", "another")
    assert left.exists(), "another launcher lives: it may be its own"
