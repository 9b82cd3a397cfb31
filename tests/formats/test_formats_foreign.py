"""Layouts whose files are built here by hand: read as the published formula says, refused where that is not possible.

Each test writes the layout from a description and compares to its formula, spelled out beside it.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sample_saes import D, F, K, inputs
from torch import Tensor

from saelab.cli import main
from saelab.core.errors import ArtefactError, UserError
from saelab.saes.base import Sae
from saelab.saes.formats import FORMATS, load, load_sae, load_transcoder, source_of
from saelab.saes.formats.source import Found
from saelab.saes.transcoder import Transcoder


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 0.4 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


W_ENC, W_DEC, B_ENC, B_DEC = drawn(D, F), drawn(F, D, seed=1), drawn(F), drawn(D)
THETA = drawn(F, seed=3).abs()
X = inputs()


def gated(pre: Tensor, theta: Tensor | float) -> Tensor:
    return pre.clamp(min=0) * (pre > theta)


def largest(pre: Tensor) -> Tensor:
    values, index = pre.clamp(min=0).topk(K)
    return torch.zeros_like(pre).scatter(1, index, values)


def same(a: Tensor, b: Tensor) -> bool:
    return bool((b != 0).any()) and torch.allclose(a, b, atol=1e-5)


def written(folder: Path, files: dict[str, dict[str, Any]]) -> Path:
    """A folder of JSON and safetensors files."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file({k: v.contiguous() for k, v in data.items()}, path)
        else:
            path.write_text(json.dumps(data))
    return folder


PLAIN = {"W_enc": W_ENC, "W_dec": W_DEC, "b_enc": B_ENC, "b_dec": B_DEC}
OLD_CONFIG = {"hook_point": "blocks.5.hook_resid_pre", "model_name": "gpt2-small", "d_in": D, "d_sae": F}
OLD_CONFIG |= {"dtype": "float32", "device": "cpu", "l1_coefficient": 8e-5, "activation_fn_str": "relu"}


def test_saelens_5_in_its_older_names(tmp_path: Path) -> None:
    files = {"cfg.json": OLD_CONFIG, "sae_weights.safetensors": PLAIN | {"scaling_factor": torch.ones(F)}}
    sae = load_sae(written(tmp_path, files))
    assert (sae.cfg.site, sae.cfg.lm) == ("resid_pre.5", "gpt2-small")
    assert same(sae.encode(X), ((X - B_DEC) @ W_ENC + B_ENC).clamp(min=0))


def test_saelens_5_topk_is_standard_with_an_activation_function(tmp_path: Path) -> None:
    config = OLD_CONFIG | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    sae = load_sae(written(tmp_path, {"cfg.json": config, "sae_weights.safetensors": PLAIN}))
    assert same(sae.encode(X), largest((X - B_DEC) @ W_ENC + B_ENC))


def test_saelens_5_scaling_factor_multiplies_what_is_decoded(tmp_path: Path) -> None:
    factor = 1 + drawn(F, seed=9).abs()
    tensors = PLAIN | {"scaling_factor": factor}
    files = {"cfg.json": OLD_CONFIG | {"finetuning_scaling_factor": True}, "sae_weights.safetensors": tensors}
    sae = load_sae(written(tmp_path / "a", files))
    codes = ((X - B_DEC) @ W_ENC + B_ENC).clamp(min=0)
    assert same(sae(X), (codes * factor) @ W_DEC + B_DEC)
    with pytest.raises(UserError, match="scaling_factor"):
        load_sae(written(tmp_path / "b", files | {"cfg.json": OLD_CONFIG}))


def test_saelens_5_boolean_normalisation_needs_its_scale(tmp_path: Path) -> None:
    files = {"cfg.json": OLD_CONFIG | {"normalize_activations": True}, "sae_weights.safetensors": PLAIN}
    with pytest.raises(UserError, match="scale is not in its files"):
        load_sae(written(tmp_path, files))
    with pytest.raises(UserError, match="unknown key mystery"):
        load_sae(written(tmp_path / "b", files | {"cfg.json": OLD_CONFIG | {"mystery": 1}}))


