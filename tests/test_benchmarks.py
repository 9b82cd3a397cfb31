"""The script for a card runs to its end on what there is: at toy sizes, and on the pretended accelerator."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from pretended import PLACE, pretended_by_name

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
SAME = 1e-3


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.sweep), str(PLACE)])
def test_every_part_for_a_card_runs(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", device, "--size", "toy", "--json", str(kept)])
    seen: list[torch.device] = []
    with pretended_by_name(seen):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    rows = json.loads(kept.read_text())
    stopped = [row for row in rows if row["value"] in ("stopped", "not begun")]
    assert not stopped and len(rows) > 20
    differences = [row["value"] for row in rows if row["aim"] == "under 1e-3"]
    assert len(differences) >= 8 and max(differences) < SAME
