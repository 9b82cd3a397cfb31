"""Nothing asks for what only Linux has: affinity, uname, sysconf and /proc. A run and its page: test_study_trust.py."""

import ast
from pathlib import Path

import pytest

import saelab
from elsewhere import ONLY_LINUX, leave_linux
from saelab.cli import main
from saelab.core.hardware import cores, memory_bytes
from saelab.store.ledger import Ledger
from saelab.store.provenance import machine


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_linux(monkeypatch)


@pytest.mark.usefixtures("elsewhere")
def test_the_doctor_answers_elsewhere(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAELAB_CACHE", str(tmp_path))
    assert main(["doctor", "--json"]) == 0
    assert '"memory": "unknown"' in capsys.readouterr().out
    assert cores() >= 1 and memory_bytes() is None and int(machine()["cores"]) >= 1


@pytest.mark.usefixtures("elsewhere")
def test_a_ledger_is_kept_elsewhere(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    assert ledger.take("k", "text", "x") == "taken"


def test_no_call_that_only_linux_has_stands_alone() -> None:
    """Names of `os` that other systems lack are asked for with getattr, or inside try."""
    found = []
    for path in Path(saelab.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tried = {n for t in ast.walk(tree) if isinstance(t, ast.Try) for n in ast.walk(t)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ONLY_LINUX and node not in tried:
                found.append(f"{path.name}:{node.lineno} {node.attr}")
    assert not found