def test_saelens_5_of_a_centred_model_is_read_on_a_plain_one(tmp_path: Path) -> None:
    """TransformerLens centres what a LayerNorm model writes: the SAE saw x - mean(x), and the mean passes it by."""
    told = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    files = {"cfg.json": OLD_CONFIG | told, "sae_weights.safetensors": PLAIN}
    sae = load_sae(written(tmp_path / "a", files))
    mean = X.mean(1, keepdim=True)
    codes = ((X - mean - B_DEC) @ W_ENC + B_ENC).clamp(min=0)
    assert same(sae.encode(X)[:, :F], codes)
    assert same(sae(X), codes @ W_DEC + B_DEC + mean)
    rms = {"cfg.json": OLD_CONFIG | told | {"model_name": "gemma-2b"}, "sae_weights.safetensors": PLAIN}
    plain = load_sae(written(tmp_path / "b", rms))
    assert same(plain.encode(X), ((X - B_DEC) @ W_ENC + B_ENC).clamp(min=0)), "a model with RMSNorm is not centred"


def test_what_is_no_sae_here_is_refused_with_its_reason(tmp_path: Path) -> None:
    config = {"architecture": "temporal", "d_in": D, "d_sae": F, "metadata": {}}
    with pytest.raises(UserError, match="'temporal': its codes depend on the tokens before"):
        load_sae(written(tmp_path, {"cfg.json": config, "sae_weights.safetensors": PLAIN}))


def test_gemma_scope_reads_its_path(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_12" / "width_16k" / "average_l0_82"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{k: v.numpy() for k, v in (PLAIN | {"threshold": THETA}).items()})
    sae = load_sae(folder)
    assert (sae.cfg.site, sae.cfg.lm) == ("resid_post.12", "hf:google/gemma-2-2b")
    assert sae.cfg.metadata["l0"] == 82
    assert same(sae.encode(X), gated(X @ W_ENC + B_ENC, THETA))
    embedding = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    embedding.mkdir(parents=True)
    (folder / "params.npz").rename(embedding / "params.npz")
    sae = load_sae(embedding)
    assert same(sae.encode(X), gated(X @ W_ENC / D**0.5 + B_ENC, THETA))
    assert sae.cfg.site is None


GEMMA_3 = {"w_enc": W_ENC, "w_dec": W_DEC, "b_enc": B_ENC, "b_dec": B_DEC, "threshold": THETA}


def test_gemma_scope_2(tmp_path: Path) -> None:
    hook = "model.layers.9.output"
    config = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-pt", "hf_hook_point_in": hook}
    config |= {"hf_hook_point_out": hook, "affine_connection": False}
    sae = load_sae(written(tmp_path / "a", {"config.json": config, "params.safetensors": GEMMA_3}))
    assert sae.cfg.site == "resid_post.9"
    assert same(sae.encode(X), gated(X @ W_ENC + B_ENC, THETA))
    folder = tmp_path / "gemma-scope-2-1b-pt" / "resid_post" / "layer_9_width_16k_l0_small"
    bare = written(folder, {"params.safetensors": GEMMA_3})
    assert load_sae(bare).cfg.site == "resid_post.9"
    attention = written(tmp_path / "gemma-scope-2-1b-pt" / "attn_out" / folder.name, {"params.safetensors": GEMMA_3})
    assert load_sae(attention).cfg.site == "model.layers.9.self_attn.o_proj.input"
    for name, lm in (("gemma-v3-1b-pt", "gemma-3-1b-pt"), ("google/gemma-3-270m-pt", "gemma-3-270m")):
        files = {"config.json": config | {"model_name": name}, "params.safetensors": GEMMA_3}
        assert load_sae(written(tmp_path / "c", files)).cfg.lm == f"hf:google/{lm}"
    skip = GEMMA_3 | {"affine_skip_connection": drawn(D, D)}
    with pytest.raises(UserError, match="load_transcoder"):
        load_sae(written(tmp_path / "b", {"params.safetensors": skip}))


def test_sparsify_old_decoder_is_transposed_and_the_new_is_not(tmp_path: Path) -> None:
    config = {"num_latents": F, "k": K, "d_in": D, "expansion_factor": 3, "normalize_decoder": True, "signed": False}
    shared = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "b_dec": B_DEC}
    old, new = shared | {"decoder.weight": W_DEC.T}, shared | {"W_dec": W_DEC}
    for name, tensors in (("old", old), ("new", new)):
        folder = written(tmp_path / name / "layers.7", {"cfg.json": config, "sae.safetensors": tensors})
        sae = load_sae(folder)
        codes = largest((X - B_DEC) @ W_ENC + B_ENC)
        assert same(sae.encode(X), codes)
        assert same(sae(X), codes @ W_DEC + B_DEC)
        assert sae.cfg.site == "resid_post.7"
    wrong = shared | {"W_dec": W_DEC.T}
    with pytest.raises(ArtefactError, match="W_dec has shape"):
        load_sae(written(tmp_path / "wrong", {"cfg.json": config, "sae.safetensors": wrong}))


