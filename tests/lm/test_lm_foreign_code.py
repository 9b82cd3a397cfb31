"""No code that comes with a model's folder or a data set runs, whatever stands on stdin, and no question is asked."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saelab.core.errors import ArtefactError, SaelabError, UserError
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.store.references import Reference
from saelab.text.hub import read_hub

OWN = """open({canary!r}, "w").close()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig): model_type = "own"
class Model(LlamaForCausalLM): config_class = Config
class Tokenizer(PreTrainedTokenizerFast): pass
"""


def folder_with(place: Path, part: str) -> Path:
    """A model whose folder brings code for one part: config (of an unknown type), model, tokenizer."""
    lm = tiny_lm("llama", n_layers=1)
    lm.model.save_pretrained(place)
    lm.tokenizer.save_pretrained(place)
    (place / "own.py").write_text(OWN.format(canary=str(place / "ran")))
    name = "tokenizer_config.json" if part == "tokenizer" else "config.json"
    data = json.loads((place / name).read_text())
    data["auto_map"] = {
        "config": {"AutoConfig": "own.Config"},
        "model": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
        "tokenizer": {"AutoTokenizer": [None, "own.Tokenizer"]},
    }[part]
    if part == "config":
        data["model_type"] = "own"
    if part == "tokenizer":
        data["tokenizer_class"] = "Tokenizer"
    (place / name).write_text(json.dumps(data))
    return place


@pytest.mark.parametrize("part", ["config", "model", "tokenizer"])
def test_code_beside_weights_is_not_run(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda prompt="": asked.append(prompt) or "y")
    folder = folder_with(tmp_path, part)
    if part != "model":  # a known architecture needs no code to be opened
        with pytest.raises(ArtefactError, match="never runs"):
            LanguageModel.load(f"path:{folder}")
    else:
        assert LanguageModel.load(f"path:{folder}").generate(["a"], sampling=Sampling(2))
    assert not (folder / "ran").exists() and not asked
    exec((folder / "own.py").read_text(), {})
    assert (folder / "ran").exists(), "control: the canary sings"


def test_an_unknown_architecture_that_brings_code_is_refused_without_a_question(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "config")
    code = f"import saelab; saelab.LanguageModel.load('path:{folder}')"
    done = subprocess.run([sys.executable, "-c", code], input="y\n", capture_output=True, text=True, timeout=120)
    assert not (folder / "ran").exists() and "[y/N]" not in done.stdout


def test_pickled_weights_are_not_opened(tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "ran"), "w")

    lm = tiny_lm("llama", n_layers=1)
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"x": Canary()}, tmp_path / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(SaelabError, match="safetensors"):
        LanguageModel.load(f"path:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_a_data_set_is_the_hubs_and_none_of_its_code_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of that name here would be taken for it, script and all."""
    (tmp_path / "org" / "data").mkdir(parents=True)
    (tmp_path / "org" / "data" / "data.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="also a folder here"):
        next(read_hub(Reference("hf", "org/data", "main"), subset=None, split="train", column=None))
    assert not (tmp_path / "ran").exists()
