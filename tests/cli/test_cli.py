"""The command line: every verb helps with an example, an error is a sentence with its exit code, nothing needs torch
that does not compute."""

import io
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn

from saelab.cli import VERBS, main
from saelab.cli.progress import Display, JsonLines
from saelab.core.seeds import numpy_generator

DEMO = str(Path(__file__).parents[2] / "src" / "saelab" / "study" / "demo.yaml")


def table(path: Path) -> Path:
    rng = numpy_generator("cli table")
    x = rng.normal(size=15)
    frame = pl.DataFrame(
        {"interpretability": x, "utility": x + rng.normal(size=15), "architecture": ["relu", "topk", "gated"] * 5}
    )
    frame.write_csv(path)
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_helps_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"saelab {verb}" in out and "Example" in out


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)


def test_stats_on_anybodys_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "t.csv")
    assert main(["stats", str(path), "--x", "interpretability", "--y", "utility", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    overall = next(r for r in rows if r["mode"] == "overall")
    assert overall["n"] == 15 and overall["low"] < overall["value"] < overall["high"]


def test_a_wrong_column_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "t.csv")
    assert main(["stats", str(path), "--x", "interpretabilty", "--y", "utility"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("saelab: ") and "interpretability" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "no-such.yaml"], "no-such.yaml"),
        (["report", "no-such-run"], "not a run folder"),
        (["run", "no-such.yaml"], "no-such.yaml"),
    ],
)
def test_missing_files_are_sentences(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_plan_says_what_would_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", DEMO, "--json"]) == 0
    rows = {r["stage"]: r for r in json.loads(capsys.readouterr().out)["stages"]}
    assert rows["steer"]["cells"] == 10 and rows["train"]["cells"] == 3 and rows["total"]["hours"] > 0.05


def test_doctor_names_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["python"].startswith("3.") and "[lm]" in record


def test_stats_and_report_import_no_torch() -> None:
    code = (
        "import sys, saelab.cli.stats, saelab.cli.report, saelab.stats.agreement, saelab.report.page;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    control = "import sys, saelab.study.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", control], check=False).returncode == 1


def test_a_study_loads_libraries_of_statistics_when_it_needs_them() -> None:
    """They take a third of the start, and a finished study needs none."""
    late = "{'scipy.stats', 'sklearn', 'transformers'}"
    for use, loaded in (("pass", 0), ("import scipy.stats", 1)):  # the second: the control
        code = f"import sys, saelab.workflow; {use}; sys.exit(bool({late} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == loaded


def test_figures_of_progress_are_numbers_that_can_be_read() -> None:
    stream = io.StringIO()
    lines = JsonLines(stream)
    lines.interval = -1.0
    with lines.task("training", total=2, unit="steps") as task:
        task.advance(1, **{"tokens/s": 11243.7, "fvu": 0.123456, "last": "a"})
    record = json.loads(stream.getvalue().splitlines()[1])
    assert (record["tokens/s"], record["fvu"], record["last"]) == (11240.0, 0.1235, "a")
    console = Console(file=io.StringIO(), width=60)
    with (
        Progress(TextColumn("{task.fields[figures]}"), console=console) as display,
        Display(display).task("training", total=2, unit="steps") as task,
    ):
        task.advance(1, **{"tokens/s": 11243.7, "fvu": 0.123456, "last": "a"})
        assert display.tasks[0].fields["figures"] == "tokens/s 11,244  fvu 0.1235  last a"