def test_gemma_scope_2_reads_what_its_config_declares(tmp_path: Path) -> None:
    def opened(**config: Any) -> Found:
        return load(written(tmp_path, {"config.json": config, "params.safetensors": GEMMA_3}))

    assert isinstance(opened(type="sae"), Sae)
    assert isinstance(opened(type="transcoder"), Transcoder)
    assert isinstance(opened(hf_hook_point_in="a", hf_hook_point_out="b"), Transcoder)
    for kind in ("crosscoder", "clt"):  # flat tensors, as an SAE's
        with pytest.raises(ArtefactError, match="says that it has several sites"):
            opened(type=kind)
    with pytest.raises(UserError, match="saelab knows sae, transcoder"):
        opened(type=["sae"])
    with pytest.raises(ArtefactError, match="holds none"):
        opened(affine_connection=True)
    with pytest.raises(ArtefactError, match=f"says d_in = {D + 1} in its config; its weights have d_in = {D}"):
        opened(d_in=D + 1)
    with pytest.raises(UserError, match="hf_hook_point_in"):
        opened(hf_hook_point_in=3)


LINEAR = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}


def test_sparsify_before_its_transcoders_had_a_flag(tmp_path: Path) -> None:
    """A W_skip says it, else the run's config or the user; b_dec was subtracted from the input then, and only then."""
    skip = drawn(D, D, seed=5)
    config = {"num_latents": F, "k": K, "d_in": D}
    codes = largest((X - B_DEC) @ W_ENC + B_ENC)
    files = {"cfg.json": config | {"skip_connection": True}, "sae.safetensors": LINEAR | {"W_skip": skip}}
    found = load_transcoder(written(tmp_path / "a" / "layers.3.mlp", files))
    assert same(found.encode(X), codes)
    assert same(found(X), codes @ W_DEC + B_DEC + X @ skip.T)
    assert not same(found.encode(X), largest(X @ W_ENC + B_ENC)), "control: with the flag, nothing is subtracted"
    assert (found.cfg.site, found.cfg.site_out) == ("layers.3.mlp.input", "mlp_out.3")

    plain = {"cfg.json": config, "sae.safetensors": LINEAR}
    folder = written(tmp_path / "run" / "layers.3" / "seed1", plain)
    sae = load_sae(folder)
    assert sae.cfg.site == "resid_post.3"
    declared = load_transcoder(folder, transcode=True)
    written(tmp_path / "run", {"config.json": {"sae": config, "hookpoints": ["layers.3"], "transcode": True}})
    known = load_transcoder(folder)
    for transcoder in (declared, known):
        assert same(transcoder(X), sae(X))
        assert (transcoder.cfg.site, transcoder.cfg.site_out) == ("resid_pre.3", "resid_post.3")
    (tmp_path / "run" / "config.json").unlink()
    assert main(["convert", str(folder), str(tmp_path / "out"), "--transcode", "--to", "sparsify"]) == 0
    assert same(load_transcoder(tmp_path / "out")(X), sae(X))
    written(tmp_path / "run", {"config.json": {"transcode": True}})  # somebody's own file
    assert isinstance(load(folder), Sae)


