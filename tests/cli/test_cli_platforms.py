"""Nothing asks for what only Linux has: doctor, a run and its page without affinity, uname, sysconf and /proc."""

import ast
import os
from pathlib import Path
from typing import Any

import polars  # noqa: F401  (asks for uname itself, when it is first imported)
import pytest

import saelab
from saelab.cli import main
from saelab.core.hardware import cores, memory_bytes
from saelab.store.ledger import Ledger
from saelab.store.provenance import machine

ONLY_LINUX = ("sched_getaffinity", "uname", "sysconf")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ONLY_LINUX:
        monkeypatch.delattr(os, name)
    text, there = Path.read_text, Path.exists

    def read_text(path: Path, *args: Any, **named: Any) -> str:
        if str(path).startswith("/proc"):
            raise FileNotFoundError(str(path))
        return text(path, *args, **named)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(Path, "exists", lambda path: not str(path).startswith("/proc") and there(path))


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
