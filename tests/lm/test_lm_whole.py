"""A model's files hold its weights, all of them and no others; else a sentence, never random numbers."""

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from saelab.core.errors import ArtefactError, UserError
from saelab.lm.gguf_files import unread
from saelab.lm.model import LanguageModel
from saelab.lm.proofs import _key
from saelab.lm.sources import locate
from saelab.lm.tiny import tiny_lm

Weights = dict[str, Tensor]
DOWN = "model.layers.1.mlp.down_proj.weight"


def save(lm: LanguageModel, folder: Path, change: Callable[[Weights], Weights] = dict, **config: object) -> str:
    """A folder of a model whose tensors and config were changed."""
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    file, said = folder / "model.safetensors", folder / "config.json"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    said.write_text(json.dumps(json.loads(said.read_text()) | config))
    return f"path:{folder}"


def without(*names: str) -> Callable[[Weights], Weights]:
    return lambda weights: {name: t for name, t in weights.items() if name not in names}


MISSING: dict[str, tuple[Callable[[Weights], Weights], str]] = {
    "one": (without(DOWN), DOWN),
    "head": (without("lm_head.weight"), "lm_head.weight.*saved without its head"),
    "prefixed": (lambda w: {f"module.{n}": t for n, t in w.items()}, "lm_head.weight, .* and [0-9]+ more"),
    "body": (lambda w: {n.removeprefix("model."): t for n, t in without("lm_head.weight")(w).items()}, "lm_head"),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_is_missing_is_never_random(llama: LanguageModel, tmp_path: Path, case: str) -> None:
    change, names = MISSING[case]
    with pytest.raises(ArtefactError, match=f"lack {names}"):
        LanguageModel.load(save(llama, tmp_path / "changed", change))
    LanguageModel.load(save(llama, tmp_path / "whole"))  # control


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    tied = without("lm_head.weight")
    again = LanguageModel.load(save(tiny_lm("llama"), tmp_path, tied, tie_word_embeddings=True))
    assert torch.equal(again.model.lm_head.weight, again.model.model.embed_tokens.weight)


def test_what_has_no_place_is_refused(llama: LanguageModel, tmp_path: Path) -> None:
    """Biases of another family, more layers than the config says, scales of an unknown quantisation."""
    renamed = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(ArtefactError, match=r"hold model\.layers\.0\.self_attn\.k_proj\.bias.*no place"):
        LanguageModel.load(save(tiny_lm("qwen2"), tmp_path / "qwen", **renamed))
    with pytest.raises(ArtefactError, match=r"hold model\.layers\.3.*fewer layers"):
        LanguageModel.load(save(llama, tmp_path / "short", num_hidden_layers=3))
    scaled = save(llama, tmp_path / "scaled", lambda w: w | {DOWN + "_scale_inv": torch.ones(1, 1)})
    with pytest.raises(ArtefactError, match=r"down_proj\.weight_scale_inv.*quantised in an unknown way"):
        LanguageModel.load(scaled)


def test_heads_of_other_tasks_and_towers_may_be_left_over(llama: LanguageModel, tmp_path: Path) -> None:
    more = {name: torch.zeros(2, 32) for name in ("score.weight", "vision_tower.blocks.0.mlp.weight", "mtp.fc.weight")}
    LanguageModel.load(save(llama, tmp_path / "more", lambda w: w | more | {"model.layers.0.attn.bias": torch.ones(1)}))
    with pytest.raises(
        ArtefactError, match=r"hold model\.layers\.0\.vision"
    ):  # control: inside a block it is the text's
        LanguageModel.load(save(llama, tmp_path / "in", lambda w: w | {"model.layers.0.vision.weight": torch.ones(1)}))


def test_a_classifier_has_no_head(tmp_path: Path) -> None:
    lm = tiny_lm("llama")
    save(lm, tmp_path)
    AutoModelForSequenceClassification.from_config(lm.model.config).save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match=r"lack lm_head\.weight"):
        LanguageModel.load(f"path:{tmp_path}")


@pytest.mark.parametrize("method", ["foo", "exl2"])
def test_an_unknown_quantisation_is_refused(llama: LanguageModel, tmp_path: Path, method: str) -> None:
    with pytest.raises(UserError, match=rf"quantised by '{method}', which transformers cannot open.*gptq"):
        LanguageModel.load(save(llama, tmp_path, quantization_config={"quant_method": method}))


def test_an_adapter_is_whole(llama: LanguageModel, tmp_path: Path) -> None:
    """A tensor that is missing, a module that the settings leave out, a folder that holds a model too."""
    peft = pytest.importorskip("peft")
    base = save(llama, tmp_path / "base")
    folder = tmp_path / "lora"
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is to go
        plain = AutoModelForCausalLM.from_pretrained(base.removeprefix("path:"))
        asked = peft.LoraConfig(r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
        peft.get_peft_model(plain, asked).save_pretrained(folder)
    LanguageModel.load(f"path:{folder}")  # control
    model = LanguageModel.load(f"path:{folder}").model
    before, located = _key(model, locate(f"path:{folder}")), locate(f"path:{folder}")
    assert _key(model, located) == before
    os.utime(tmp_path / "base" / "model.safetensors", (1, 1))
    assert _key(model, located) != before  # a proof is that of the base's files too
    file, said = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    weights, config = load_file(file), json.loads(said.read_text())
    save_file({n: t for n, t in weights.items() if "layers.1.self_attn.q_proj.lora_B" not in n}, file)
    with pytest.raises(ArtefactError, match=r"adapter of .* lacks .*layers\.1\.self_attn\.q_proj\.lora_B"):
        LanguageModel.load(f"path:{folder}")
    save_file(weights, file)
    said.write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    with pytest.raises(ArtefactError, match=r"hold .*o_proj\.lora_A.*no place"):
        LanguageModel.load(f"path:{folder}")
    said.write_text(json.dumps(config))
    shutil.copy(tmp_path / "base" / "config.json", folder)
    with pytest.raises(ArtefactError, match=r"both a model .* and an adapter"):
        LanguageModel.load(f"path:{folder}")


def test_a_gguf_file_names_what_has_no_place(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    for name in (
        "blk.0.attn_q.weight",
        "blk.0.attn_q.bias",
        "blk.1.attn_q.weight",
        "rope_freqs.weight",
        "other.weight",
    ):
        writer.add_tensor(name, np.zeros(4, dtype=np.float32))
    for write in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, write)()
    left = unread(tmp_path / "x.gguf", {"blk.0.attn_q.weight"})
    assert left == ["blk.0.attn_q.bias", "blk.1.attn_q.weight", "rope_freqs.weight"]
