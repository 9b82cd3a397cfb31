"""The example of the repository, run as it stands on real weights."""

import runpy
from pathlib import Path

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_example_runs() -> None:
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "tiny_study.py"))
    table = example["main"]()
    assert table.height == 3
    assert table["fvu"].max() < 0.6
