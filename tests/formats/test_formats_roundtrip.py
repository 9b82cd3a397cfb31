"""Every architecture through every format that can hold it: the same codes, the same reconstruction, the same facts."""

import json
from pathlib import Path

import pytest
import torch
from sample_saes import CASES, inputs, random_sae

from saelab.core.errors import ArtefactError, UserError
from saelab.saes.base import Sae
from saelab.saes.formats import FORMATS, format_of, load_sae, save_sae, source_of
from saelab.saes.formats.unpickle import _flattened
from saelab.saes.normalised import normalised

WRITABLE = [name for name, kind in FORMATS.items() if kind.write is not None]
# What a format has no place for: sparsify is TopK only, Gemma Scope JumpReLU only.
CANNOT = {("sparsify", c) for c in CASES if c != "topk"} | {("gemma_scope", "gated"), ("gemma_scope", "topk")}
CANNOT |= {(f, c) for f in ("gemma_scope", "dictionary_learning") for c in ("matching_pursuit", "layer_norm")}


def reopened(folder: Path) -> Sae:
    """Read back; a pickle that this test wrote itself is read in this process, to save time."""
    source = source_of(folder)
    kind = format_of(source)
    if kind.pickle is None:
        found = kind.read(source)
    else:
        found = kind.read(source, _flattened(torch.load(folder / kind.pickle(source), weights_only=True), ""), {})
    assert isinstance(found, Sae)
    return found


@pytest.mark.parametrize("subtract", [True, False], ids=["subtracted", "plain"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("format", WRITABLE)
def test_writing_and_reading_is_the_identity(format: str, case: str, subtract: bool, tmp_path: Path) -> None:
    sae, x = random_sae(case, subtract=subtract), inputs()
    if (format, case, subtract) == ("saelens", "matching_pursuit", False):
        with pytest.raises(UserError, match="SAELens holds"):
            save_sae(sae, tmp_path, format)
        return
    if (format, case) in CANNOT:
        with pytest.raises(UserError, match="holds"):
            save_sae(sae, tmp_path, format)
        return
    save_sae(sae, tmp_path, format)
    back = reopened(tmp_path)
    assert torch.allclose(back.encode(x), sae.encode(x), atol=1e-5)
    assert torch.allclose(back(x), sae(x), atol=1e-5)
    assert (sae.encode(x) != 0).any(), "an SAE without codes would prove nothing"
    if format in ("saelens", "dictionary_learning"):
        assert (back.cfg.site, back.cfg.lm) == ("resid_post.3", "hf:gpt2")
        assert back.cfg.k == sae.cfg.k


@pytest.mark.parametrize("case", ["standard", "gated", "topk", "jumprelu", "batchtopk"])
def test_dictionary_learning_folders_say_what_other_loaders_ask(case: str, tmp_path: Path) -> None:
    """sae-lens' and SAEBench's loaders choose by these keys (tools/read_by_peers.py runs them)."""
    save_sae(random_sae(case, subtract=False), tmp_path, "dictionary_learning")
    config = json.loads((tmp_path / "config.json").read_text())
    trainers = {"standard": "StandardTrainer", "gated": "GatedSAETrainer", "topk": "TopKTrainer"}
    trainers |= {"jumprelu": "JumpReluTrainer", "batchtopk": "BatchTopKTrainer"}
    assert config["trainer"]["trainer_class"] == trainers[case]
    said = {key: config["trainer"][key] for key in ("layer", "lm_name", "submodule_name")}
    assert said == {"layer": 3, "lm_name": "gpt2", "submodule_name": "resid_post_layer_3"}
    assert config["trainer"].get("k") == (5 if case in ("topk", "batchtopk") else None)
    assert "ctx_len" in config["buffer"]
    assert "AutoEncoderNew" not in config["trainer"]["dict_class"]


@pytest.mark.parametrize("case", CASES)
def test_the_native_format_is_exact(case: str, tmp_path: Path) -> None:
    sae = random_sae(case)
    save_sae(sae, tmp_path)
    back = load_sae(tmp_path)
    assert back.cfg.model_dump(exclude={"metadata"}) == sae.cfg.model_dump(exclude={"metadata"})
    for name, tensor in sae.weights().items():
        assert torch.equal(tensor, back.weights()[name])


def test_the_bias_convention_matters() -> None:
    """Control: the two conventions are two functions, so a format that loses the flag cannot pass above."""
    a, b = random_sae("standard", subtract=True), random_sae("standard", subtract=False)
    assert not torch.allclose(a.encode(inputs()), b.encode(inputs()), atol=0.1)


def test_unknown_config_keys_and_tensors_are_errors(tmp_path: Path) -> None:
    save_sae(random_sae("standard"), tmp_path)
    text = (tmp_path / "cfg.json").read_text()
    (tmp_path / "cfg.json").write_text(text.replace('"d_in"', '"secret_gate": 2, "d_in"', 1))
    with pytest.raises(UserError, match="unknown key secret_gate"):
        load_sae(tmp_path)
    (tmp_path / "cfg.json").write_text(text.replace('"standard"', '"jumprelu"', 1))
    with pytest.raises(ArtefactError, match="lacks threshold"):
        load_sae(tmp_path)


def test_normalisation_that_is_not_in_the_files_is_an_error_with_the_fix(tmp_path: Path) -> None:
    save_sae(random_sae("jumprelu"), tmp_path)
    text = (tmp_path / "cfg.json").read_text()
    (tmp_path / "cfg.json").write_text(
        text.replace('"normalize_activations": "none"', '"normalize_activations": "expected_average_only_in"')
    )
    with pytest.raises(UserError, match="input_scale"):
        load_sae(tmp_path)
    x, scale = inputs(), 1.7
    plain, scaled = random_sae("jumprelu"), load_sae(tmp_path, input_scale=scale)
    assert torch.allclose(scaled(x), plain(scale * x) / scale, atol=1e-5)
    assert torch.allclose(scaled.encode(x), plain.encode(scale * x) / scale, atol=1e-5)
    (tmp_path / "cfg.json").write_text(
        text.replace('"normalize_activations": "none"', '"normalize_activations": "layer_norm"')
    )
    assert torch.allclose(load_sae(tmp_path)(x), normalised(plain, "layer_norm")(x), atol=1e-5)
    (tmp_path / "cfg.json").write_text(
        text.replace('"normalize_activations": "none"', '"normalize_activations": "soft"')
    )
    with pytest.raises(UserError, match=r"does not know \(soft\)"):
        load_sae(tmp_path)


def test_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="saelens"):
        save_sae(random_sae("topk"), tmp_path, "sealens")
    with pytest.raises(UserError, match="no known SAE format"):
        load_sae(tmp_path)