def test_sparsify_drops_unknown_keys_with_a_notice_and_types_the_others(tmp_path: Path) -> None:
    def opened(**config: Any) -> Found:
        files = {"cfg.json": {"num_latents": F, "k": K, "d_in": D} | config, "sae.safetensors": LINEAR}
        return load(written(tmp_path, files))

    assert "batch_size" in opened(batch_size=8).cfg.metadata["notice"]
    assert "notice" not in opened().cfg.metadata
    for wrong in ({"k": "5"}, {"k": 0}, {"k": True}, {"k": [5]}, {"d_in": "16"}, {"skip_connection": "no"}):
        with pytest.raises(UserError, match=f"not a valid .*: {next(iter(wrong))}:"):
            opened(**wrong)
    with pytest.raises(ArtefactError, match="says d_sae = 7"):
        opened(num_latents=7)
    with pytest.raises(ArtefactError, match="skip_connection True"):
        opened(skip_connection=True)
    with pytest.raises(UserError, match=r"activation \['topk'\]"):
        opened(activation=["topk"])


def test_signed_codes_become_twice_as_many_non_negative_ones(tmp_path: Path) -> None:
    """AbsTopK in SAELens, `signed` in old sparsify: the k codes of largest magnitude keep their sign."""
    pre = (X - B_DEC) @ W_ENC + B_ENC
    index = pre.abs().topk(K).indices
    signed = torch.zeros_like(pre).scatter(1, index, pre.gather(1, index))
    assert (signed < 0).any(), "control: there are negative codes to lose"
    config = {"architecture": "abstopk", "d_in": D, "d_sae": F, "k": K, "metadata": {}}
    layouts = [
        {"cfg.json": config, "sae_weights.safetensors": PLAIN},
        {"cfg.json": {"num_latents": F, "k": K, "d_in": D, "signed": True}, "sae.safetensors": LINEAR},
    ]
    for i, files in enumerate(layouts):
        sae = load_sae(written(tmp_path / str(i), files))
        codes = sae.encode(X)
        assert (sae.cfg.d_sae, bool((codes >= 0).all())) == (2 * F, True)
        assert same(codes[:, :F] - codes[:, F:], signed)
        assert same(sae(X), signed @ W_DEC + B_DEC)


def test_an_unfinished_saelens_training_is_read_as_what_it_would_finish_as(tmp_path: Path) -> None:
    config = {"architecture": "matryoshka_batchtopk", "d_in": D, "d_sae": F, "k": 5.5, "metadata": {}}
    config |= {"rescale_acts_by_decoder_norm": True, "normalize_activations": "expected_average_only_in"}
    config |= {"matryoshka_widths": [16, 48], "aux_loss_coefficient": 1.0, "topk_threshold_lr": 0.01}
    tensors = PLAIN | {"topk_threshold": torch.tensor(0.5, dtype=torch.float64)}
    files = {"cfg.json": config, "sae_weights.safetensors": tensors, "activation_scaler.json": {"scaling_factor": 2.0}}
    sae = load_sae(written(tmp_path / "a", files))
    norms = W_DEC.norm(dim=1)
    codes = gated(((2 * X - B_DEC) @ W_ENC + B_ENC) * norms, 0.5)
    assert same(sae.encode(X), codes / 2)
    assert same(sae(X), ((codes / norms) @ W_DEC + B_DEC) / 2)
    untracked = tensors | {"topk_threshold": torch.tensor(0.0, dtype=torch.float64)}
    with pytest.raises(UserError, match="before its threshold was followed"):
        load_sae(written(tmp_path / "b", files | {"sae_weights.safetensors": untracked}))
    del files["activation_scaler.json"]
    with pytest.raises(UserError, match="input_scale"):
        load_sae(written(tmp_path / "c", files))


def test_llama_scope_threshold_is_raw_and_weights_are_not(tmp_path: Path) -> None:
    norm, theta = 9.0, 0.3
    hook = "blocks.4.hook_resid_post"
    config = {"hook_point_in": hook, "hook_point_out": hook, "act_fn": "jumprelu", "jump_relu_threshold": theta}
    config |= {"dataset_average_activation_norm": {"in": norm, "out": norm}}
    linear = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T, "decoder.bias": B_DEC}
    files = {"hyperparams.json": config, "checkpoints/final.safetensors": linear}
    sae = load_sae(written(tmp_path, files))
    s = D**0.5 / norm
    codes = gated(s * X @ W_ENC + B_ENC, theta * s)
    assert same(sae.encode(X) * s, codes)
    assert same(sae(X), (codes @ W_DEC + B_DEC) / s)


