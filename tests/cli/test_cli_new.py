"""A study from flags: `saelab new` writes it, `saelab train` trains it, and a run folder is a study too."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from saelab.cli import main
from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.lm.tiny import tiny_lm
from saelab.saes.formats import load_sae
from saelab.store.layout import RunFolder
from saelab.study import costs
from saelab.study.fresh import LONGEST, SIZES, TRAINED, Wanted, count_of, made
from saelab.study.scales import read_study
from saelab.study.spec import StudyConfig, saes_of

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


def test_train_from_flags_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = tiny_lm()
    lm.model.save_pretrained(tmp_path / "lm")
    lm.tokenizer.save_pretrained(tmp_path / "lm")
    words = ["the", "cat", "dog", "river", "sings", "under", "quiet", "green", "and"]
    rng = numpy_generator("own text")
    notes = [{"text": " ".join(rng.choice(words, 400))} for _ in range(120)]
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    run = RunFolder(tmp_path / "run")
    where = ["--lm", f"path:{tmp_path / 'lm'}", "--site", "resid_post.1", "--text", f"path:{tmp_path / 'notes.jsonl'}"]
    sizes = ["--arch", "topk", "--l0", "4", "--d-sae", "32", "--tokens", "8K"]
    assert main(["train", *where, *sizes, "--out", str(run.root)]) == 0, capsys.readouterr().err
    said = capsys.readouterr()
    told = said.out
    assert "1 SAE on 7,936 tokens: about a minute here." in said.err, "before it starts"
    sae = load_sae(str(run.saes / "topk.l0_4.resid_post.1"))
    assert (sae.cfg.k, tuple(sae.W_dec.shape)) == (4, (32, lm.d_model))
    assert "topk.l0_4.resid_post.1" in told and f"saelab run {run.root}" in told
    study = read_study(run.root)
    assert study.models[0].lm == where[1] and study.text.train_contexts == 62
    assert main(["plan", str(run.root)]) == 0, "a run folder is a study"
    capsys.readouterr()
    assert main(["train"]) == 2 and "--lm and --site" in capsys.readouterr().err
    assert main(["train", str(run.study), "--lm", "x"]) == 2 and "the flags" in capsys.readouterr().err
    assert main(["plan", str(tmp_path)]) == 2 and "without a study.yaml" in capsys.readouterr().err
