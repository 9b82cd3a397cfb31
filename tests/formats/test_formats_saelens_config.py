"""A SAELens config is typed before anything is done with it: what is wrong in it is one sentence, never a traceback."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_saes import D, F, K
from test_formats_foreign import OLD_CONFIG, PLAIN, THETA, written

from saelab.core.errors import SaelabError, UserError
from saelab.saes.formats import load_sae
from saelab.saes.formats.saelens_config import FACTS, RENAMED, SAELensConfig, known

NEW_CONFIG: dict[str, Any] = {"architecture": "standard", "d_in": D, "d_sae": F, "dtype": "float32", "device": "cpu"}
NEW_CONFIG |= {"apply_b_dec_to_input": True, "normalize_activations": "none"}
NEW_CONFIG["metadata"] = {"hook_name": "blocks.5.hook_resid_pre", "model_name": "gpt2", "sae_lens_version": "6.12.3"}
TOPK = NEW_CONFIG | {"architecture": "topk", "k": K}
WEIGHTS = "sae_weights.safetensors"


def opened(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor] = PLAIN, **declared: Any) -> Any:
    return load_sae(written(folder, {"cfg.json": config, WEIGHTS: tensors}), **declared)


def test_the_controls_open(tmp_path: Path) -> None:
    assert opened(tmp_path / "old", OLD_CONFIG).cfg.site == "resid_pre.5"
    assert opened(tmp_path / "new", NEW_CONFIG).cfg.site == "resid_pre.5"
    assert opened(tmp_path / "topk", TOPK).cfg.k == K


@pytest.mark.parametrize(
    "config, word",
    [
        (OLD_CONFIG | {"hook_point": 5}, "hook_name"),
        (OLD_CONFIG | {"hook_point": ["blocks.5.hook_resid_pre"]}, "hook_name"),
        (NEW_CONFIG | {"metadata": {"hook_name": 5}}, "hook_name"),
        (NEW_CONFIG | {"metadata": {"hook_name": None, "model_name": ["gpt2"]}}, "model_name"),
        (NEW_CONFIG | {"metadata": {"model_from_pretrained_kwargs": "center"}}, "model_from_pretrained_kwargs"),
        (NEW_CONFIG | {"metadata": {"saelab": {"k": "8"}}}, "saelab.k"),
        (NEW_CONFIG | {"metadata": [1]}, "metadata"),
        (NEW_CONFIG | {"normalize_activations": []}, "normalize_activations"),
        (OLD_CONFIG | {"normalize_activations": []}, "normalize_activations"),
        (NEW_CONFIG | {"architecture": ["standard"]}, "architecture"),
        (NEW_CONFIG | {"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input"),
        (NEW_CONFIG | {"reshape_activations": 3}, "reshape_activations"),
        (NEW_CONFIG | {"d_sae": 0}, "d_sae"),
        (NEW_CONFIG | {"d_sae": F + 1}, "d_sae"),
        (NEW_CONFIG | {"d_in": "16"}, "d_in"),
        (TOPK | {"k": "8"}, "k"),
        (TOPK | {"k": 0}, "k"),
        (TOPK | {"k": -3}, "k"),
        (TOPK | {"k": F + 1}, "k"),
        (TOPK | {"k": None}, "k"),
        (TOPK | {"k": True}, "k"),
        (OLD_CONFIG | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": "8"}}, "k"),
        (OLD_CONFIG | {"activation_fn_str": "topk", "activation_fn_kwargs": [8]}, "activation function"),
        (OLD_CONFIG | {"activation_fn_str": ["relu"]}, "activation function"),
        (
            OLD_CONFIG | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "architecture": "gated"},
            "gated",
        ),
    ],
)
def test_a_value_of_another_type_or_size_is_one_sentence(tmp_path: Path, config: dict[str, Any], word: str) -> None:
    with pytest.raises(SaelabError, match=word) as caught:
        opened(tmp_path, config)
    assert "\n" not in str(caught.value)


def test_text_that_is_no_config_is_one_sentence_and_a_mark_before_it_is_no_part_of_it(tmp_path: Path) -> None:
    folder = written(tmp_path, {"cfg.json": NEW_CONFIG, WEIGHTS: PLAIN})
    for text in ("[" * 100_000, '{"d_in": ' + "1" * 10_000 + "}", "[]", "{", '{"d_in": NaN}'):
        (folder / "cfg.json").write_text(text)
        with pytest.raises(SaelabError):
            load_sae(folder)
    (folder / "cfg.json").write_text(json.dumps(NEW_CONFIG), encoding="utf-8-sig")
    assert load_sae(folder).cfg.d_sae == F


def test_thresholds_are_finite_once_they_are_thresholds(tmp_path: Path) -> None:
    config = NEW_CONFIG | {"architecture": "jumprelu"}
    logs = THETA.log()
    assert opened(tmp_path / "a", config, PLAIN | {"log_threshold": logs}).weights()["threshold"].allclose(THETA)
    logs[3] = 1000.0  # finite, and its exponential is not
    with pytest.raises(SaelabError, match="not finite"):
        opened(tmp_path / "b", config, PLAIN | {"log_threshold": logs})
    batch = NEW_CONFIG | {"architecture": "batchtopk", "k": 4.5}
    with pytest.raises(SaelabError, match="one was expected"):
        opened(tmp_path / "c", batch, PLAIN | {"topk_threshold": THETA})


@pytest.mark.parametrize("fact", [{"k": K}, {"threshold": 0.5}, {"input_scale": 2.0}])
def test_a_declared_fact_that_a_relu_sae_does_not_need_is_refused_by_name(tmp_path: Path, fact: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(fact))):
        opened(tmp_path, NEW_CONFIG, **fact)


def test_a_declared_k_stands_in_for_one_that_is_missing(tmp_path: Path) -> None:
    config = {key: value for key, value in TOPK.items() if key != "k"}
    assert opened(tmp_path / "a", config, k=K).cfg.k == K
    with pytest.raises(UserError, match="without its k"):
        opened(tmp_path / "b", config, k=F + 1)


def test_keys_of_training_that_some_version_had_change_nothing(tmp_path: Path) -> None:
    """All of them at once; a key that no version had is refused in test_formats_foreign.py."""
    read = {*SAELensConfig.model_fields, *RENAMED, *FACTS, "activation_fn", "finetuning_method"}
    kept = {key: "anything" for key in known() - read - {"finetuning_scaling_factor"}}
    assert {"noise_scale", "hook_point_eval", "n_eval_seqs"} <= kept.keys()
    plain, long = opened(tmp_path / "a", OLD_CONFIG), opened(tmp_path / "b", kept | OLD_CONFIG)
    assert long.cfg == plain.cfg
    assert opened(tmp_path / "c", kept | NEW_CONFIG).cfg == opened(tmp_path / "d", NEW_CONFIG).cfg


def test_older_names_beside_the_metadata_of_6_yield_to_them(tmp_path: Path) -> None:
    beside = {"hook_name": "blocks.1.hook_mlp_out", "model_name": "gpt2-xl", "model_class_name": "HookedTransformer"}
    assert opened(tmp_path, NEW_CONFIG | beside | {"uses_scaling_factor": False}).cfg.site == "resid_pre.5"
