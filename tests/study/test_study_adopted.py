"""SAEs that exist in a study: the tables of their grid, a state for what cannot be scored, one sentence for the rest.

The SAEs of a tiny grid are adopted in other studies, from its run folder and from other layouts.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from saelab import evaluate, to_saebench
from saelab.cli import main
from saelab.core.errors import ArtefactError, UserError
from saelab.saes.base import Sae
from saelab.saes.formats import load_sae, save_sae
from saelab.saes.given import given_sae, sum_of
from saelab.store.layout import RunFolder
from saelab.study.adopt import standing
from saelab.study.opening import opened
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.spec import StudyConfig, saes_of
from saelab.workflow import run_study

Data = dict[str, Any]
NAMES = ("topk.l0_4.resid_post.1", "jumprelu.l0_8.resid_post.1", "jumprelu.l0_8.resid_post.2")
TABLES = ("interp", "selection", "instrument", "steering", "matching", "stats")
SCORES = ("l0", "fvu", "ce_recovered", "dead_share", "interpretability", "auroc", "random_fvu")


def sizes(data: Data) -> Data:
    """Three SAEs, of which two are steered, without ratings."""
    grids = [
        {"sites": ["resid_post.1"], "architectures": ["topk"], "levels": [4], "d_sae": 48},
        {"sites": ["resid_post.1"], "architectures": ["jumprelu"], "levels": [8], "d_sae": 48},
        {"sites": ["resid_post.2"], "architectures": ["jumprelu"], "levels": [8], "d_sae": 48, "steer": False},
    ]
    data["models"][0]["grids"] = grids
    data["text"] |= {"train_contexts": 96}
    data["interp"] |= {"n_scored": 16}
    data["instrument"] |= {"doses": [0.01], "contexts": 96}
    return data | {"steering": {"arms": [{"criterion": "output_score", "n": 1}, {"random": 3}], "ratings": False}}


@pytest.fixture(scope="session")
def grids(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """The finished grid, once it was asked for."""
    return {}


@pytest.fixture
def grid(study_data: Data, grids: dict[str, RunFolder], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    if not grids:
        folder = tmp_path_factory.mktemp("grid")
        run_study(StudyConfig.parse(sizes(study_data)), folder)
        grids["run"] = RunFolder(folder)
    return grids["run"]


def adopting(data: Data, saes: list[Data], **more: Any) -> Data:
    """The same study with SAEs that exist instead of its grids."""
    data = sizes(data) | more
    (model,) = data["models"]
    return data | {"models": [{k: v for k, v in model.items() if k != "grids"} | {"saes": saes}]}


def spoilt(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a native folder with other weights."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "sae_weights.safetensors")
    change(weights)
    save_file(weights, folder / "sae_weights.safetensors")
    return folder


def bare(source: Path, folder: Path, **config: Any) -> Path:
    """The folder as SAELens itself writes it: without saelab's notes on site, level and training."""
    shutil.copytree(source, folder)
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg["metadata"] = {k: cfg["metadata"][k] for k in ("sae_lens_version", "model_name", "hook_name")}
    (folder / "cfg.json").write_text(json.dumps(cfg | config))
    return folder


