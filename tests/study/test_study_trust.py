"""What stands in a run folder can be believed: inputs are part of keys, artefacts are looked at before they are used, a
folder belongs to one study, and what is damaged is named and made again."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from saelab.cli import main
from saelab.core.errors import ArtefactError, UserError
from saelab.lm.tiny import tiny_lm
from saelab.report.page import write_report
from saelab.saes.formats import load_sae
from saelab.store.files import read_json, sweep
from saelab.store.folders import SteeringFolder
from saelab.store.layout import FORMAT, RunFolder
from saelab.store.ledger import Ledger
from saelab.store.rows import CellRow
from saelab.study import stages
from saelab.study.cells import Cell, stamped
from saelab.study.folder import GONE_ON_WITH, begin, changes, mark
from saelab.study.inputs import input_sums
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.spec import StudyConfig
from tiny_world import Data, world

SAE = "topk.l0_4.resid_post.1"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs and a finished run."""
    base = tmp_path_factory.mktemp("finished")
    run(StudyConfig.parse(world(base / "in")), base / "run")
    return base


@pytest.fixture
def data(finished: Path, tmp_path: Path) -> Data:
    """The study, of the same inputs."""
    found = json.loads(json.dumps(world_of(finished)))
    shutil.copytree(finished / "run", tmp_path / "run")
    return found


def world_of(finished: Path) -> Data:
    return StudyConfig.from_yaml(finished / "run" / "study.yaml").model_dump(mode="json")


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every file that is a function of the study."""
    skipped = ("ledger", "summary.json", "report.html", "metrics.parquet")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(skipped))
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def flip(path: Path, at: float = 0.5) -> None:
    """One bit of a file, at a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def ran_by(monkeypatch: pytest.MonkeyPatch, then: Callable[[Cell], None] = lambda cell: None) -> list[str]:
    """The cells that are computed from now on; `then` happens after each."""
    calls: list[str] = []
    real = stages.do

    def counted(cell: Cell, work: Any) -> list[Path]:
        calls.append(cell.stage)
        files = real(cell, work)
        then(cell)
        return files

    monkeypatch.setattr("saelab.study.run.do", counted)
    return calls


ALL = ["text", "harvest", "train", "interp", "select", "gate", "steer", "stats"]


