"""A study from flags: `saelab new` writes it, `saelab train` trains it, and a run folder is a study too."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from jsonschema import Draft202012Validator
from safetensors.torch import load_file, save_file

from saelab.cli import main
from saelab.core.errors import ArtefactError, UserError
from saelab.core.seeds import numpy_generator
from saelab.lm.tiny import tiny_lm
from saelab.saes.formats import load_sae
from saelab.saes.given import sum_of
from saelab.store.layout import RunFolder
from saelab.study import costs
from saelab.study.fresh import LONGEST, SIZES, TRAINED, Wanted, count_of, made
from saelab.study.plan import cells_of
from saelab.study.scales import read_study
from saelab.study.spec import StudyConfig, saes_of
from saelab.study.starts import start_of

ROOT = Path(__file__).parents[2]


def test_new_writes_what_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.yaml"
    flags = ["--arch", "topk,relu", "--l0", "16", "32", "--d-sae", "512", "--tokens", "64K", "--text", "path:a b.txt"]
    assert main(["new", str(file), *flags]) == 0
    written = file.read_text()
    study = StudyConfig.parse(yaml.safe_load(written))
    assert {(s.architecture, s.level, s.d_sae) for s in saes_of(study)} == {
        (a, level, 512) for a in ("topk", "relu") for level in (16, 32)
    }
    assert study.name == "mine" and study.text.corpus.source == "path:a b.txt"
    assert study.text.train_contexts == 500 and study.training.steps * study.training.batch == pytest.approx(
        64e3, rel=0.02
    )
    assert written.count("#") > 5, "it is commented"
    capsys.readouterr()
    assert main(["new", str(file)]) == 2 and "there already" in capsys.readouterr().err
    assert main(["new", str(tmp_path / "b.yaml"), "--arch", "topq"]) == 2
    assert "Did you mean topk" in capsys.readouterr().err and not (tmp_path / "b.yaml").exists()
    assert main(["new", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(schema["properties"]) == {*StudyConfig.model_fields, "scales"}
    editor = Draft202012Validator(schema)
    files = [file, *(ROOT / "studies").glob("*.yaml"), ROOT / "src" / "saelab" / "study" / "demo.yaml"]
    for written in files:  # an editor finds no fault with what saelab writes and ships
        assert not [e.message for e in editor.iter_errors(yaml.safe_load(written.read_text()))], written
    wrong = yaml.safe_load(file.read_text()) | {"juge": "lexical"}
    assert len(files) > 4 and len([*editor.iter_errors(wrong)]) == 1, "control"


def test_counts_of_tokens() -> None:
    assert [count_of(s) for s in ("2M", "1.5k", "500_000", "7")] == [2_000_000, 1500, 500_000, 7]
    for bad in ("", "0", "two", "-3", "1T"):
        with pytest.raises(UserError, match="no number of tokens"):
            count_of(bad)


def test_sizes_fit_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is not asked for is what takes a quarter of an hour here; what is asked for is kept."""
    wanted = Wanted("smollm2-135m", ["resid_post.15"], ["topk", "jumprelu"], ["16", "64"], 4096)
    sizes = []
    for n, bf16 in ((2, False), (16, True)):
        monkeypatch.setattr(costs, "cores", lambda n=n: n)
        monkeypatch.setattr(costs, "multiplies_bfloat16", lambda bf16=bf16: bf16)
        _, study = made(wanted)
        assert costs.seconds_here(study, TRAINED) <= LONGEST
        sizes.append(study.text.train_contexts * study.text.context)
        assert made(replace(wanted, tokens=10**8))[1].text.train_contexts == 781_250
    assert sizes[0] < sizes[1] and sizes[0] in [round(n / 128) * 128 for n in SIZES]


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """A model and a text of one's own, as flags."""
    lm = tiny_lm()
    lm.model.save_pretrained(tmp_path / "lm")
    lm.tokenizer.save_pretrained(tmp_path / "lm")
    words = ["the", "cat", "dog", "river", "sings", "under", "quiet", "green", "and"]
    rng = numpy_generator("own text")
    notes = [{"text": " ".join(rng.choice(words, 400))} for _ in range(120)]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    return ["--lm", f"path:{tmp_path / 'lm'}", "--text", f"path:{tmp_path / 'notes.jsonl'}"]


