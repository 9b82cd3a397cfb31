"""The paper's study at the scale of a rehearsal: the same grid, every stage, from the stream, on Ray."""

import subprocess
import sys
from pathlib import Path

import pytest

from saelab.store.layout import RunFolder
from saelab.store.ledger import Ledger
from saelab.study.plan import cells_of
from saelab.study.scales import read_study
from saelab.study.spec import saes_of
from saelab.study.streams import streamed

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "studies" / "paper.yaml"


def test_the_rehearsal_has_the_shape_of_the_study() -> None:
    study, paper = read_study(PAPER, "rehearsal"), read_study(PAPER)
    own, theirs = ([(s.architecture, s.level) for s in saes_of(one)] for one in (study, paper))
    assert own == theirs and len(own) == 90
    assert all(streamed(one, m) for one in (study, paper) for m in one.models)
    stages = {c.stage for c in cells_of(study)}
    # What only a judge that is a language model asks for is missing, and what only the embedded judge does is there.
    assert {c.stage for c in cells_of(paper)} - stages == {"anchors"}
    assert stages - {c.stage for c in cells_of(paper)} == {"calibrate", "match"}
    assert [sum(c.stage == "train" for c in cells_of(one)) for one in (study, paper)] == [15, 15]


@pytest.mark.sweep
def test_the_rehearsal_goes_through(tmp_path: Path) -> None:
    """All of it by hand: `python tools/rehearsal.py FOLDER`, with its time."""
    command = [sys.executable, str(ROOT / "tools" / "rehearsal.py"), str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "90 SAEs" in found.stdout
    rows = Ledger(RunFolder(tmp_path / "run").ledger).rows()
    assert len(rows) > 300 and all(row.state == "done" for row in rows)
