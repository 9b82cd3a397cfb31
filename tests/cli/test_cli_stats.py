"""`saelab stats` for a person: one table of 80 columns, what was left out, and doors to other questions."""

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from saelab.cli import main
from saelab.core.seeds import numpy_generator


def study(path: Path, *, hole: bool = False) -> Path:
    """Three LMs of twelve SAEs; y follows x and z does not; l0 drives nothing."""
    e = numpy_generator("test cli stats").standard_normal((4, 36))
    table = pl.DataFrame(
        {"sae": [f"sae {i}" for i in range(36)], "lm": np.repeat(["a-language-model", "b", "c"], 12),
         "architecture": ["topk", "jumprelu"] * 18, "x": e[0], "y": 0.8 * e[0] + 0.6 * e[1], "z": e[2], "l0": e[3]}
    )  # fmt: skip
    if hole:
        table = table.with_columns(y=pl.when(pl.col("sae") == "sae 3").then(None).otherwise("y"))
    table.write_csv(path)
    return path


def asked(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["stats", *args]) == 0
    return capsys.readouterr().out


def test_one_table_of_eighty_columns_says_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(study(tmp_path / "t.csv", hole=True))
    out = asked(capsys, path, "--x", "x", "--y", "y")
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "missing" not in out.replace("a score is missing", ""), "what does not apply is blank"
    for words in (
        "x against y", "inside clusters, like these", "architecture topk", "lm a-language-model", "psi of lm",
        "BCa bootstrap",
        "3 values of lm: no cluster", "exact permutation", "permutation within lm", "Holm over: 5 groups (reported)",
        "left out: 1 rows",
    ):  # fmt: skip
        assert words in out, words
    rows = json.loads(asked(capsys, path, "--x", "x", "--y", "y", "--json"))
    overall = next(line.split() for line in out.splitlines() if line.startswith("all "))
    assert overall[1] == f"{rows[0]['value']:.2f}" and rows[0]["n"] == 35


def test_doors_to_the_other_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(study(tmp_path / "t.csv"))
    out = asked(capsys, path, "--x", "x", "--y", "y", "--partial", "l0", "z", "--difference", "z", "--cluster", "lm")
    assert "given l0, z, inside lm" in out and "given l0, z, mean over lm" in out and "less tau with z" in out
    difference = [line for line in out.splitlines() if "less tau with z" in line]
    assert len(difference) == 4, "rows, clusters, these LMs, LMs like these"
    assert max(len(line) for line in out.splitlines()) <= 80


def test_features_are_compared_inside_saes_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are features: pooled without a word they are refused."""
    e = numpy_generator("test cli features").standard_normal((2, 60))
    own = np.repeat(np.arange(4), 15)
    pl.DataFrame({"sae": own, "x": 5 * own + e[0], "y": -5 * own + e[0] + 0.5 * e[1]}).write_csv(tmp_path / "f.csv")
    path = str(tmp_path / "f.csv")
    assert main(["stats", path, "--x", "x", "--y", "y"]) == 2
    assert "stands in rows 1 and 2" in capsys.readouterr().err
    out = asked(capsys, path, "--x", "x", "--y", "y", "--features")
    these = next(line for line in out.splitlines() if line.startswith("mean inside sae, these"))
    assert float(these.split()[4]) > 0.3, "against each other between SAEs, with each other inside"
    assert "permutation within SAEs" in out and "sae 3" in out
    assert main(["stats", path, "--x", "x", "--y", "y", "--features", "--partial", "x"]) == 2


def test_a_scatter_is_a_picture_of_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, picture = str(study(tmp_path / "t.csv", hole=True)), tmp_path / "p.svg"
    asked(capsys, path, "--x", "x", "--y", "y", "--plot", str(picture))
    root = ElementTree.fromstring(picture.read_text())
    assert sum("sae " in (t.text or "") for t in root.iter("{http://www.w3.org/2000/svg}title")) == 35
    assert "1 rows without a score left out" in picture.read_text()
    assert main(["stats", path, "--x", "x", "--y", "y", "--plot", str(tmp_path / "p.png")]) == 2


def test_a_table_or_saebench_is_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--x", "x", "--y", "y"]) == 2
    assert "--saebench FOLDER" in capsys.readouterr().err
    for i in range(5):
        record = {
            "eval_type_id": "core",
            "eval_result_metrics": {"s": {"l0": i, "fvu": (i * 3) % 5}},
            "sae_lens_id": str(i),
        }
        (tmp_path / f"{i}.json").write_text(json.dumps(record))
    assert "core.l0 against core.fvu" in asked(capsys, "--saebench", str(tmp_path), "--x", "core.l0", "--y", "core.fvu")
