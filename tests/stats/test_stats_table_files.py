"""Tables as people have them: every spelling opens as the same frame, and what is wrong is named with its row."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import polars as pl
import pytest

from saelab.core.errors import ArtefactError, UserError
from saelab.stats.agreement import read_and_agree
from saelab.stats.inputs import numbers
from saelab.stats.table_files import open_table, saebench_table

ROWS = [{"sae": f"s{i}", "x": float(i), "y": (i * 7) % 5 + 0.5, "level": 8 * i} for i in range(6)]
FRAME = pl.DataFrame(ROWS)
CSV = "sae,x,y,level\n" + "".join(",".join(str(v) for v in r.values()) + "\n" for r in ROWS)
SPELLINGS = {
    "plain.csv": CSV,
    "semicolons.csv": CSV.replace(",", ";"),
    "decimal commas.csv": CSV.replace(",", ";").replace(".", ","),
    "tabs.tsv": CSV.replace(",", "\t"),
    "tabs.csv": CSV.replace(",", "\t"),
    "bars.txt": CSV.replace(",", "|"),
    "mark.csv": "\ufeff" + CSV,
    "blank lines.csv": CSV.replace("\n", "\n\n"),
    "objects.json": json.dumps(ROWS),
    "columns.json": json.dumps({k: [r[k] for r in ROWS] for k in ROWS[0]}),
    "named.json": json.dumps({"rows": ROWS}),
    "lines.jsonl": "\n".join(json.dumps(r) for r in ROWS),
    "lines.ndjson": "\n".join(json.dumps(r) for r in ROWS) + "\n",
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_the_same_table(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(SPELLINGS[name])
    assert open_table(path).equals(FRAME)
    for ending, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        packed = path.with_name(name + ending)
        packed.write_bytes(pack(SPELLINGS[name].encode()))
        assert open_table(packed).equals(FRAME)


def test_a_fraction_after_many_whole_numbers_is_a_number(tmp_path: Path) -> None:
    path = tmp_path / "late.csv"
    path.write_text("x\n" + "1\n" * 500 + "1.5\n")
    assert open_table(path)["x"].sum() == 501.5


@pytest.mark.parametrize("spelling", ["", "NA", "n/a", "NaN", "None", "null", "-", "–", "#N/A", "?", " missing "])
def test_missing_in_every_spelling(spelling: str, tmp_path: Path) -> None:
    """Control: a word that means nothing of the kind is an error that names it and its row."""
    path = tmp_path / "t.csv"
    path.write_text(f"x,y\n1,2\n2,{spelling}\n3,1\n")
    assert open_table(path)["y"].to_list() == [2, None, 1]
    path.write_text("x,y\n1,2\n2,nine\n3,1\n")
    with pytest.raises(UserError, match=r"Column 'y' holds 'nine' in row 2, not numbers\. .*x"):
        numbers(open_table(path), "y")


def test_labels_stay_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,c,d\n007,1e3,true,1\n7,2e3,False,2\n")
    found = open_table(path)
    assert found["a"].to_list() == ["007", "7"], "leading zeros are a name"
    assert found["b"].to_list() == [1000.0, 2000.0] and found["c"].to_list() == [True, False]
    assert found["d"].dtype == pl.Int64


WRONG = {
    "short.csv": ("a,b\n1,2\n3\n", "row 2 has 1 cells and the header 2"),
    "twice.csv": ("a,b,a\n1,2,3\n", "'a' is the name of two columns"),
    "twice.json": ('[{"a": 1, "a": 2}]', "'a' is the name of two columns"),
    "line.jsonl": ('{"a": 1}\n{"a": \n', "line 2"),
    "list.jsonl": ('{"a": 1}\n[1]\n', "row 2 is no object"),
    "number.json": ("3", "neither a list of objects nor an object of columns"),
    "lengths.json": ('{"a": [1, 2], "b": [1]}', "different lengths"),
    "empty.csv": ("\n\n", "no header"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_its_row(name: str, tmp_path: Path) -> None:
    text, words = WRONG[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(ArtefactError, match=words):
        open_table(tmp_path / name)


def test_bytes_that_are_no_table_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\x80\x81")
    with pytest.raises(ArtefactError, match="not text in UTF-8"):
        open_table(tmp_path / "t.csv")
    (tmp_path / "t.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ArtefactError, match="cannot be unpacked"):
        open_table(tmp_path / "t.csv.gz")
    with pytest.raises(UserError, match="not a table saelab reads"):
        (tmp_path / "t.xlsx").write_bytes(b"")
        open_table(tmp_path / "t.xlsx")


def test_an_sae_named_twice_is_refused(tmp_path: Path) -> None:
    """Control: without the name's column the same rows are two SAEs."""
    path = tmp_path / "t.csv"
    path.write_text(CSV + CSV.splitlines()[1] + "\n")
    with pytest.raises(UserError, match=r"sae 's0' stands in rows 1 and 7\. .*--features"):
        read_and_agree(path, x="x", y="y")
    path.write_text("\n".join(line.split(",", 1)[1] for line in path.read_text().splitlines()))
    assert read_and_agree(path, x="x", y="y", axes={})["n"][0] == 7


def result(evaluation: str, sae: str, metrics: dict[str, dict[str, float | None]], release: str = "r") -> str:
    return json.dumps({
        "eval_type_id": evaluation, "eval_config": {"model_name": "pythia-70m"}, "eval_result_metrics": metrics,
        "sae_lens_id": sae, "sae_lens_release_id": release, "eval_result_details": [{"x": 1}],
        "sae_cfg_dict": {"architecture": "topk", "d_sae": 512, "hook_layer": 3},
    })  # fmt: skip


def test_saebenchs_folder_is_a_row_per_sae(tmp_path: Path) -> None:
    for i in range(4):
        core = {"sparsity": {"l0": 10.0 * i, "shared": 1.0}, "quality": {"explained_variance": 0.5, "shared": 2.0}}
        (tmp_path / "core").mkdir(exist_ok=True)
        (tmp_path / "core" / f"r_s{i}_eval_results.json").write_text(result("core", f"s{i}", core))
        if i:
            (tmp_path / f"tpp_{i}.json").write_text(result("tpp", f"s{i}", {"tpp": {"score": 0.1 * i}}))
    (tmp_path / "other.json").write_text("[1, 2]")
    found = saebench_table(tmp_path)
    assert found["sae"].to_list() == [f"r / s{i}" for i in range(4)] and set(found["lm"]) == {"pythia-70m"}
    assert found["core.l0"].to_list() == [0.0, 10.0, 20.0, 30.0]
    assert found["tpp.score"].to_list() == [None, 0.1, 0.2, pytest.approx(0.3)]
    assert {"core.sparsity.shared", "core.quality.shared", "architecture", "layer", "width"} <= set(found.columns)
    (tmp_path / "again.json").write_text(result("core", "s1", {"sparsity": {"l0": 3.0}}))
    with pytest.raises(UserError, match=r"r / s1 has two core results: again\.json and core"):
        saebench_table(tmp_path)
    with pytest.raises(UserError, match="holds no SAEBench results"):
        saebench_table(tmp_path / "nothing")
