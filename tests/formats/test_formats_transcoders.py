"""Transcoders in the layouts of SAEs: codes and output as the published formula says, and never taken for an SAE."""

from pathlib import Path

import numpy as np
import pytest
from sample_saes import D, F, K, inputs, random_sae
from test_formats_foreign import B_DEC, B_ENC, PLAIN, THETA, W_DEC, W_ENC, drawn, gated, largest, same, written

from saelab.core.errors import ArtefactError, UserError
from saelab.saes.formats import load_sae, load_transcoder, save_sae

X = inputs()
SKIP = drawn(D, D, seed=5)
PRE = X @ W_ENC + B_ENC


@pytest.mark.parametrize("kind", ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"])
def test_saelens(tmp_path: Path, kind: str) -> None:
    metadata = {"hook_name": "blocks.3.hook_mlp_in", "hook_name_out": "blocks.3.hook_mlp_out"}
    config = {"architecture": kind, "d_in": D, "d_sae": F, "d_out": D, "metadata": metadata}
    config |= {"apply_b_dec_to_input": False, "normalize_activations": "none"}
    extra = ({"threshold": THETA} if "jump" in kind else {}) | ({"W_skip": SKIP} if "skip" in kind else {})
    folder = written(tmp_path, {"cfg.json": config, "sae_weights.safetensors": PLAIN | extra})
    found = load_transcoder(folder)
    codes = gated(PRE, THETA if "jump" in kind else 0.0)
    assert same(found.encode(X), codes)
    assert same(found(X), codes @ W_DEC + B_DEC + (X @ SKIP.T if "skip" in kind else 0))
    assert found.cfg.site_out == "mlp_out.3"
    with pytest.raises(UserError, match="maps one site to another"):
        load_sae(folder)


def test_gemma_scope(tmp_path: Path) -> None:
    folder = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_7" / "width_16k" / "average_l0_76"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{k: v.numpy() for k, v in (PLAIN | {"threshold": THETA}).items()})
    found = load_transcoder(folder)
    assert same(found(X), gated(PRE, THETA) @ W_DEC + B_DEC)
    assert (found.cfg.site_out, found.cfg.lm, found.cfg.metadata["l0"]) == ("mlp_out.7", "hf:google/gemma-2-2b", 76)


def test_gemma_scope_2_and_its_skip_connection(tmp_path: Path) -> None:
    tensors = {"w_enc": W_ENC, "w_dec": W_DEC, "b_enc": B_ENC, "b_dec": B_DEC, "threshold": THETA}
    folder = tmp_path / "gemma-scope-2-1b-pt" / "transcoder" / "layer_9_width_16k_l0_small_affine"
    found = load_transcoder(written(folder, {"params.safetensors": tensors | {"affine_skip_connection": SKIP}}))
    assert same(found(X), gated(PRE, THETA) @ W_DEC + B_DEC + X @ SKIP)
    assert found.cfg.site_out == "mlp_out.9"
    crossing = tensors | {"w_dec": drawn(F, 2, D)}
    with pytest.raises(UserError, match="cross-layer"):
        load_transcoder(written(tmp_path / "transcoder" / "layer_9_width_16k", {"params.safetensors": crossing}))


def test_sparsify_subtracts_nothing_from_what_it_reads(tmp_path: Path) -> None:
    config = {"num_latents": F, "k": K, "d_in": D, "transcode": True, "skip_connection": True}
    tensors = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC, "W_skip": SKIP}
    found = load_transcoder(written(tmp_path / "layers.7.mlp", {"cfg.json": config, "sae.safetensors": tensors}))
    assert same(found.encode(X), largest(PRE))
    assert same(found(X), largest(PRE) @ W_DEC + B_DEC + X @ SKIP.T)
    save_sae(found, tmp_path / "again", "sparsify")
    assert same(load_transcoder(tmp_path / "again")(X), found(X))
    alone = written(tmp_path / "b", {"cfg.json": config | {"transcode": False}, "sae.safetensors": tensors})
    with pytest.raises(UserError, match="skip connection"):
        load_sae(alone)


def test_llama_scope_has_a_scale_for_each_side(tmp_path: Path) -> None:
    norm_in, norm_out, theta = 9.0, 3.0, 0.3
    config = {"hook_point_in": "blocks.4.ln2.hook_normalized", "hook_point_out": "blocks.4.hook_mlp_out"}
    config |= {"act_fn": "jumprelu", "jump_relu_threshold": theta}
    config |= {"dataset_average_activation_norm": {"in": norm_in, "out": norm_out}}
    linear = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T, "decoder.bias": B_DEC}
    files = {"hyperparams.json": config, "checkpoints/final.safetensors": linear}
    found = load_transcoder(written(tmp_path, files))
    s, s_out = D**0.5 / norm_in, D**0.5 / norm_out
    codes = gated(s * X @ W_ENC + B_ENC, theta * s)
    assert same(found.encode(X) * s, codes)
    assert same(found(X), (codes @ W_DEC + B_DEC) / s_out)


def test_what_is_not_whole_or_no_transcoder_is_said(tmp_path: Path) -> None:
    save_sae(random_sae("topk"), tmp_path / "sae")
    with pytest.raises(UserError, match="Open it with load_sae"):
        load_transcoder(tmp_path / "sae")
    config = {"architecture": "jumprelu_transcoder", "d_in": D, "d_sae": F, "d_out": D, "metadata": {}}
    with pytest.raises(ArtefactError, match="threshold"):
        load_transcoder(written(tmp_path / "t", {"cfg.json": config, "sae_weights.safetensors": PLAIN}))