def test_llama_scope_2_gate_on_decoder_norms(tmp_path: Path) -> None:
    norm, hook = 9.0, "blocks.4.hook_resid_post"
    config = {"sae_type": "sae", "hook_point_in": hook, "hook_point_out": hook, "act_fn": "jumprelu"}
    config |= {"norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True}
    tensors = {"W_E": W_ENC, "b_E": B_ENC, "W_D": W_DEC, "b_D": B_DEC}
    tensors |= {"activation_function.log_jumprelu_threshold": THETA.log()}
    tensors |= {f"dataset_average_activation_norm.{hook}": torch.tensor(norm)}
    sae = load_sae(written(tmp_path, {"config.json": config, "sae_weights.safetensors": tensors}))
    s = D**0.5 / norm
    pre = s * X @ W_ENC + B_ENC
    codes = pre.clamp(min=0) * (pre * W_DEC.norm(dim=1) > THETA)
    assert same(sae(X), (codes @ W_DEC + B_DEC) / s)
    assert sae.cfg.site == "resid_post.4"
    with pytest.raises(UserError, match="token-wise"):
        files = {"config.json": config | {"norm_activation": "token-wise"}, "sae_weights.safetensors": tensors}
        load_sae(written(tmp_path / "b", files))


def test_qwen_scope_transposes_both_and_reads_k_from_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "SAE-Res-Qwen3-1.7B-W32K-L0_5"
    folder.mkdir()
    (folder / "layer8.sae.pt").touch()
    source = source_of(folder / "layer8.sae.pt")
    tensors = {"W_enc": W_ENC.T, "W_dec": W_DEC.T, "b_enc": B_ENC, "b_dec": B_DEC}
    sae = FORMATS["qwen_scope"].read(source, tensors, {})
    assert isinstance(sae, Sae)
    codes = largest(X @ W_ENC + B_ENC)
    assert same(sae.encode(X), codes)
    assert same(sae(X), codes @ W_DEC + B_DEC)
    assert (sae.cfg.site, sae.cfg.k) == ("resid_post.8", 5)


def test_openai_relu_and_topk_are_read_and_others_refused(tmp_path: Path) -> None:
    folder = tmp_path / "resid_post_mlp" / "autoencoders"
    folder.mkdir(parents=True)
    (folder / "6.pt").touch()
    source = source_of(folder / "6.pt")
    tensors = {"pre_bias": B_DEC, "latent_bias": B_ENC, "encoder.weight": W_ENC.T, "decoder.weight": W_DEC.T}
    tensors |= {"stats_last_nonzero": torch.zeros(F)}
    sae = FORMATS["openai"].read(source, tensors, {"activation": "ReLU"})
    assert isinstance(sae, Sae)
    assert same(sae.encode(X), ((X - B_DEC) @ W_ENC + B_ENC).clamp(min=0))
    assert sae.cfg.site == "resid_post.6"
    said = {"activation": "TopK", "activation_state_dict/k": K, "activation_state_dict/postact_fn": "ReLU"}
    sae = FORMATS["openai"].read(source, tensors, said)
    mean, spread = X.mean(1, keepdim=True), X.std(1, keepdim=True)
    codes = largest(((X - mean) / (spread + 1e-5) - B_DEC) @ W_ENC + B_ENC)
    assert same(sae.encode(X)[:, :F], spread * codes)
    assert same(sae(X), spread * (codes @ W_DEC + B_DEC) + mean)
    assert not same(sae(X), spread * (codes @ W_DEC) + mean), "control: pre_bias is carried by the spread"
    with pytest.raises(UserError, match="does not say its k"):
        FORMATS["openai"].read(source, tensors, {"activation": "TopK"})
    with pytest.raises(UserError, match="Identity"):
        FORMATS["openai"].read(source, tensors, said | {"activation_state_dict/postact_fn": "Identity"})


TOPK = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T, "b_dec": B_DEC}


