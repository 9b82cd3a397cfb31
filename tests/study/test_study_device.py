"""A whole study on an accelerator: every stage runs there, and its tables are those of the CPU.

The accelerator is pretended (pretended.py); what a real one's kernels compute, and how fast, cannot be seen here.
"""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from pretended import PLACE, There, pretended_by_name
from tiny_world import world
from torch.nn.attention import SDPBackend, sdpa_kernel

from saelab.core.errors import UserError
from saelab.core.hardware import DEVICE, device_of
from saelab.lm.model import LanguageModel
from saelab.store.layout import RunFolder
from saelab.study.spec import StudyConfig
from saelab.workflow import run_study

TABLES = ("steered", "saes", "arms", "selection")


def asked(data: dict[str, Any], device: str, trained: str = "cpu") -> StudyConfig:
    data = json.loads(json.dumps(data))
    (model,) = data["models"]
    model["grids"][0] |= {"architectures": ["topk", "jumprelu"], "sites": ["resid_post.0", "resid_post.1"]}
    model["paths"] = [{"architecture": "jumprelu", "level": 4, "sites": ["resid_post.0", "resid_post.1"]}]
    model["device"], data["training"]["device"] = device, trained
    data["selection"] = {"criteria": ["kl", "delta_confidence", "output_score"], "positions": "all"}
    return StudyConfig.parse(data)


def test_a_whole_study_there_is_the_study_here(tmp_path: Path) -> None:
    seen: list[torch.device] = []
    data = world(tmp_path / "world")
    with sdpa_kernel(SDPBackend.MATH):
        run_study(asked(data, "cpu"), tmp_path / "here")
    with sdpa_kernel(SDPBackend.MATH), pretended_by_name(seen):
        run_study(asked(data, str(PLACE)), tmp_path / "there")
    print(set(seen))
    here, there = RunFolder(tmp_path / "here"), RunFolder(tmp_path / "there")
    assert there.report.is_file()
    ours, theirs = (json.loads((r.root / "results.json").read_text()) for r in (here, there))
    print(differences(ours, theirs))


def differences(ours: Any, theirs: Any, at: str = "") -> list[str]:
    """Where two records differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [d for k in ours.keys() | theirs.keys() for d in differences(ours.get(k), theirs.get(k), f"{at}.{k}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [d for i, (a, b) in enumerate(zip(ours, theirs)) for d in differences(a, b, f"{at}[{i}]")]
    if isinstance(ours, float) and isinstance(theirs, float):
        return [] if theirs == pytest.approx(ours, rel=1e-3, abs=1e-5) else [f"{at}: {ours} {theirs}"]
    return [] if ours == theirs else [f"{at}: {ours} {theirs}"]
