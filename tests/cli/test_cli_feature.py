"""`saelab feature` on a tiny model: what is shown is what the SAE does on the text; the rest is a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from saelab.cli import main
from saelab.interp.features.material import write_material
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import SaeConfig
from saelab.saes.formats import save_sae
from saelab.store.layout import RunFolder
from saelab.text.corpora import CorpusConfig, iter_documents
from saelab.text.pack import pack_for
from some_material import source_of

D, F, SITE = 32, 12, "resid_post.1"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--lm` names no download here."""
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: tiny_lm())


@pytest.fixture
def text(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    words = ["tree", "house", "river", "stone", "green", "quick", "seven", "under"]
    lines = [{"text": " ".join(rng.choice(words, 80))} for _ in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"path:{tmp_path / 'text.jsonl'}"


def saved(folder: Path) -> ReluSae:
    g = torch.Generator().manual_seed(0)
    decoder = torch.randn(F, D, generator=g)
    bias = torch.full((F,), -1.0)
    bias[5] = -1e6  # never active
    made = ReluSae(
        SaeConfig(architecture="relu", d_in=D, d_sae=F, site=SITE),
        {"W_enc": decoder.T / 4, "W_dec": decoder, "b_enc": bias, "b_dec": torch.zeros(D)},
    )
    save_sae(made, str(folder))
    return made


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main(["feature", *map(str, arguments), "--lm", "tiny", "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_what_is_shown_is_what_the_sae_does(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    sae = saved(tmp_path / "sae")
    record = told(capsys, tmp_path / "sae", 3, 5, "--text", text, "--dose", 0.01, 1e6)
    three, five = record["features"]
    lm = tiny_lm()
    packed = pack_for(lm, iter_documents(CorpusConfig(source=text)), context=128)
    with torch.inference_mode():
        codes = sae.encode(lm.run_to(packed.tokens.long(), [SITE])[SITE][packed.counts])[:, 3]
        lens = lm.unembed(sae.W_dec[3])
    assert three["density"] == pytest.approx(float((codes > 0).float().mean()), abs=2e-3)
    assert three["max_activation"] == pytest.approx(float(codes.max()), rel=1e-5)
    shown = [c["activations"][c["peak"]] for c in three["contexts"]]
    assert shown == sorted(shown, reverse=True) and 0 < len(shown) <= 5 and shown[0] <= three["max_activation"] + 1e-4
    assert three["promotes"][0] == lm.token_strings([int(lens.argmax())])[0]
    assert three["suppresses"][0] == lm.token_strings([int(lens.argmin())])[0]
    assert (five["density"], five["max_activation"], five["contexts"]) == (0, 0, []), "control: a dead feature"
    near, far = three["steered"]
    assert near["state"] == "ok" and near["strength"] > 0 and isinstance(near["text"], str)
    assert far["text"] is None and far["strength"] is None and "does not reach" in far["state"]
    assert main(["feature", str(tmp_path / "sae"), "3", "5", "--lm", "tiny", "--text", text, "--no-steer"]) == 0
    shown = capsys.readouterr().out
    assert "feature 3:" in shown and "nothing of this text" in shown and "unsteered" not in shown


def test_an_sae_of_a_run_shows_what_the_run_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(tmp_path / "run")
    saved(run.saes / "a")
    kept = run.interp("a")
    features = {"feature": [3], "density": [0.25], "max_activation": [7.0], "description": ["of the run"]}
    kept.features.write(pl.DataFrame(features | {"balanced_accuracy": [0.9]}))
    rows = {
        "feature": [3, 3],
        "rank": [1, 0],
        "tokens": [["a", "b"], ["c", "d"]],
        "activations": [[0.0, 1.0], [2.0, 0.0]],
    }
    kept.contexts.write(pl.DataFrame(rows | {"peak": [1, 0], "document": [0, 0]}))
    record = told(capsys, run.saes / "a", 3, "--no-steer")
    (row,) = record["features"]
    assert (record["text"], row["description"], row["balanced_accuracy"]) == ("of its run", "of the run", 0.9)
    assert [c["tokens"] for c in row["contexts"]] == [["c", "d"], ["a", "b"]]
    source, dense = source_of()
    write_material(source, kept.material)
    (row,) = told(capsys, run.saes / "a", 3, "--no-steer", "--contexts", "2")["features"]
    assert row["max_activation"] == pytest.approx(dense[:, 3].max()) and row["balanced_accuracy"] == 0.9
    assert row["promotes"] == ["up"] and len(row["contexts"]) == 2, "where material is kept, it is shown"
    saved(tmp_path / "elsewhere" / "a")
    (tmp_path / "none.jsonl").write_text(json.dumps({"text": "one two three " * 200}) + "\n")
    other = told(capsys, tmp_path / "elsewhere" / "a", 3, "--no-steer", "--text", f"path:{tmp_path / 'none.jsonl'}")
    assert other["text"] != "of its run", "control: an SAE of no run is read"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((12,), "0 to 11"), ((3, "--contexts", 0), "at least 1"), ((3, "--text", "path:nowhere.jsonl"), "nowhere")],
)
def test_what_cannot_be_shown_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[object, ...], said: str
) -> None:
    saved(tmp_path / "sae")
    assert main(["feature", str(tmp_path / "sae"), *map(str, arguments), "--lm", "tiny"]) in (2, 3, 4)
    assert said in capsys.readouterr().err


def test_a_wrong_number_is_told_before_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Control: for a right one the model is asked for."""
    saved(tmp_path / "sae")
    asked: list[str] = []
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: asked.append(ref) or tiny_lm())
    assert main(["feature", str(tmp_path / "sae"), "3", str(F), "--lm", "tiny"]) == 2 and not asked
    assert f"no feature {F}" in capsys.readouterr().err
    assert main(["feature", str(tmp_path / "sae"), "3", "--lm", "tiny", "--no-steer", "--read", "1"]) == 0 and asked
