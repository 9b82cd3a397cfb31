"""`saelab match` on a tiny model: pairs with descriptions, intervals, which text is read, direct beside composed."""

import json
from pathlib import Path

import polars as pl
import pytest
import torch

from saelab.cli import main
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import SaeConfig
from saelab.saes.formats import save_sae
from saelab.store.layout import RunFolder
from saelab.text.corpora import CorpusConfig, iter_documents
from saelab.text.pack import pack_for

D, F = 32, 24
WEIGHED = ["--weights", "1", "3", "1"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--lm` names no download here."""
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: tiny_lm())


@pytest.fixture
def saes(tmp_path: Path) -> list[str]:
    """Three SAEs of one run folder, of which the second has its rows in another order."""
    g = torch.Generator().manual_seed(0)
    decoder = torch.randn(F, D, generator=g)
    decoder /= decoder.norm(dim=1, keepdim=True)
    run, found = RunFolder(tmp_path / "run"), []
    for layer in range(3):
        rows = decoder[torch.randperm(F, generator=g)] if layer == 1 else decoder
        rows = rows + 0.1 * torch.randn(F, D, generator=g)
        weights = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}
        about = {"metadata": {"dataset_path": "embedded"}, "site": f"resid_post.{layer}"}
        made = TopKSae(SaeConfig(architecture="topk", d_in=D, d_sae=F, k=3, **about), weights)
        save_sae(made, run.sae(f"sae{layer}"))
        found.append(str(run.sae(f"sae{layer}")))
    run.study.write_text("name: x\n")
    table = run.interp("sae0").features
    table.path.parent.mkdir(parents=True)
    table.write(pl.DataFrame({"feature": range(F), "description": [f"about {i}" for i in range(F)]}))
    return found


def test_pairs_are_listed_with_what_is_known_of_them(saes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["match", *saes[:2], "--pairs", "3"]) == 0
    shown = capsys.readouterr().out
    assert "Nearest pairs of step 0" in shown and shown.count("about ") == 3 and "description of b" not in shown
    assert main(["match", *saes[:2], "--pairs", "0"]) == 0
    assert "Nearest pairs" not in capsys.readouterr().out
    weighed = [main(["match", *saes[:2], "--fold", "none", "--parts", "all", "--json", *w]) for w in ([], WEIGHED)]
    first, second = (json.loads(line)[0]["cost"] for line in capsys.readouterr().out.splitlines())
    assert weighed == [0, 0] and first != second, "weights count"


def test_it_says_which_text_and_how_sure(saes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["match", *saes, "--lm", "tiny", "--contexts", "6", "--direct", "--json"]
    assert main([*asked, "--out", str(tmp_path / "a")]) == 0
    found = capsys.readouterr()
    rows = json.loads(found.out)
    assert [(r["from"], r["to"]) for r in rows] == [("sae0", "sae1"), ("sae1", "sae2"), ("sae0", "sae2")]
    assert "Evaluated on embedded" in found.err and "trained on text of this source" in found.err

    held = pack_for(tiny_lm(), iter_documents(CorpusConfig()), context=128, n_contexts=6)
    held.save(RunFolder(tmp_path / "run").tokens("tiny") / "held_out")
    assert main([*asked, "--out", str(tmp_path / "b")]) == 0
    assert "held out from training" in capsys.readouterr().err, "where their run has such text"
    notes = [{"text": f"{word} {i} sat under the {word}. "} for i in range(20) for word in ("cat", "green tree", "dog")]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    assert main([*asked, "--out", str(tmp_path / "c"), "--text", str(tmp_path / "own.jsonl")]) == 0
    found = capsys.readouterr()
    assert "own.jsonl. Whether they were trained on it is not known." in found.err
    (row, *_) = json.loads(found.out)
    low, high = row["matching score, 95 %"]
    assert low <= row["matching score"] <= high, "over documents, where there are enough"
