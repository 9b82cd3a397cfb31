"""The command line: every verb helps with an example, an error is a sentence with its exit code, nothing needs torch
that does not compute."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from rich.progress import Progress

from saelab.cli import VERBS, _app, main
from saelab.cli.output import fitted, note, settled, show_table
from saelab.cli.progress import Display, JsonLines, TaskLine, _Pace, shown
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


def undescribed(verb: Any) -> list[str]:
    """Names of the parameters that `--help` has no words for."""
    return [a.name for a in verb.assemble_argument_collection(parse_docstring=True) if a.show and not a.parameter.help]


def test_every_flag_of_every_verb_has_words() -> None:
    app = _app()
    assert {verb: undescribed(app[verb]) for verb in VERBS} == {verb: [] for verb in VERBS}

    @app.command
    def bare(*, a: int = 1, methods: int = 1) -> None:
        """Nothing is said.

        Parameters
        ----------
        a:
            Said.
        """

    assert undescribed(app["bare"]) == ["--methods"], "control"


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS) and "--quiet" in out and "--log-level" in out


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
    assert record["python"].startswith("3.") and "[lm]" in record and record["device"] == "cpu"


def test_doctor_says_where_a_device_is_not(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAELAB_DEVICE", "cuda:7")
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"].startswith("missing: There is no device 'cuda:7'")


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


def test_progress_fits_its_terminal_and_cuts_no_number() -> None:
    """At every width whole facts, as many as fit. Control: the widest shows all of them."""
    figures = {"tokens/s": 11243.7, "fvu": 0.123456, "last": "a"}
    said = ["tokens/s 11,244", "fvu 0.1235", "last a"]
    lines = {}
    for width in (20, 60, 80, 120):
        console = Console(file=io.StringIO(), width=width)
        with (
            Progress(TaskLine(width), console=console) as display,
            Display(display).task("training resid_post.15, resid_post.16", total=2000, unit="steps") as task,
        ):
            task.advance(1500, **figures)
            lines[width] = str(TaskLine(width).render(display.tasks[0]))
        assert len(lines[width]) <= width and lines[width].startswith("training")
        assert all(part in lines[width] for part in said) == (width == 120)
        whole = re.split(" {2,}", lines[width])
        known = {"75%", "0:00 left", "0:00", *said, "training", "training resid_post.15, resid_post.16"}
        assert all(part in known or part.endswith("steps/s") for part in whole), lines[width]
    assert lines[60] != lines[120]


def test_no_count_is_beyond_its_total() -> None:
    stream, width = io.StringIO(), 80
    lines = JsonLines(stream)
    with Progress(TaskLine(width), console=Console(file=io.StringIO(), width=width)) as display:
        for shown in (Display(display), lines):
            with shown.task("packing", total=28, unit="contexts") as task:
                task.advance(20)
                task.advance(22)
                if shown is not lines:
                    assert (display.tasks[0].completed, display.tasks[0].total) == (42, 42)
    assert [(r["done"], r["total"]) for r in map(json.loads, stream.getvalue().splitlines())] == [(0, 28), (42, 42)]


@pytest.mark.parametrize("earlier", [True, False])
def test_what_an_earlier_call_did_hurries_no_estimate(earlier: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 of 100 steps in 10 s, after 80 that were there. Control: 80 that count as this call's."""
    now = [0.0]
    monkeypatch.setattr("saelab.cli.progress.time.perf_counter", lambda: now[0])
    pace = _Pace(100)
    pace.advance(80, earlier=earlier)
    assert pace.left is None or not earlier
    now[0] = 10.0
    pace.advance(10)
    assert (pace.done, pace.left) == (90, pytest.approx(10.0 if earlier else 10 / 9))


def test_the_readme_names_every_verb() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (line,) = re.findall(r"^`saelab (demo \| .*)`", readme, re.MULTILINE)
    assert line.split(" | ") == list(VERBS)


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("columns", [4, 12])
def test_a_table_splits_no_word_and_no_number(width: int, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit as a table is a block of lines per row. Control: the narrow table stays one everywhere."""
    frame = pl.DataFrame({f"column_{i} told": [0.20123, -1234567.5] for i in range(columns)} | {"why": ["too few"] * 2})
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout", shown := Terminal())
    show_table(frame, as_json=False, title="All SAEs")
    text = re.sub("\x1b.*?m", "", shown.getvalue())
    assert max(map(len, text.splitlines())) <= width
    assert text.count("0.2012") == columns and text.count("-1,234,568") == columns
    assert len(re.findall(r"\btoo\b", text)) == len(re.findall(r"\bfew\b", text)) == 2
    assert ("│" in text) == (columns == 4)
    monkeypatch.setattr("sys.stdout", piped := io.StringIO())
    show_table(frame, as_json=False)
    assert len(piped.getvalue().splitlines()) == 6, "a pipe gets whole rows"


def test_a_title_is_not_broken_at_the_width_of_a_narrow_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout", shown := Terminal())
    show_table(pl.DataFrame({"a": [1]}), as_json=False, title="Nearest pairs of step 0")
    lines = re.sub("\x1b.*?m", "", shown.getvalue()).splitlines()
    assert lines[0].rstrip() == "Nearest pairs of step 0" and max(map(len, lines[1:])) < len(lines[0].rstrip())


def test_lines_are_broken_between_words_on_a_terminal_only() -> None:
    text = "SAEs: the lift is +0.169 [+0.096, +0.243] and " * 4 + "/a/path/" + "long" * 20
    tokens = fitted("  promotes    " + " ".join(repr(f" tok{i}") for i in range(20)), 60, indent="  ")
    assert max(map(len, tokens.splitlines())) <= 60 and all(f"' tok{i}'" in tokens for i in range(20))
    broken = fitted(text, 60)
    assert broken.split() == text.split() and max(map(len, broken.splitlines()[:-1])) <= 60
    assert fitted(text, None) == text, "control"
    command = "Check it: saelab inspect " + "a/long/path/" * 8 + " --lm smollm2-135m"
    assert fitted(command, 60) == command, "what is copied stays one line"


def test_quiet_and_levels_say_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results and errors stay; notes and progress go. Control: without a flag they are there."""
    for flags, levels in (([], ("warning", "info")), (["--quiet"], ()), (["--log-level", "warning"], ("warning",))):
        assert main(["doctor", *flags]) == 0
        note("a note")
        with shown() as progress, progress.task("work", 2):
            pass
        found = capsys.readouterr()
        assert "python" in found.out
        assert ("a note" in found.err, '"task": "work"' in found.err) == ("warning" in levels, "info" in levels)
    assert main(["--log-level=loud", "doctor"]) == 2 and "'loud'" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--quiet"]) == 2 and "not a run folder" in capsys.readouterr().err
    settled([])