def dictionary(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], **declared: Any) -> Sae:
    """Read as dictionary_learning, without the process that opens the pickle."""
    (written(folder, {"config.json": config}) / "ae.pt").touch()
    found = FORMATS["dictionary_learning"].read(source_of(folder, **declared), tensors, {})
    assert isinstance(found, Sae)
    return found


def test_dictionary_learning_untracked_threshold_is_an_error_with_the_fix(tmp_path: Path) -> None:
    config = {"trainer": {"dict_class": "BatchTopKSAE", "activation_dim": D, "dict_size": F, "k": K}}
    tensors = TOPK | {"k": torch.tensor(K), "threshold": torch.tensor(-1.0)}
    codes = gated((X - B_DEC) @ W_ENC + B_ENC, 0.2)
    with pytest.raises(UserError, match="below zero"):
        dictionary(tmp_path, tensors, config)
    with pytest.raises(UserError, match="holds no threshold"):
        dictionary(tmp_path, TOPK, config)
    for key in ("k", "threshold"):
        with pytest.raises(ArtefactError, match=r"7 thresholds|k of 7 numbers"):
            dictionary(tmp_path, tensors | {"threshold": torch.tensor(0.2)} | {key: torch.ones(7)}, config)
    for found in (tensors, TOPK):  # before 22 December 2024 there were no such tensors
        assert same(dictionary(tmp_path, found, config, threshold=0.2).encode(X), codes)


def test_dictionary_learning_jumprelu_thresholds_may_be_below_zero(tmp_path: Path) -> None:
    """Its codes pass a ReLU after the gate, so such a threshold is one of zero."""
    theta = THETA - 0.4
    assert (theta < 0).any()
    sae = dictionary(tmp_path, PLAIN | {"threshold": theta}, {"trainer": {"dict_class": "JumpReluAutoEncoder"}})
    pre = X @ W_ENC + B_ENC
    assert same(sae.encode(X), (pre * (pre > theta)).clamp(min=0))


def test_dictionary_learning_without_k_takes_the_trainers_or_asks(tmp_path: Path) -> None:
    trainer = {"dict_class": "AutoEncoderTopK", "activation_dim": D, "dict_size": F}
    codes = largest((X - B_DEC) @ W_ENC + B_ENC)
    assert same(dictionary(tmp_path, TOPK, {"trainer": trainer | {"k": K}}).encode(X), codes)
    assert same(dictionary(tmp_path, TOPK, {"trainer": trainer}, k=K).encode(X), codes)
    with pytest.raises(UserError, match="does not say its k"):
        dictionary(tmp_path, TOPK, {"trainer": trainer})
    with pytest.raises(ArtefactError, match=r"lacks b_dec"):
        dictionary(tmp_path, {k: v for k, v in TOPK.items() if k != "b_dec"}, {"trainer": trainer}, k=K)