def test_a_finished_run_is_believed(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control of all that follows."""
    calls, told = ran_by(monkeypatch), []
    before = sums(tmp_path / "run")
    run(StudyConfig.parse(data), tmp_path / "run", tell=told.append)
    assert not calls and not told and sums(tmp_path / "run") == before
    write_report(RunFolder(tmp_path / "run"))
    assert read_json(tmp_path / "run" / "summary.json").get("remade") is None


def test_instructions_replaced_under_their_old_name_are_others(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = Path(data["instructions"]), list[str]()
    before = path.read_text()
    calls = ran_by(monkeypatch)
    try:
        path.write_text(before.replace("number", "figure"))
        run(StudyConfig.parse(data), tmp_path / "run", tell=told.append)
    finally:
        path.write_text(before)
    assert calls == ["gate", "steer", "stats"], "they, and what follows from them"
    assert any("asked.txt is not what it was" in t for t in told)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("what", "again"),
    [("text.jsonl", set(ALL)), ("asked.txt", {"gate", "steer", "stats"}), ("lm", set(ALL))],
)
def test_an_input_replaced_under_its_old_name_is_another_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, again: set[str]
) -> None:
    study, told = StudyConfig.parse(world(tmp_path / "in")), []
    run(study, tmp_path / "run")
    if what == "lm":
        tiny_lm(seed=1).model.save_pretrained(tmp_path / "in" / "lm")
    else:
        path = tmp_path / "in" / what
        path.write_text(path.read_text().replace("number", "figure"))
    calls = ran_by(monkeypatch)
    run(study, tmp_path / "run", tell=told.append)
    assert set(calls) == again and len(calls) == len(again), "that, and all that follows from it"
    assert any("is not what it was" in t and what in t for t in told)
    run(study, tmp_path / "fresh")
    assert sums(tmp_path / "run") == sums(tmp_path / "fresh"), "nothing is left of the old one"


def test_sums_reach_every_cell_that_names_an_input(data: Data) -> None:
    """Also one that is yet to be written: what stands in the settings is looked up, at any depth."""
    study = StudyConfig.parse(data)
    lm, text = study.models[0].lm, study.text.corpus.source
    found = {c.stage: c.sums for c in stamped(cells_of(study), input_sums(study))}
    assert all(lm in found[s] for s in ("text", "harvest", "interp", "select", "gate", "steer"))
    assert text in found["text"] and data["instructions"] in found["steer"] and not found["stats"]
    old, new = (stamped([Cell("text", "new", {"deep": [{"lm": lm}]})], {lm: lambda s=s: s})[0] for s in "ab")
    assert old.key != new.key and old.sums == {lm: "a"}


def test_a_bit_that_flips_between_two_cells_does_not_get_into_results(
    data: Data, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After train was finished and before, or while, its SAE is used: of a run whose interp is to be made again."""
    weights = tmp_path / "run" / "saes" / SAE / "sae_weights.safetensors"
    shutil.rmtree(tmp_path / "run" / "interp")
    flipped: list[str] = []

    def spoil(cell: Cell) -> None:
        if cell.stage == "interp" and not flipped:  # before or after it read?
            flipped.append(cell.stage)
            flip(weights)
        elif cell.stage == "select" and "select" not in flipped and weights.exists():
            flipped.append("select")
            flip(weights)

    calls, told = ran_by(monkeypatch, spoil), []
    run(StudyConfig.parse(data), tmp_path / "run", tell=told.append)
    assert flipped and calls.count("train") == len(flipped) and calls.count("interp") >= 2
    assert any("sae_weights.safetensors" in t for t in told)
    assert sums(tmp_path / "run") == sums(finished / "run")
    remade = read_json(tmp_path / "run" / "summary.json")["remade"]
    assert {r["stage"] for r in remade} == {"train", "interp"}, "control: what was taken away too"


@pytest.mark.parametrize(
    "name", ["tokens", f"saes/{SAE}", "activations", f"interp/{SAE}", f"steering/{SAE}", "stats", "results.json",
             "summary.json", "instrument"],
)  # fmt: skip
def test_what_is_damaged_is_named_and_made_again(data: Data, finished: Path, tmp_path: Path, name: str) -> None:
    """Whatever it is: a file with one other bit, and one that is gone."""
    place, told = tmp_path / "run" / name, []
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    files = [f for f in files if f.name != "report.html"]
    flip(files[0])
    if len(files) > 1:
        files[-1].unlink()
    run(StudyConfig.parse(data), tmp_path / "run", tell=told.append)
    assert sums(tmp_path / "run") == sums(finished / "run")
    for file in {files[0], files[-1]}:
        assert any(str(file.relative_to(tmp_path / "run")) in t for t in told), told
    remade = {r["file"] for r in read_json(tmp_path / "run" / "summary.json")["remade"]}
    assert str(files[0].relative_to(tmp_path / "run")) in remade


def test_a_study_runs_where_there_is_nothing_that_only_linux_has(finished: Path, tmp_path: Path) -> None:
    """`run`, which makes the page, and `report`, in a process of their own: the same bytes."""
    script, out = Path(__file__).parents[1] / "elsewhere.py", tmp_path / "run"
    command = [sys.executable, script, finished / "run" / "study.yaml", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (out / "report.html").exists()
    assert sums(out) == sums(finished / "run")


def test_edited_tables_are_not_laundered(data: Data, finished: Path, tmp_path: Path) -> None:
    """Texts that the stage takes up, with what was read from them: another number in each is not believed."""
    steps = SteeringFolder(tmp_path / "run" / "steering" / SAE)
    for path in sorted(steps.texts.iterdir()):
        table = pl.read_parquet(path, glob=False)
        numbers = [c for c, kind in table.schema.items() if kind.is_float()]
        table.with_columns(pl.col(*numbers) + 1.0).write_parquet(path)
    assert sums(tmp_path / "run") != sums(finished / "run"), "control: something was edited"
    run(StudyConfig.parse(data), tmp_path / "run")
    assert sums(tmp_path / "run") == sums(finished / "run")


def test_readers_look_at_sums_where_a_run_has_them(data: Data, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = RunFolder(tmp_path / "run")
    load_sae(folder.sae(SAE))
    flip(folder.sae(SAE) / "sae_weights.safetensors")
    with pytest.raises(ArtefactError, match=r"sae_weights.safetensors .* damaged"):
        load_sae(folder.sae(SAE))
    alone = tmp_path / "alone"
    shutil.copytree(folder.sae(SAE), alone)
    load_sae(alone)  # control: nothing says what it was
    assert main(["report", str(folder.root)]) == 0, "the page reads no weights"
    flip(folder.stats.root / "saes.parquet")
    capsys.readouterr()
    assert main(["report", str(folder.root)]) == 3
    assert "saes.parquet" in capsys.readouterr().err


def test_changed_settings_are_refused_and_nothing_is_touched(data: Data, finished: Path, tmp_path: Path) -> None:
    changed = json.loads(json.dumps(data))
    changed["models"][0]["grids"][0]["d_sae"] = 40
    changed["seed"] = 1
    before = sums(tmp_path / "run")
    with pytest.raises(UserError, match=r"d_sae: 48, now 40") as found:
        run(StudyConfig.parse(changed), tmp_path / "run")
    assert "--out" in str(found.value.hint) and "--replace" in str(found.value.hint)
    assert sums(tmp_path / "run") == before
    told: list[str] = []
    run(StudyConfig.parse(changed), tmp_path / "run", replace=True, tell=told.append)
    assert any(t.startswith("Replaced") and "files" in t for t in told)
    assert [s["width"] for s in read_json(tmp_path / "run" / "results.json")["saes"]] == [40]


def test_additions_are_accepted_and_told(data: Data, tmp_path: Path) -> None:
    data["models"][0]["grids"][0]["levels"] = [4, 6]
    data["steering"]["arms"].insert(0, {"criterion": "output_score", "n": 1})
    data["selection"]["criteria"].append("output_score")
    told: list[str] = []
    run(StudyConfig.parse(data), tmp_path / "run", tell=told.append)
    said = " ".join(told)
    assert "topk.l0_6.resid_post.1 is new" in said and "output_score" in said and "added: interp topk.l0_6" in said
    assert [s["level"] for s in read_json(tmp_path / "run" / "results.json")["saes"]] == [4, 6]


def test_two_launchers_of_other_settings_do_not_share_a_cell(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    assert first.take("a", "train", "x") == "taken"
    with pytest.raises(UserError, match="other settings"):
        second.take("b", "train", "x")
    with pytest.raises(UserError, match="other settings"):
        second.drop(["a"])
    first.fail("a", "boom")
    assert second.take("b", "train", "x") == "taken", "control: of a failed one nothing is left to keep"
    assert [r.key for r in second.rows()] == ["b"]


def test_a_launcher_that_is_refused_leaves_the_study_of_the_other(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an empty folder both pass the first look; the first to sign in writes its study down."""
    monkeypatch.setattr("saelab.study.folder.WRITTEN", 0.1)
    folder, first = RunFolder(tmp_path / "both"), StudyConfig.parse(data)
    other = StudyConfig.parse(data | {"seed": 1})
    folder.begin()
    with closing(Ledger(folder.ledger)) as ledger:
        begin(first, folder, ledger)
        with closing(Ledger(folder.ledger)) as beside:
            begin(first, folder, beside)  # control: two of one study
        with pytest.raises(UserError, match="Another launcher works"):
            run(other, folder.root)
        assert StudyConfig.from_yaml(folder.study) == first
    with closing(Ledger(folder.ledger)) as ledger:
        begin(other, folder, ledger)
    assert StudyConfig.from_yaml(folder.study) == other, "control: it was there no more"


def test_launchers_that_begin_at_once_do_not_sweep_each_other_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first signs in, and clears the folder, while another puts the folder's mark in place."""
    folder, real = RunFolder(tmp_path / "run"), Path.replace

    def swept(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        if other_marks:
            folder.begin()
        sweep(folder.root)
        return real(self, target)

    for other_marks in (False, True):
        monkeypatch.setattr(Path, "replace", swept)
        if other_marks:
            mark(folder)
            assert folder.format == FORMAT
        else:
            with pytest.raises(UserError, match="could not be written"):  # control: then there is none
                mark(folder)


def test_a_cell_without_files_is_never_done(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.take("a", "text", "x")
    ledger.finish("a", 1.0, [])
    assert not ledger.done("a") and ledger.take("a", "text", "x") == "taken"


def test_what_a_former_attempt_left_is_cleared_unless_it_is_the_same_attempt(tmp_path: Path) -> None:
    """Also where the launcher was killed between taking and clearing."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.take("a", "train", "x")
    assert "a" in ledger.begun_anew
    ledger.fail("a", "killed before it cleared")
    ledger.take("a", "train", "x")
    assert "a" in ledger.begun_anew
    ledger.cleared("a")
    ledger.fail("a", "killed in its work")
    ledger.take("a", "train", "x")
    assert "a" not in ledger.begun_anew, "control: it goes on"


def test_every_place_that_is_gone_on_with_holds_what_its_stage_writes(data: Data, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    rows = {(r.stage, r.name): r for r in Ledger(folder.ledger).rows()}
    for cell in cells_of(StudyConfig.parse(data)):
        if cell.stage in GONE_ON_WITH:
            places = GONE_ON_WITH[cell.stage](cell, folder)
            for name in rows[cell.stage, cell.name].artefacts:
                assert any(place in (folder.root / name).parents for place in places), name


def test_what_grows_and_what_changes() -> None:
    def told(old: Data, new: Data) -> tuple[bool, bool]:
        row = Cell("steer", "x", old)
        held = CellRow(row.key, "steer", "x", "done", 1, 1.0, {}, None, row.own, {}, False)
        found = changes([Cell("steer", "x", new)], [held])
        return bool(found.told), bool(found.refused)

    assert told({"arms": [1]}, {"arms": [2, 1]}) == (True, False)
    assert told({"arms": [1, 2]}, {"arms": [1]}) == (False, True)
    assert told({"factors": [1]}, {"factors": [1, 2]}) == (False, True), "it would change what was chosen"
    assert told({"saes": {"a": {"k": 1}}}, {"saes": {"a": {"k": 1}, "b": {}}}) == (True, False)
    assert told({"saes": {"a": {"k": 1}}}, {"saes": {"a": {"k": 2}, "b": {}}}) == (True, True)
    assert told({"a": 1}, {"a": 1}) == (False, False)
