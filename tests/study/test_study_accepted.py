"""A study that is accepted can be run: what can be known is said before anything is computed, all of it at once."""

import json
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from saelab.cli import main
from saelab.core.config import Fault
from saelab.core.errors import UserError
from saelab.core.names import path_part
from saelab.lm.facts import facts_of
from saelab.lm.tiny import tiny_lm
from saelab.store.layout import RunFolder
from saelab.study import checks, stages
from saelab.study.checks import check
from saelab.study.plan import cells_of
from saelab.study.run import run
from saelab.study.scales import read_study
from saelab.study.spec import ModelConfig, StudyConfig
from saelab.study.unread import told_unread
from saelab.study.workspace import Workspace

Data = dict[str, Any]


def model(data: Data) -> Data:
    return data["models"][0]


def grid(data: Data) -> Data:
    return model(data)["grids"][0]


def table(data: Data) -> str:
    """A table of texts beside the study's weights."""
    path = Path(model(data)["lm"].removeprefix("path:")).parent / "text.jsonl"
    path.write_text(json.dumps({"text": "some text"}) + "\n")
    return f"path:{path}"


def written(folder: Path, data: Data) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def weights(folder: Path, family: str = "llama", *, template: bool = True) -> str:
    lm = tiny_lm(family)
    lm.model.save_pretrained(folder)
    if not template:
        lm.tokenizer.chat_template = None
    lm.tokenizer.save_pretrained(folder)
    return f"path:{folder}"


IN_THE_FILE: dict[str, tuple[Callable[[Data], Any], str]] = {
    "level": (lambda d: grid(d).update(levels=[-5]), r"models.0.grids.0.levels.0: .*greater than or equal to 1"),
    "width": (lambda d: grid(d).update(d_sae=4), r"models.0.grids.0.levels.0: .*more than 4 features"),
    "option": (lambda d: grid(d).update(options={"lr_dekay": 1}), r"options.lr_dekay: unknown key.*lr_decay"),
    "no list": (lambda d: grid(d).update(steps=5), r"grids.0.steps: Input should be a list"),
    "widths apart": (lambda d: model(d)["grids"].append(grid(d) | {"d_sae": 96}), r"models: .*one grid, d_sae: \["),
    "options apart": (lambda d: model(d)["grids"].append(grid(d) | {"options": {"lr": 1.0}}), r"differ in options"),
    "number": (lambda d: grid(d).update(options={"lr": "fast"}), r"grids.0.options.lr: .*valid number"),
    "said twice": (lambda d: grid(d).update(options={"d_sae": 9}), r"options.d_sae: is said by"),
    "not finite": (lambda d: d["selection"].update(alpha=float("nan")), r"selection.alpha: .*finite"),
    "criterion": (lambda d: d["selection"].update(criteria=["output_scor"]), r"criteria.0: .*output_score"),
    "needs a concept": (lambda d: d["selection"].update(criteria=["concept_lift"]), r"criteria.0: .*written concept"),
    "arm": (lambda d: d["selection"].update(criteria=["kl"]), r"steering.arms.0.criterion: .*does not list"),
    "site": (lambda d: grid(d).update(sites=["resid_pst.1"]), r"grids.0.sites.0: .*resid_post.1"),
    "site of a path": (lambda d: model(d)["paths"][0].update(sites=["x.1", "y.2"]), r"paths.0.sites.0: 'x.1'"),
    "lm": (lambda d: model(d).update(lm="smollm2-135n"), r"models.0.lm: .*smollm2-135m"),
    "template": (lambda d: model(d).update(template="Q:"), r"models.0.template: does not hold"),
    "corpus": (lambda d: d["text"]["corpus"].update(source="embeded"), r"text.corpus.source: .*embedded"),
    "corpus that may change": (lambda d: d["text"]["corpus"].update(source="hf:a/b"), r"source: .*no revision"),
    "judge's lm": (lambda d: d.update(judge="local:smollm2"), r"judge.name: .*smollm2-135m"),
    "random features": (lambda d: d["steering"]["arms"][2].update(random=2), r"steering.arms.2.random: .*at least 3"),
    "tested features": (lambda d: d["interp"].update(n_scored=2), r"interp.n_scored: .*at least 3"),
    "batch": (lambda d: d["training"].update(batch=10**6), r"training.batch: .*the text has 5120"),
    "context": (lambda d: d["text"].update(context=16), r"text.context: .*at least 22"),
    "fold": (lambda d: (d["matching"].update(fold="theta"), model(d)["paths"][0].update(architecture="topk",
             sites=["resid_post.1"] * 2)), r"no thresholds"),
    "reject": (lambda d: d["matching"].update(reject=-1.0), r"matching.reject: .*positive"),
    "ravel": (lambda d: d.update(suite={"only": ["ravel"]}), r"suite.only.0: ravel needs suite.ravel"),
    "name": (lambda d: d.update(name="../evil"), r"name: '../evil'"),
    "model's name": (lambda d: model(d).update(name="../../x"), r"models.0.name: '../../x'"),
    "absolute name": (lambda d: model(d).update(name="/etc/x"), r"models.0.name: '/etc/x' holds '/'"),
    "clash": (lambda d: d["models"].append(model(d)), r"models.1: another model is called tiny"),
}  # fmt: skip

