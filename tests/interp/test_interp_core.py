"""core and meta_structure: known answers (identity, zero, planted), upstream's formulas, and its file layout."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from saebench_fields import problems
from torch import Tensor

from saelab.activations.site import read_site
from saelab.interp.features.codes import encode_codes
from saelab.interp.suite import core, meta_structure
from saelab.interp.suite.result import Result
from saelab.interp.suite.saebench_json import lacking, record, write_saebench
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, SaeConfig
from saelab.text.corpora import Document
from saelab.text.pack import pack

SITE, D = "resid_post.1", 32
CONFIG = core.PRESETS["tiny"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sae_of(directions: Tensor, *, k: int, bias: float = 0.0) -> Sae:
    weights = {"W_enc": directions.T, "W_dec": directions, "b_enc": torch.full((len(directions),), bias)}
    cfg = SaeConfig(architecture="topk", d_in=D, d_sae=len(directions), k=k, site=SITE, lm="tiny")
    return TopKSae(cfg, weights | {"b_dec": torch.zeros(D)})


def identity() -> Sae:
    return sae_of(torch.cat([torch.eye(D), -torch.eye(D)]), k=2 * D)


def silent() -> Sae:
    return sae_of(torch.eye(D), k=D, bias=-1e6)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny_lm()


@pytest.fixture(scope="module")
def clean(lm: LanguageModel) -> core.CorePass:
    texts = [f"document {i} tells of {i * 7919 % 1000} things that are not told elsewhere. " * 3 for i in range(12)]
    packed = pack(
        [Document(str(i), t) for i, t in enumerate(texts)],
        lambda x: lm.tokenize(x, bos=False),
        context=48,
        bos_id=lm.bos_id,
        separator_id=257,
        special_ids=lm.special_ids,
    )
    return core.read_core(lm, read_site(lm, packed, SITE), packed.special_ids, 8)


def test_an_identity_keeps_everything_and_a_silent_sae_nothing(lm: LanguageModel, clean: core.CorePass) -> None:
    kept = core.evaluate(lm, clean, identity(), CONFIG).metrics
    assert kept["model_performance_preservation"]["ce_loss_score"] == pytest.approx(1, abs=1e-4)
    assert kept["model_behavior_preservation"]["kl_div_score"] == pytest.approx(1, abs=1e-4)
    assert kept["shrinkage"]["l2_ratio"] == pytest.approx(1, abs=1e-5)
    assert kept["reconstruction_quality"]["fraction_variance_explained"] == pytest.approx(1, abs=1e-6)
    assert kept["sparsity"]["l0"] == pytest.approx(D, abs=0.1) and kept["misc_metrics"]["frac_alive"] == 1
    lost = core.evaluate(lm, clean, silent(), CONFIG)
    assert lost.metrics["sparsity"] == {"l0": 0, "l1": 0} and lost.metrics["misc_metrics"]["frac_alive"] == 0
    assert lost.metrics["reconstruction_quality"]["cossim"] == 0
    assert lost.details[0]["consistent_activation_heuristic"] is None
    # with specials struck too, as upstream does when it is not told otherwise, zero is exactly zero ablation
    every = torch.ones_like(clean.clean.kept)
    everywhere = replace(clean.clean, kept=every, scored=every)
    ce, kl = core.substituted(lm, everywhere, torch.zeros_like)
    again = core.evaluate(lm, replace(clean, clean=everywhere, ce_zero=ce, kl_zero=kl), silent(), CONFIG).metrics
    assert again["model_performance_preservation"]["ce_loss_score"] == pytest.approx(0, abs=1e-6)


def test_the_as_coded_fields_are_upstreams_formulas(clean: core.CorePass) -> None:
    """Control: the true share of variance explained differs from both of upstream's."""
    sae = sae_of(torch.nn.functional.normalize(drawn(3 * D, D), dim=1), k=8)
    row = core.reconstruction(sae, clean.clean, 4)["reconstruction_quality"]
    batches = [clean.clean.take(slice(i, i + 4)).rows for i in (0, 4)]
    out = [sae(x) for x in batches]
    errors = [(x - y).square().sum(-1) for x, y in zip(batches, out, strict=True)]
    power = sum(float(x.square().sum(-1).mean()) for x in batches) / 2
    coded = 1 - sum(float(e.mean()) for e in errors) / 2 / (power - (power / D) ** 2)
    assert row["explained_variance"] == pytest.approx(coded, rel=1e-4)
    legacy = torch.cat([1 - e / (x - x.mean(0)).square().sum(-1) for e, x in zip(errors, batches, strict=True)])
    assert row["explained_variance_legacy"] == pytest.approx(float(legacy.mean()), rel=1e-3)
    assert row["mse"] == pytest.approx(float(torch.cat([e / len(e) for e in errors]).mean()), rel=1e-4)
    true = row["fraction_variance_explained"]
    assert true is not None and abs(true - coded) > 0.01