def test_dictionary_learning_sites_and_both_spellings(tmp_path: Path) -> None:
    trainer = {"dict_class": "AutoEncoderTopK", "k": K, "layer": 4, "lm_name": "gpt2"}

    def site(buffer: Any = None, **said: Any) -> str | None:
        return dictionary(tmp_path, TOPK, {"trainer": trainer | said, "buffer": buffer}).cfg.site

    assert site() == "resid_post.4"
    assert (site({"io": "out"}), site({"io": "in"}), site({"io": "in_and_out"})) == (
        "resid_post.4",
        "resid_pre.4",
        None,
    )
    assert site({"io": "in"}, submodule_name="attention_out_layer_3") == "attn_out.3"
    assert site(layer=None) is None
    matryoshka = PLAIN | {"k": torch.tensor(K), "threshold": torch.tensor(0.3), "group_sizes": torch.tensor([F])}
    for name in ("MatroyshkaBatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        sae = dictionary(tmp_path, matryoshka, {"trainer": {"dict_class": name}})
        assert same(sae.encode(X), gated((X - B_DEC) @ W_ENC + B_ENC, 0.3))


def test_dictionary_learning_types_its_config_before_use(tmp_path: Path) -> None:
    trainer = {"dict_class": "AutoEncoderTopK", "k": K}
    for key, wrong in (("k", "5"), ("k", 0), ("k", 2.5), ("dict_class", ["AutoEncoder"]), ("lm_name", 3)):
        with pytest.raises(UserError, match=f"trainer in .* is not a valid .*: {key}:"):
            dictionary(tmp_path, TOPK, {"trainer": trainer | {key: wrong}})
    for wrong in (None, [], "AutoEncoder"):
        with pytest.raises(UserError, match="is not a valid"):
            dictionary(tmp_path, TOPK, {"trainer": wrong})
    with pytest.raises(ArtefactError, match=r"lacks trainer\.dict_class"):
        dictionary(tmp_path, TOPK, {"trainer": {"k": K}})
    first = {k: v for k, v in TOPK.items() if k != "b_dec"} | {"bias": B_DEC}  # the first configs named no class
    sae = dictionary(tmp_path, first, {"trainer": {"trainer_class": "PAnnealTrainer"}})
    assert same(sae.encode(X), ((X - B_DEC) @ W_ENC + B_ENC).clamp(min=0))
    with pytest.raises(ArtefactError, match="says d_in = 9 in its config; its weights have d_in = 16"):
        dictionary(tmp_path, TOPK, {"trainer": trainer | {"activation_dim": 9}})


def test_what_is_declared_is_used_or_refused(tmp_path: Path) -> None:
    coder = written(tmp_path / "a", {"cfg.json": {"k": K}, "sae.safetensors": LINEAR})
    gemma = written(tmp_path / "b", {"params.safetensors": GEMMA_3})
    hooks = {"act_fn": "relu", "norm_activation": "inference", "hook_point_in": "blocks.3.hook_resid_post"}
    tensors = {"W_E": W_ENC, "b_E": B_ENC, "W_D": W_DEC, "b_D": B_DEC}
    llama = written(tmp_path / "c", {"config.json": hooks, "sae_weights.safetensors": tensors})
    assert load_sae(coder, site="resid_post.1").cfg.k == K
    unused: list[tuple[Path, dict[str, Any]]] = [(coder, {"threshold": 0.3}), (coder, {"input_scale": 2.0})]
    unused += [(coder, {"k": 3}), (coder, {"k": K})]
    unused += [(gemma, {"k": 3}), (gemma, {"transcode": True}), (llama, {"k": 3}), (llama, {"input_scale": 2.0})]
    for folder, declared in unused:
        with pytest.raises(UserError, match=f"was given {next(iter(declared))}"):
            load(folder, **declared)
    silent = written(tmp_path / "d", {"cfg.json": {}, "sae.safetensors": LINEAR})
    assert load_sae(silent, k=3).cfg.k == 3
    with pytest.raises(UserError, match="k = 49 is more than d_sae = 48"):
        load(silent, k=F + 1)


def test_inspect_shows_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"k": K, "batch_size": 8}
    assert main(["inspect", str(written(tmp_path, {"cfg.json": config, "sae.safetensors": LINEAR})), "--json"]) == 0
    assert "own loader drops: batch_size" in json.loads(capsys.readouterr().out)["provenance"]


def test_tensors_of_other_dimensions_are_one_sentence(tmp_path: Path) -> None:
    """A third axis, or one too few, in each layout that is read here: never a traceback."""
    hooks = {"act_fn": "relu", "norm_activation": "inference", "hook_point_in": "a"}
    layouts: dict[str, tuple[dict[str, Any], str, dict[str, Tensor]]] = {
        "sparsify": ({"cfg.json": {"k": K}}, "sae.safetensors", LINEAR),
        "gemma_scope_2": ({}, "params.safetensors", GEMMA_3),
        "llama_scope": (
            {"hyperparams.json": hooks},
            "checkpoints/final.safetensors",
            {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T, "decoder.bias": B_DEC},
        ),
        "llama_scope_2": (
            {"config.json": hooks},
            "sae_weights.safetensors",
            {"W_E": W_ENC, "b_E": B_ENC, "W_D": W_DEC, "b_D": B_DEC},
        ),
    }
    for name, (configs, file, tensors) in layouts.items():
        load(written(tmp_path / name, configs | {file: tensors}))  # control: it opens as it is
        for key in tensors:
            for wrong in (tensors[key][None], tensors[key].flatten()[:-1]):
                with pytest.raises((UserError, ArtefactError)) as caught:
                    load(written(tmp_path / name, configs | {file: tensors | {key: wrong}}))
                assert "\n" not in caught.value.message
    for name, key in (("topk", "encoder.weight"), ("openai", "decoder.weight"), ("qwen", "W_enc")):
        for wrong in (W_ENC[None], B_ENC):
            with pytest.raises((UserError, ArtefactError)):
                if name == "topk":
                    dictionary(
                        tmp_path / name, TOPK | {key: wrong}, {"trainer": {"dict_class": "AutoEncoderTopK", "k": K}}
                    )
                else:
                    pickled(tmp_path / name, name, {key: wrong})