ON_THIS_MACHINE: dict[str, tuple[Callable[[Data], Any], str]] = {
    "depth": (lambda d: grid(d).update(sites=["resid_post.4"]), r"grids.0.sites.0: .*Nearest: resid_post.3"),
    "kind": (lambda d: grid(d).update(sites=["mlp_in.1"]), r"grids.0.steer: features of mlp_in.1 are not .*Say: false"),
    "instructions": (lambda d: d.update(instructions="none.txt"), r"instructions: There is no file none.txt"),
    "n_test": (lambda d: d["steering"].update(n_test=60), r"steering.n_test: .*Nearest: 39"),
    "n_test unread": (lambda d: d["steering"].update(n_test=60, ratings=False), r"steering.n_test: .*Nearest: 39"),
    "text": (lambda d: d["text"]["corpus"].update(source="path:/no/such"), r"text.corpus.source: There is nothing"),
    "column": (lambda d: d["text"]["corpus"].update(column="txt", source=table(d)), r"corpus.source: .*'txt'.*text"),
    "model": (lambda d: model(d).update(lm="path:/no/such", name="tiny"), r"models.0.lm: There is nothing"),
    "device": (lambda d: d["training"].update(device="cdua"), r"training.device: .*cuda"),
    "key": (lambda d: d.update(judge={"name": "openai:x", "key_variable": "NO_KEY"}), r"key_variable: .*NO_KEY"),
    "tables": (lambda d: d.update(suite={"preset": "tiny", "ravel": "path:/no/such"}), r"suite.ravel: There is noth"),
}  # fmt: skip


def test_the_study_itself_is_accepted(study_data: Data, tmp_path: Path) -> None:
    """Control of all that follows."""
    check(read_study(written(tmp_path, study_data)))


@pytest.mark.parametrize("what", IN_THE_FILE)
def test_what_a_file_is_wrong_in_is_said_when_it_is_read(study_data: Data, what: str) -> None:
    change, sentence = IN_THE_FILE[what]
    change(study_data)
    with pytest.raises(UserError, match=sentence):
        StudyConfig.parse(study_data)


