"""`saelab instrument`: what it prints, and requests that cannot be met as sentences."""

from pathlib import Path

import pytest
from planted_steering import World

from saelab.cli import main
from saelab.cli.instrument import _show

HERE = ["instrument", "--lm", "smollm2-135m", "--site", "resid_post.15"]


def test_the_tables_and_the_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    found = World(0).gate()
    _show(found)
    out = capsys.readouterr().out
    assert "random dictionary" in out and "no bound" in out and "The instrument sees steering" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--label", "kind"], "--classes"),
        (["--classes", "nowhere.csv", "--label", "kind"], "nowhere.csv"),
        (["--features", "1"], "n_features"),
        (["--doses", "0.3", "0", "--classes", "a.csv", "b.csv", "--label", "kind"], "doses"),
        (["--classes", "a.csv", "b.csv", "--label", "kind"], "not from 2 files"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*HERE, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