def test_densities_count_rows_and_contexts() -> None:
    rows = torch.zeros(100, D)
    rows[::2, 0] = 1.0  # every second row
    rows[:10, 1] = 1.0  # all of one context
    density, heuristic = core.counted_densities(encode_codes(identity().encode, rows, np.arange(100)), 10)
    assert density[:3] == [0.5, pytest.approx(0.1), 0.0]
    assert heuristic[:3] == [5.0, 10.0, None]


def test_weight_geometry_finds_the_nearest_other_latent() -> None:
    directions = torch.eye(D)[:4].clone()
    directions[3] = torch.tensor([0.6, 0.8] + [0.0] * (D - 2))
    found = core.weight_geometry(sae_of(directions, k=2), block=3)
    assert found["max_decoder_cosine_sim"] == pytest.approx([0.6, 0.8, 0.0, 0.8])
    assert found["encoder_decoder_cosine_sim"] == pytest.approx([1, 1, 1, 1])


# --- meta-structure ---


def test_a_dictionary_made_of_few_directions_is_explained_and_a_random_one_is_not() -> None:
    parts = torch.nn.functional.normalize(drawn(8, D), dim=1)
    pairs = drawn(128, 8, seed=1).abs()
    pairs = pairs * (pairs >= pairs.topk(2, dim=1).values[:, -1:])
    config = meta_structure.MetaConfig(train_steps=100, train_batch_size=64, learning_rate=3e-2, k=2)
    made = meta_structure.evaluate(pairs @ parts, config).metrics["meta_structure"]
    random = meta_structure.evaluate(drawn(128, D, seed=2), config).metrics["meta_structure"]
    share, other = (m["decoder_fraction_variance_explained"] for m in (made, random))
    assert share is not None and other is not None and share > 0.7 and other < share - 0.2
    # norms say nothing (powers of two scale exactly)
    norms = torch.exp2((torch.arange(128) % 4).float())[:, None]
    again = meta_structure.evaluate(norms * (pairs @ parts), config).metrics["meta_structure"]
    assert again["decoder_fraction_variance_explained"] == pytest.approx(share, abs=1e-6)


# --- SAEBench's files ---


def test_files_hold_what_upstreams_schema_demands(lm: LanguageModel, clean: core.CorePass, tmp_path: Path) -> None:
    sae = identity()
    made = core.evaluate(lm, clean, sae, CONFIG), meta_structure.evaluate(sae.W_dec, meta_structure.PRESETS["tiny"])
    for result in made:
        path = write_saebench(result, sae, "tiny/one", tmp_path, version="0")
        assert path is not None and path.name == "tiny_one_custom_sae_eval_results.json"
        file = json.loads(path.read_text())
        assert problems(file) == []
        assert file["sae_cfg_dict"]["hook_name"] == "blocks.1.hook_resid_post"
        again = write_saebench(result, sae, "tiny/one", tmp_path / "again", version="0")
        assert again is not None and again.read_bytes() == path.read_bytes()
    # control: the checker sees a missing number and a wrong type
    file["eval_result_metrics"]["meta_structure"]["final_reconstruction_mse"] = None
    file["datetime_epoch_millis"] = "now"
    assert len(problems(file)) == 2


def test_a_result_without_a_demanded_number_is_not_written(tmp_path: Path) -> None:
    result = Result("ravel", {"ravel": {"cause_score": 0.5, "isolation_score": None}}, {})
    assert lacking(result) == ["isolation_score"]
    assert write_saebench(result, identity(), "x", tmp_path, version="0") is None and not list(tmp_path.iterdir())
    dead = record(core_with_nothing(), identity(), "x", version="0")
    assert dead["eval_result_metrics"]["sparsity"]["l0"] == -1.0  # upstream's own mark in `core`


def core_with_nothing() -> Result:
    return Result("core", {"sparsity": {"l0": None}}, {})