@pytest.mark.parametrize("what", ON_THIS_MACHINE)
def test_what_this_machine_lacks_is_said_before_anything_is_written(
    study_data: Data, tmp_path: Path, what: str
) -> None:
    change, sentence = ON_THIS_MACHINE[what]
    model(study_data)["paths"] = []
    change(study_data)
    study = StudyConfig.parse(study_data)
    with pytest.raises(UserError, match=sentence):
        run(study, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_that_is_wrong_is_said_at_once(study_data: Data, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Of the file and of the machine; items behind one that is wrong keep their numbers."""
    sites = ["resid_pst.0", "resid_post.9", "mlp_in.1"]
    grid(study_data).update(levels=[-5, 4], sites=sites, options={"lr": "x"})
    model(study_data)["paths"] = []
    study_data["steering"]["arms"][2]["random"] = 1
    study_data |= {"name": "a/b", "instructions": "none.txt", "modles": 1}
    study_data["training"] = study_data["training"] | {"device": "cdua", "steps": "many"}
    assert main(["plan", str(written(tmp_path, study_data))]) == 2
    said = capsys.readouterr().err
    for place in (
        "name", "models.0.grids.0.levels.0", "models.0.grids.0.sites.0", "models.0.grids.0.sites.1",
        "models.0.grids.0.steer", "models.0.grids.0.options.lr", "steering.arms.2.random", "instructions", "modles",
        "training.steps", "training.device",
    ):  # fmt: skip
        assert f"\n  {place}: " in said, place
    assert "should have at least" not in said, "what was left out is not missed"


def test_a_plan_says_what_run_would_refuse(
    study_data: Data, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    file = written(tmp_path, study_data | {"judge": {"name": "openai:x", "key_variable": "NO_KEY"}})
    assert main(["plan", str(file)]) == 2
    found = capsys.readouterr()
    assert "total" in found.out and "judge.key_variable" in found.err
    monkeypatch.setenv("NO_KEY", "k")
    assert main(["plan", str(file)]) == 0, "control"


def test_only_what_is_left_to_do_is_asked_for(study_data: Data, tmp_path: Path) -> None:
    """Training needs no judge; and a finished run is opened again without the key that it was judged with."""
    model(study_data)["grids"] = [grid(study_data) | {"sites": ["mlp_out.1"]}]
    model(study_data)["paths"] = []
    study = StudyConfig.parse(study_data | {"judge": {"name": "openai:x", "key_variable": "NO_KEY"}})
    check(study, ("text", "harvest", "train"))
    with pytest.raises(UserError, match="NO_KEY"):
        check(study, ("interp",))


def test_a_template_positions_and_unknown_families(study_data: Data, tmp_path: Path) -> None:
    model(study_data)["lm"] = weights(tmp_path / "bare", template=False)
    with pytest.raises(UserError, match=r"models.0.template: .*no chat template"):
        check(StudyConfig.parse(study_data))
    model(study_data)["template"] = "Q: {instruction}"
    model(study_data)["grids"] = [grid(study_data)]
    model(study_data)["paths"] = []
    check(StudyConfig.parse(study_data))
    model(study_data)["lm"] = weights(tmp_path / "gpt2", "gpt2")
    study_data["text"]["context"] = 513
    with pytest.raises(UserError, match=r"text.context: 513 tokens, but gpt2 has 512 positions"):
        check(StudyConfig.parse(study_data))
    study_data["text"]["context"] = 512
    check(StudyConfig.parse(study_data))
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps({"model_type": "own", "n_layer": 1, "n_embd": 1}))
    with pytest.raises(UserError, match=r"models.0.lm"):
        check(StudyConfig.parse(study_data))


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt2", "gpt_neox", "qwen3"])
def test_facts_are_those_of_the_loaded_model(tmp_path: Path, family: str) -> None:
    facts, lm = facts_of(weights(tmp_path / "lm", family)), tiny_lm(family)
    assert facts is not None and facts.template
    assert (facts.n_layers, facts.d_model, facts.vocab_size) == (lm.n_layers, lm.d_model, lm.vocab_size)
    assert facts.positions == (512 if family == "gpt2" else None)


@pytest.mark.real
def test_pinned_facts_are_those_of_the_weights(smollm: Any) -> None:
    facts = facts_of("smollm2-135m")
    assert facts is not None and facts.template == bool(smollm.tokenizer.chat_template)
    assert (facts.n_layers, facts.d_model, facts.vocab_size) == (smollm.n_layers, smollm.d_model, smollm.vocab_size)


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "a\\b", "a\nb", " a", "a--b", "x" * 65, "é" * 33])
def test_a_name_that_becomes_a_folder(name: str) -> None:
    with pytest.raises(ValueError, match=r"name|bytes|holds"):
        path_part(name)
    assert path_part("m1.5 [a]?é") == "m1.5 [a]?é", "control"


@pytest.mark.parametrize(
    ("lm", "key"),
    [
        ("smollm2-135m", "smollm2-135m"),
        ("path:/data/m@1/lm", "lm"),
        ("path:/data/lm@2/", "lm@2"),
        ("hf:org/name@main", "name"),
        ("hf:org/name@main/sub/part", "part"),
        ("pypi:a==1!b/C.gguf#" + "0" * 64, "C.gguf"),
    ],
)
def test_how_a_model_is_called(lm: str, key: str) -> None:
    assert ModelConfig.parse({"lm": lm, "grids": [{"sites": ["resid_post.1"], "architectures": ["topk"], "levels": [1],
                                                   "d_sae": 4}]}).key == key  # fmt: skip


def test_numbers_behind_a_gap_are_those_of_the_file() -> None:
    gone = {("a", 0), ("a", 2), ("b",)}
    assert [checks._former(("a", i, "x"), gone) for i in range(2)] == [("a", 1, "x"), ("a", 3, "x")]
    assert checks._former(("c", 0), gone) == ("c", 0), "control"
    assert str(Fault(("a", 1), "is wrong")) == "a.1: is wrong"


def test_models_whose_names_begin_alike_have_their_own_readings(
    study_data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = model(study_data) | {"grids": [grid(study_data)], "paths": []}
    study_data["models"] = [one | {"name": "m1"}, one | {"name": "m1.5"}]
    study_data["suite"] = {"preset": "tiny", "only": ["absorption_first_letter"]}
    study = StudyConfig.parse(study_data)
    monkeypatch.setattr(Workspace, "lm", lambda self, model: model.key)
    monkeypatch.setattr(stages.suite_stage, "read", lambda data, lm, sites, folder, **_: [Path(lm), folder])
    cells = [c for c in cells_of(study) if c.stage == "read"]
    found = [stages.do(c, Workspace(study, RunFolder(tmp_path))) for c in cells]
    assert [[lm.name, folder.parent.name] for lm, folder in found] == [["m1", "m1"], ["m1.5", "m1.5"]]


def test_the_study_of_the_docs_is_a_study() -> None:
    page = (Path(__file__).parents[2] / "docs" / "study.md").read_text(encoding="utf-8")
    part = page.split("### A whole study\n")[1].split("\n### ")[0]
    written = dedent("".join(line for line in part.splitlines(keepends=True) if line.startswith("    ")))
    study = StudyConfig.parse(yaml.safe_load(written))
    assert {c.stage for c in cells_of(study)} >= {"train", "gate", "steer", "stats"}
    with pytest.raises(UserError, match="unknown key"):  # control
        StudyConfig.parse(yaml.safe_load(written.replace("architectures", "architecture")))


UNREAD: dict[str, tuple[Callable[[Data], Any], str]] = {
    "test instructions": (lambda d: d["steering"].update(n_test=7, ratings=False), "steering.n_test"),
    "factors of ratings": (lambda d: d["steering"].update(factors=[1.0], ratings=False), "steering.factors"),
    "factors of no strength": (lambda d: d["instrument"].update(factors=[1.0]), "instrument.factors"),
    "buffer of no stream": (lambda d: d["harvest"].update(buffer_rows=9), "harvest.buffer_rows"),
    "no reader is asked": (lambda d: d["instrument"].update(readers_asked=3), "instrument.readers_asked"),
    "no paths": (lambda d: (model(d).update(paths=[]), d["matching"].update(contexts=5)), "matching.contexts"),
    "nothing is steered": (lambda d: grid(d).update(steer=False), "selection.batch_size"),
}


@pytest.mark.parametrize("what", UNREAD)
def test_what_a_study_gives_and_nothing_reads_is_said(study_data: Data, what: str) -> None:
    study_data["steering"] = {"arms": study_data["steering"]["arms"], "ratings": True}
    assert not list(told_unread(StudyConfig.parse(study_data))), "control: all of it is read"
    change, key = UNREAD[what]
    change(study_data)
    (said,) = told_unread(StudyConfig.parse(study_data))
    assert key in said and ("Texts are rated where" in said) == (study_data["steering"]["ratings"] is False)


def test_a_plan_and_a_run_say_what_nothing_reads(
    study_data: Data, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    study_data["steering"] |= {"ratings": False, "n_test": 7}
    for verb in (["plan"], ["plan", "--json"], ["run", "--out", str(tmp_path / "run")]):
        study_data["training"]["device"] = "cpu" if verb[0] == "plan" else "cdua"  # it is refused before it begins
        assert main([verb[0], str(written(tmp_path, study_data)), *verb[1:]]) == (0 if verb[0] == "plan" else 2)
        assert ("steering.n_test" in capsys.readouterr().err) == (verb[0] == "plan")