def pickled(folder: Path, name: str, changed: dict[str, Tensor], **declared: Any) -> Sae:
    """Read as OpenAI's or Qwen-Scope's file, without the process that opens the pickle."""
    format, file = ("openai", "autoencoders/6.pt") if name == "openai" else ("qwen_scope", "layer8.sae.pt")
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    tensors = {"pre_bias": B_DEC, "latent_bias": B_ENC, "encoder.weight": W_ENC.T, "decoder.weight": W_DEC.T}
    if name == "qwen":
        tensors = {"W_enc": W_ENC.T, "W_dec": W_DEC.T, "b_enc": B_ENC, "b_dec": B_DEC}
    found = FORMATS[format].read(source_of(path, **declared), tensors | changed, {})
    assert isinstance(found, Sae)
    return found


def test_qwen_scope_reads_k_from_the_config_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "SAE-Res-Qwen3-1.7B-W32K-L0_50"
    assert pickled(tmp_path / "mine", "qwen", {}, k=7).cfg.k == 7
    with pytest.raises(UserError, match="k = 50 is more than d_sae = 48"):
        pickled(folder, "qwen", {})
    written(folder, {"config.json": {"k": K, "d_sae": F}})
    assert pickled(folder, "qwen", {}).cfg.k == K
    written(folder, {"config.json": {"k": "5"}})
    with pytest.raises(UserError, match=r"not a valid .*: k:"):
        pickled(folder, "qwen", {})
    other = tmp_path / "average_L0_9"  # somebody's own folder
    with pytest.raises(UserError, match="does not say its k"):
        pickled(other, "qwen", {})


def test_llama_scope_2_topk_by_decoder_norm_is_read_exactly(tmp_path: Path) -> None:
    hook = "blocks.4.hook_resid_post"
    config = {"sae_type": "sae", "hook_point_in": hook, "act_fn": "topk", "top_k": K, "norm_activation": "inference"}
    tensors = {"W_E": W_ENC, "b_E": B_ENC, "W_D": W_DEC, "b_D": B_DEC}
    files = {"config.json": config, "sae_weights.safetensors": tensors}
    norms = W_DEC.norm(dim=1)
    codes = largest((X @ W_ENC + B_ENC) * norms)
    sae = load_sae(written(tmp_path, files))  # silent about decoder norms: its library's default is to use them
    assert same(sae.encode(X), codes)
    assert same(sae(X), (codes / norms) @ W_DEC + B_DEC)
    assert "times the norms" in sae.cfg.metadata["notice"]
    plain = load_sae(written(tmp_path, files | {"config.json": config | {"sparsity_include_decoder_norm": False}}))
    assert same(plain.encode(X), largest(X @ W_ENC + B_ENC))
    assert not same(plain(X), sae(X)), "control: the two choose other latents"
    with pytest.raises(UserError, match="other tokens of a batch"):
        load_sae(written(tmp_path, files | {"config.json": config | {"act_fn": "batchtopk"}}))
    for wrong in ({"top_k": "5"}, {"norm_activation": []}, {"d_model": "16"}, {"act_fn": 3}):
        with pytest.raises(UserError, match=f"not a valid .*: {next(iter(wrong))}:"):
            load_sae(written(tmp_path, files | {"config.json": config | wrong}))