def test_a_grids_saes_from_elsewhere_give_its_tables_to_the_byte(
    study_data: Data, grid: RunFolder, tmp_path: Path
) -> None:
    """Beside them two that cannot be scored: they have a state and a sentence, and change no other number."""
    nan = spoilt(grid.sae(NAMES[0]), tmp_path / "nan", lambda w: w["W_dec"].fill_(torch.nan))
    saes = [{"ref": f"path:{grid.sae(name)}", "steer": name != NAMES[2]} for name in NAMES]
    saes[1:1] = [{"ref": f"path:{nan}"}, {"ref": f"path:{grid.sae(NAMES[1])}", "name": "off", "site": "layers.3"}]
    page = run_study(StudyConfig.parse(adopting(study_data, saes)), tmp_path / "run").read_text()
    mine = RunFolder(tmp_path / "run")
    for folder in TABLES:
        for file in sorted(p for p in (grid.root / folder).rglob("*") if p.is_file()):
            other = mine.root / file.relative_to(grid.root)
            if file.name != "saes.parquet":
                assert other.read_bytes() == file.read_bytes(), other
    table, theirs = mine.stats.table("saes").read(), grid.stats.table("saes").read()
    assert table.filter(pl.col("state") == "ok").equals(theirs) and not table["state"].null_count()
    lost = table.filter(pl.col("state") != "ok")
    assert dict(lost.select("sae", "state").iter_rows()) == {"nan": "damaged", "off": "wrong_reading"}
    assert lost.select("l0", "fvu", "interpretability", "n_steered").null_count().sum_horizontal().item() == 8
    assert not mine.sae("nan").exists() and not mine.interp("off").root.exists()
    rows = {row["sae"]: row for row in mine.results.read()["adopted"]}
    assert "NaN" in rows["nan"]["sentence"] and "Wrong as declared" in rows["off"]["sentence"]
    assert {row["level_from"] for row in rows.values()} == {"stated"} and rows[NAMES[1]]["level"] == 8
    verdict = mine.results.read()["verdict"]
    assert "nan is not scored: It holds NaN" in verdict and "off is not scored: Wrong as declared" in verdict
    assert "SAEs from elsewhere" in page and "wrong conventions" in page and "adopted, interpreted" in page
    assert "SAEs from elsewhere" not in grid.report.read_text(), "a study that adopts none says nothing of it"


def test_other_layouts_and_a_level_that_is_measured(study_data: Data, grid: RunFolder, tmp_path: Path) -> None:
    """A JumpReLU's folder of SAELens states no level: its L0 is measured, and its random dictionary has that L0."""
    plain = bare(grid.sae(NAMES[1]), tmp_path / "plain")
    other = spoilt(grid.sae(NAMES[1]), tmp_path / "other", lambda w: w["b_dec"].add_(0.02))
    save_sae(load_sae(grid.sae(NAMES[0])), tmp_path / "sparsify", "sparsify")
    saes = [
        {"ref": f"path:{tmp_path / 'sparsify'}", "name": NAMES[0], "site": "resid_post.1"},
        {"ref": f"path:{plain}", "name": NAMES[1]},
        {"ref": f"path:{other}", "as_read": True, "steer": False},
    ]
    data = adopting(study_data, saes, name="layouts")
    data["models"][0]["paths"] = []
    study = opened(StudyConfig.parse(data))
    assert [s.level for s in saes_of(study)] == [4, None, 8]
    with pytest.raises(ArtefactError, match="not been measured"):
        _ = saes_of(study)[1].known_level
    mine = run(study, tmp_path / "run")
    table = {row["sae"]: row for row in mine.stats.table("saes").read().to_dicts()}
    for name in NAMES[:2]:
        theirs = next(r for r in grid.stats.table("saes").read().to_dicts() if r["sae"] == name)
        assert {c: table[name][c] for c in SCORES} == pytest.approx({c: theirs[c] for c in SCORES}, abs=1e-6)
        assert table[name]["architecture"] == theirs["architecture"]
    assert abs(table["other"]["fvu"] - table[NAMES[1]]["fvu"]) > 1e-6, "other weights give other numbers"
    level = mine.adopted(NAMES[1]).read()["level"]
    assert table[NAMES[1]]["level"] == level == round(mine.adopted(NAMES[1]).read()["proof"]["l0"])
    asked = mine.instrument("tiny", "resid_post.1").manifest.read()["dictionaries"]
    assert asked == [[48, 4], [48, level]], "each SAE is held against a random dictionary of its own level"
    assert {r["level_from"] for r in mine.results.read()["adopted"]} == {"stated", "measured"}
    overlap = {r["sae"]: r["overlap"] for r in mine.results.read()["adopted"]}
    assert overlap == {NAMES[0]: "unknown", NAMES[1]: "unknown", "other": "same_source"}