def test_train_from_flags_alone(own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path / "run")
    where = [*own, "--site", "resid_post.1"]
    sizes = ["--arch", "topk", "--l0", "4", "--d-sae", "32", "--tokens", "8K"]
    assert main(["train", *where, *sizes, "--out", str(run.root)]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    told = said.out
    assert "1 SAE on 7,936 tokens: about a minute here." in said.err, "before it starts"
    sae = load_sae(str(run.saes / "topk.l0_4.resid_post.1"))
    assert (sae.cfg.k, tuple(sae.W_dec.shape)) == (4, (32, tiny_lm().d_model))
    assert "topk.l0_4.resid_post.1" in told and f"saelab run {run.root}" in told
    study = read_study(run.root)
    assert study.models[0].lm == where[1] and study.text.train_contexts == 62
    assert main(["plan", str(run.root)]) == 0, "a run folder is a study"
    capsys.readouterr()
    assert main(["train"]) == 2 and "--lm and --site" in capsys.readouterr().err
    assert main(["train", str(run.study), "--lm", "x"]) == 2 and "the flags" in capsys.readouterr().err
    assert main(["plan", str(tmp_path)]) == 2 and "without a study.yaml" in capsys.readouterr().err


def test_a_finished_sae_is_trained_further(
    own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its language model, site, architecture, level, settings and text are its own where nothing else is said."""
    monkeypatch.chdir(tmp_path)
    first, more = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "more")
    sizes = ["--arch", "topk,relu", "--l0", "4", "--d-sae", "32", "--tokens", "8K"]
    own = [*own[:3], "notes.jsonl", "--site", "resid_post.1"]  # a file that lies here, as people name it
    assert main(["train", *own, *sizes, "--out", str(first.root)]) == 0, capsys.readouterr().err
    start = Path(shutil.copytree(first.saes / "topk.l0_4.resid_post.1", tmp_path / "a start"))
    asked = ["train", "--from", str(start), "--tokens", "4K"]
    assert main([*asked, "--out", str(more.root)]) == 0, capsys.readouterr().err
    study = read_study(more.root)
    (grid,) = study.models[0].grids
    assert (study.models[0].lm, study.text.corpus.source) == (own[1], "path:notes.jsonl")
    assert (grid.architectures, grid.levels, grid.d_sae) == (("topk",), (4,), 32)
    before, after = (load_sae(str(folder)) for folder in (start, more.saes / "topk.l0_4.resid_post.1"))
    assert after.cfg.metadata["started_from"]["sha256"] == grid.start_sha256 == sum_of(before)
    alike = torch.cosine_similarity(before.W_dec, after.W_dec)
    assert float(alike.median()) > 0.9, "it went on from those directions"
    other = torch.cosine_similarity(load_sae(str(first.saes / "relu.l0_4.resid_post.1")).W_dec, after.W_dec)
    assert float(other.median()) < 0.7, "control: another SAE's"

    # A finished run needs its start no more; one that is not finished refuses other weights than it was begun with.
    kept = [cell.key for cell in cells_of(study)]
    changed = load_file(start / "sae_weights.safetensors")
    changed["b_dec"] += 1
    save_file(changed, start / "sae_weights.safetensors")
    assert main(["train", str(more.root)]) == 0, capsys.readouterr().err
    assert [cell.key for cell in cells_of(read_study(more.root))] == kept
    with pytest.raises(ArtefactError, match="not those with which"):
        start_of(saes_of(study)[0])

    capsys.readouterr()
    for flags, said in (
        ([*asked, "--arch", "relu"], "relu cannot begin with"),
        ([*asked, "--d-sae", "64"], "Leave --d-sae out"),
        ([*asked, "--site", "resid_post.95"], "--site: resid_post.95 is beyond the last block"),
        ([*asked[:2], str(tmp_path / "nothing")], "nothing"),
        (["train", *own, "--site", "15"], "--site: '15' is not a site"),
        (["train", *own, "--l0", "9999"], "--l0: a target L0 of 9999"),
        (["train", *own[:2], "--site", "resid_post.1", "--text", "gone.jsonl"], "--text: 'gone.jsonl' is not"),
    ):
        assert main(flags) == 2
        err = capsys.readouterr().err
        assert said in err and "models.0" not in err, err


def test_only_what_is_wrong_with_a_flag_is_said(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A fault of what the flags stand for is not said of a key that nobody wrote."""
    assert main(["train", *own, "--site", "mlp_in.1", "--to", "foo"]) == 2
    err = capsys.readouterr().err
    assert "--to" in err and "steer" not in err and "models.0" not in err