def test_the_key_holds_weights_and_reading_not_their_place(
    study_data: Data, grid: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same SAE elsewhere is done; other weights are done again, and said; a change under way is refused."""
    source = tmp_path / "mine"
    shutil.copytree(grid.sae(NAMES[0]), source)

    def study() -> StudyConfig:
        one = {"ref": f"path:{source}", "name": "mine", "steer": False}
        data = adopting(study_data, [one], name="key")
        data["models"][0]["paths"] = []
        return StudyConfig.parse(data)

    asked: dict[str, Any] = {"stages": ("interp",)}
    folder, told = run(study(), tmp_path / "run", **asked), list[str]()
    held = StudyConfig.from_yaml(folder.study)
    assert held == opened(held) and [s.name for s in standing(held, folder)] == ["mine"]
    before = folder.interp("mine").fidelity.read()
    moved = source.rename(tmp_path / "moved")
    source = moved
    monkeypatch.setattr("saelab.study.run.do", lambda cell, work: pytest.fail(f"{cell} was done again"))
    run(study(), tmp_path / "run", tell=told.append, **asked)
    assert not told
    monkeypatch.undo()
    shutil.rmtree(moved)
    spoilt(grid.sae(NAMES[0]), moved, lambda w: w["b_dec"].add_(0.01))
    run(study(), tmp_path / "run", tell=told.append, **asked)
    assert any("weights of mine is not what it was" in t for t in told)
    assert folder.interp("mine").fidelity.read() != before
    held = StudyConfig.from_yaml(folder.study)
    folder.adopted("mine").path.unlink()
    with pytest.raises(ArtefactError, match="not those that this study was begun with"):
        run(held.model_copy(update={"models": _at(held, grid.sae(NAMES[0]))}), tmp_path / "run", **asked)


def _at(study: StudyConfig, place: Path) -> tuple[Any, ...]:
    (model,) = study.models
    return (model.model_copy(update={"saes": (model.saes[0].model_copy(update={"ref": f"path:{place}"}),)}),)


def test_readings_that_differ_have_sums_that_differ(grid: RunFolder) -> None:
    one, other = load_sae(grid.sae(NAMES[0])), load_sae(grid.sae(NAMES[0]))
    assert sum_of(one) == sum_of(other)
    other.cfg = other.cfg.model_copy(update={"subtract_b_dec": not other.cfg.subtract_b_dec})
    assert sum_of(one) != sum_of(other)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda saes, _: saes.append(dict(saes[0])), "two SAEs are called topk"),
        (lambda saes, _: saes[0].update(site="resid_post.9"), "saes.0.site: resid_post.9 is beyond the last block"),
        (lambda saes, _: saes[0].update(site="mlp_in.1"), "saes.0.steer: features of mlp_in.1 are not selected"),
        (lambda saes, t: saes[0].update(ref=f"path:{t / 'wide'}"), "reads width 24, and tiny has width"),
        (lambda saes, t: saes[0].update(ref=f"path:{t / 'other'}"), "saes.0.force_lm: its files name .* gpt2, not"),
        (lambda saes, t: saes[0].update(ref=f"path:{t / 'empty'}"), "saes.0.ref: .* in no known SAE format"),
        (lambda saes, t: saes[0].update(ref=f"path:{t / 'nowhere'}"), "saes.0.ref: There is nothing at"),
        (lambda saes, _: saes[0].update(k=3), "saes.0.ref: .* was given k, which its files state"),
        (lambda saes, _: saes[0].update(sight="x"), "saes.0.sight: unknown key .* site"),
        (lambda saes, _: saes.clear(), "say which SAEs"),
    ],
)
def test_what_cannot_be_adopted_is_one_sentence_before_anything_is_computed(
    study_data: Data,
    grid: RunFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[Data], Path], None],
    sentence: str,
) -> None:
    (tmp_path / "empty").mkdir()
    bare(grid.sae(NAMES[0]), tmp_path / "other")
    cfg = json.loads((tmp_path / "other" / "cfg.json").read_text())
    cfg["metadata"]["model_name"] = "gpt2"
    (tmp_path / "other" / "cfg.json").write_text(json.dumps(cfg))
    sae = load_sae(grid.sae(NAMES[0]))
    narrow = {"W_enc": sae.W_enc[:24], "W_dec": sae.W_dec[:, :24], "b_enc": sae.b_enc, "b_dec": sae.b_dec[:24]}
    save_sae(type(sae)(sae.cfg.model_copy(update={"d_in": 24}), narrow), tmp_path / "wide")
    saes: list[Data] = [{"ref": f"path:{grid.sae(NAMES[0])}"}]
    change(saes, tmp_path)
    data = adopting(study_data, saes)
    data["models"][0]["paths"] = []
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match=sentence) as found:
        run_study(path, tmp_path / "run")
    assert "\n" not in str(found.value) and not (tmp_path / "run").exists()
    assert main(["plan", str(path)]) == 2
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("saelab: "))
    assert said.removeprefix("saelab: ") in str(found.value), "plan says what run says"


def test_a_plan_knows_them_and_a_forced_lm_is_accepted(
    study_data: Data, grid: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare(grid.sae(NAMES[0]), tmp_path / "own")
    cfg = json.loads((tmp_path / "own" / "cfg.json").read_text())
    cfg["metadata"]["model_name"] = "gpt2"
    (tmp_path / "own" / "cfg.json").write_text(json.dumps(cfg))
    saes = [{"ref": str(tmp_path / "own"), "force_lm": True, "architecture": "mine"}, {"ref": "hf:nobody/nothing"}]
    data = adopting(study_data, saes)
    data["models"][0]["paths"] = []
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    assert main(["plan", str(path)]) == 0
    said = capsys.readouterr().out
    assert "1 SAEs" in said and "adopt" in said and "Not planned, as not on this machine yet: hf:nobody" in said
    data["models"][0]["saes"].pop()
    data["models"][0]["grids"] = [{"sites": ["layers.1"], "architectures": ["relu"], "levels": [4], "d_sae": 32}]
    study = opened(StudyConfig.parse(data))
    assert [(s.name, s.architecture) for s in saes_of(study)] == [("relu.l0_4.resid_post.1", "relu"), ("own", "mine")]
    gate = next(c for c in cells_of(study) if c.stage == "gate")
    assert [c.stage for c in gate.inputs] == ["train", "adopt"] and gate.settings["dictionaries"] == [(32, 4), (48, 4)]
    with pytest.raises(UserError, match="was not opened yet"):
        saes_of(StudyConfig.parse(data))
    data["models"][0]["paths"] = [{"saes": ["own", "relu.l0_4.resid_post.2"]}]
    with pytest.raises(UserError, match=r"no SAE is called 'relu.l0_4.resid_post.2'. Did you mean relu.l0_4"):
        opened(StudyConfig.parse(data))
    data["models"][0]["paths"] = [{"saes": ["own"], "level": 4}]
    with pytest.raises(UserError, match="said by `saes`"):
        StudyConfig.parse(data)


def test_one_command_says_which_is_better_at_what(
    grid: RunFolder, sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy with noise on its decoder explains less, by interval; one that is the same cannot be told apart."""
    noise = torch.randn(48, 32, generator=torch.Generator().manual_seed(0)) / 8
    worse = spoilt(grid.sae(NAMES[0]), tmp_path / "worse", lambda w: w["W_dec"].add_(noise[:, : w["W_dec"].shape[1]]))
    same = spoilt(grid.sae(NAMES[0]), tmp_path / "same", lambda w: None)
    out = tmp_path / "run"
    asked = [str(grid.sae(NAMES[0])), str(worse), str(same), "--text", str(sentences), "--preset", "tiny"]
    assert main(["evaluate", *asked, "--only", "fidelity", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "tokens, about" in said.err and "48 features at resid_post.1" in said.err
    assert said.out.startswith("By FVU on held-out text, ")
    table = RunFolder(out).stats.table("compared").read().filter(pl.col("aspect") == "fidelity")
    rows = {(r["first"], r["second"]): r for r in table.to_dicts()}
    assert rows[NAMES[0], "worse"]["better"] == NAMES[0] and rows["worse", "same"]["better"] == "same"
    assert rows[NAMES[0], "same"]["better"] is None and rows[NAMES[0], "same"]["difference"] == 0
    fvu = RunFolder(out).adopted("worse").read()
    assert sum(fvu["fvu_of_contexts"]) / 16 == pytest.approx(fvu["proof"]["fvu"], rel=1e-5)
    assert "is better than worse" in RunFolder(out).report.read_text()


class Plain:
    """No module and of no library: what `SaeLike` asks for, and no more."""

    def __init__(self, sae: Sae, site: str | None = None, keep: float = 1.0):
        self.sae, self.keep, self.W_dec = sae, keep, sae.W_dec.clone()
        self.cfg = {"site": site}

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.sae.encode(x) * self.keep

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.sae.decode(codes)


def test_objects_in_memory_are_judged_as_their_files_are(grid: RunFolder, sentences: Path, tmp_path: Path) -> None:
    """A reference, a house SAE, SAEBench's object and a plain class of one SAE: one row of numbers, four times."""
    place, site = grid.sae(NAMES[0]), "resid_post.1"
    sae = load_sae(place)
    given = {"file": str(place), "house": sae, "suite": to_saebench(sae), "plain": Plain(sae, site)}
    given["worse"] = Plain(sae, site, keep=0.5)
    lm = str(sae.cfg.lm)
    texts = [part for file in sorted(sentences.iterdir()) for part in file.read_text().split(". ")]
    asked: dict[str, Any] = {"text": texts, "preset": "tiny", "only": ["interp", "effects"], "force_lm": True}
    found = evaluate(given, lm, out=tmp_path / "run", **asked)
    rows = {row["sae"]: row for row in found.saes.to_dicts()}
    assert list(rows) == list(given) and set(found.features) == set(given)
    for name in ("house", "suite", "plain"):
        assert {c: rows[name][c] for c in SCORES} == pytest.approx({c: rows["file"][c] for c in SCORES}, abs=1e-6)
        assert found.features[name].select("feature").equals(found.features["file"].select("feature"))
        theirs, mine = found.effects["file"], found.effects[name]
        assert mine.columns == theirs.columns and mine["output_score"].equals(theirs["output_score"])
    assert rows["worse"]["fvu"] > rows["file"]["fvu"] + 0.01, "the control: half its codes explain less"
    better = {(r["first"], r["second"]): r["better"] for r in found.compared.to_dicts() if r["aspect"] == "fidelity"}
    assert better["file", "plain"] is None and better["file", "worse"] == "file"
    assert "worse" in repr(found) and found.page.is_file()
    folder = RunFolder(found.folder)
    assert folder.sae("house").exists() and not folder.sae("plain").exists(), "what has no file is kept by its sum"
    before = found.page.read_bytes()
    assert evaluate(given, lm, out=tmp_path / "run", **asked).page.read_bytes() == before
    with pytest.raises(UserError, match="holds a run of the study"):
        evaluate(given | {"plain": Plain(sae, site, keep=0.9)}, lm, out=tmp_path / "run", **asked)


def test_what_is_no_sae_is_said_so(grid: RunFolder) -> None:
    sae = load_sae(grid.sae(NAMES[0]))
    with pytest.raises(UserError, match="dict is no SAE: it has no W_dec and no encode and no decode"):
        evaluate([{"W": 1}], "smollm2-135m")
    odd = Plain(sae)
    odd.encode = lambda x: x
    with pytest.raises(UserError, match=r"Plain.encode gave .* rows"):
        given_sae(odd).encode(torch.zeros(4, sae.cfg.d_in))
    with pytest.raises(UserError, match=r"has no W_enc .* which suite needs"):
        evaluate([Plain(sae, "resid_post.1")], "smollm2-135m", only=["suite"])
    with pytest.raises(UserError, match="held by none that runs here"):
        load_sae("held:gone")
    with pytest.raises(UserError, match="no SAE to evaluate"):
        evaluate([])


def test_an_sae_that_is_kept_by_reference_has_no_copy(study_data: Data, grid: RunFolder, tmp_path: Path) -> None:
    source = shutil.copytree(grid.sae(NAMES[0]), tmp_path / "mine")
    data = adopting(study_data, [{"ref": str(source), "keep": "reference", "steer": False}], name="kept")
    data["models"][0]["paths"] = []
    folder = run(StudyConfig.parse(data), tmp_path / "run", stages=("interp",))
    theirs, mine = grid.interp(NAMES[0]), folder.interp("mine")
    assert not folder.sae("mine").exists() and mine.fidelity.read() == theirs.fidelity.read()
    (folder.interp("mine").fidelity.path).unlink()
    spoilt(grid.sae(NAMES[0]), tmp_path / "other", lambda w: w["b_dec"].add_(0.01))
    shutil.rmtree(source)
    (tmp_path / "other").rename(source)
    study = StudyConfig.from_yaml(folder.study)
    with pytest.raises(ArtefactError, match="not those that this study was begun with"):
        run(study, tmp_path / "run", stages=("interp",))


class Wrapped:
    """An SAE inside an object, which is the only place where its k stands."""

    def __init__(self, inner: Plain):
        self.inner = inner

    @property
    def W_dec(self) -> torch.Tensor:
        return self.inner.W_dec

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.encode(x)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.inner.decode(codes)


def test_an_object_is_known_by_all_that_it_holds(grid: RunFolder) -> None:
    """What lies inside a wrapped object, a module or a dictionary, and what only its codes show, is part of its sum."""
    sae = load_sae(grid.sae(NAMES[0]))
    first = sum_of(given_sae(Wrapped(Plain(sae))))
    assert first == sum_of(given_sae(Wrapped(Plain(load_sae(grid.sae(NAMES[0])))))), "the same SAE again"
    assert first != sum_of(given_sae(Wrapped(Plain(sae, keep=0.5))))
    hidden = Plain(sae)
    hidden.encode = lambda x: sae.encode(x) * (torch.arange(sae.cfg.d_sae) % 2)  # a closure: nothing looks there
    assert sum_of(given_sae(hidden)) != sum_of(given_sae(Plain(sae)))


def test_an_object_may_work_in_place_and_says_its_own_lm(grid: RunFolder) -> None:
    sae = load_sae(grid.sae(NAMES[0]))
    rows = torch.randn(5, sae.cfg.d_in, generator=torch.Generator().manual_seed(0))
    eager = Plain(sae)
    eager.encode = lambda x: sae.encode(x.mul_(0.5))
    before = rows.clone()
    given_sae(eager).encode(rows)
    assert torch.equal(rows, before)
    told = given_sae(sae, lm="another", site="resid_post.0")
    assert told.cfg.lm == sae.cfg.lm and told.cfg.site == sae.cfg.site, "what is said stands over what is asked for"
    lying = Plain(sae)
    lying.W_dec = torch.randn(sae.W_dec.shape, generator=torch.Generator().manual_seed(1))
    with pytest.raises(UserError, match="does not write the rows of W_dec"):
        given_sae(lying)
