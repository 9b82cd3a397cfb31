"""Batch files against the schema that Neuronpedia's importer reads, written down here from its public sources."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saelab.core.errors import UserError
from saelab.explore.material import SaeMaterial
from saelab.explore.neuronpedia import write_neuronpedia
from saelab.explore.opened import Explored, open_explored
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import SaeConfig
from saelab.saes.formats import save_sae

# SAEDashboard's NeuronpediaDashboardBatch, ...Feature and ...Activation, and what
# neuronpedia-utils' convert-saedashboard-to-neuronpedia-export reads of them.
BATCH = {"model_id": str, "layer": int, "sae_set": str, "sae_id_suffix": str | None, "features": list}
FEATURE = {
    "feature_index": int, "frac_nonzero": float, "n_prompts_total": int, "n_tokens_in_prompt": int, "dataset": str,
    "activations": list,
    **{f"neuron_alignment_{end}": kind for end, kind in (("indices", [int]), ("values", [float]), ("l1", [float]))},
    **{f"correlated_{of}_{end}": [int if end == "indices" else float]
       for of in ("neurons", "features") for end in ("indices", "l1", "pearson")},
    "neg_str": [str], "neg_values": [float], "pos_str": [str], "pos_values": [float],
    "freq_hist_data_bar_values": [float], "freq_hist_data_bar_heights": [int],
    "logits_hist_data_bar_values": [float], "logits_hist_data_bar_heights": [int],
    "decoder_weights_dist": [float], "vector": [float],
}  # fmt: skip
ACTIVATION = {
    "bin_min": float, "bin_max": float, "bin_contains": float, "qualifying_token_index": int, "tokens": [str],
    "values": [float],
}  # fmt: skip
PARALLEL = (
    ("neg_str", "neg_values"),
    ("pos_str", "pos_values"),
    ("freq_hist_data_bar_values", "freq_hist_data_bar_heights"),
    ("correlated_features_indices", "correlated_features_pearson"),
    ("neuron_alignment_indices", "neuron_alignment_values"),
)


def check(data: dict[str, Any], schema: dict[str, Any]) -> None:
    """Every key of the schema and no other, each of its kind."""
    assert set(data) == set(schema), set(data) ^ set(schema)
    for key, kind in schema.items():
        if isinstance(kind, list):
            assert all(type(v) is kind[0] for v in data[key]), key
        else:
            assert isinstance(data[key], kind), key


def check_batch(batch: dict[str, Any]) -> None:
    check(batch, BATCH)
    for feature in batch["features"]:
        check(feature, FEATURE)
        for one, other in PARALLEL:
            assert len(feature[one]) == len(feature[other]), one
        for activation in feature["activations"]:
            check(activation, ACTIVATION)
            assert len(activation["tokens"]) == len(activation["values"])
            peak = activation["values"][activation["qualifying_token_index"]]
            assert peak == max(activation["values"]) > 0
            if activation["bin_contains"] > 0:
                assert activation["bin_min"] * (1 - 1e-4) <= peak <= activation["bin_max"] * (1 + 1e-4)
            else:
                assert activation["bin_min"] == -1


@pytest.fixture
def explored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Explored:
    monkeypatch.setenv("SAELAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: tiny_lm())
    g = torch.Generator().manual_seed(0)
    decoder = torch.randn(150, 32, generator=g)
    bias = torch.full((150,), -1.0)
    bias[5] = -1e6  # never active
    weights = {"W_enc": decoder.T / 4, "W_dec": decoder, "b_enc": bias, "b_dec": torch.zeros(32)}
    cfg = SaeConfig(architecture="relu", d_in=32, d_sae=150, site="resid_post.1", lm="org/tiny")
    save_sae(ReluSae(cfg, weights), tmp_path / "mine")
    words = ["tree", "house", "river", "stone", "green", "quick", "seven", "under"]
    rng = np.random.default_rng(0)
    lines = [{"text": " ".join(rng.choice(words, 80))} for _ in range(40)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return open_explored([tmp_path / "mine"], text=f"path:{tmp_path / 'text.jsonl'}")


def test_what_is_written_is_what_the_importer_reads(explored: Explored, tmp_path: Path) -> None:
    assert not explored.has_material("mine") and explored.missing[0].what == "material"
    written = write_neuronpedia(explored, tmp_path / "out", sae_set="mine-res-150", dataset="some/text")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in written] == [
        "mine/batch-0.json", "mine/batch-1.json", "mine/skipped_indexes.json",
    ]  # fmt: skip
    batches = [json.loads(p.read_text()) for p in written[:2]]
    for batch in batches:
        check_batch(batch)
        assert (batch["model_id"], batch["layer"], batch["sae_set"]) == ("tiny", 1, "mine-res-150")
    skipped = json.loads(written[2].read_text())["skipped_indexes"]
    told = [f["feature_index"] for b in batches for f in b["features"]]
    material = explored.material("mine")
    assert 5 in skipped and told == material.live.tolist() and sorted([*told, *skipped]) == list(range(150))
    one, own = batches[0]["features"][3], material.feature(told[3])
    assert one["pos_str"] == [t for t, _ in own.promotes] and one["frac_nonzero"] == own.density
    assert one["vector"] == pytest.approx(explored.opened("mine").sae.W_dec[told[3]].tolist(), rel=1e-4)
    assert sum(one["freq_hist_data_bar_heights"]) == sum(own.histogram.counts) > 0
    with pytest.raises(UserError, match="already holds"):
        write_neuronpedia(explored, tmp_path / "out")


def test_the_check_of_the_schema_can_fail(explored: Explored, tmp_path: Path) -> None:
    batch = json.loads(write_neuronpedia(explored, tmp_path / "out")[0].read_text())
    check_batch(batch)
    for spoil in (
        lambda b: b["features"][0].pop("neg_str"),
        lambda b: b["features"][0].update(frac_nonzero="1 %"),
        lambda b: b["features"][0]["freq_hist_data_bar_values"].append(1.0),
        lambda b: b["features"][0]["activations"][0].update(qualifying_token_index=-1 + 0 * b["layer"]),
    ):
        spoilt = json.loads(json.dumps(batch))
        spoil(spoilt)
        with pytest.raises(AssertionError):
            check_batch(spoilt)


def test_a_lone_sae_is_made_once_and_kept(explored: Explored, tmp_path: Path) -> None:
    """In the cache, under what its weights, model, site and text are."""
    made = explored.material("mine")
    assert isinstance(made, SaeMaterial) and tmp_path / "cache" in made.folder.root.parents
    again = open_explored([tmp_path / "mine"], text=explored.opened("mine").text)
    assert again.has_material("mine") and again.material("mine").folder.root == made.folder.root
    other = open_explored([tmp_path / "mine"])
    assert not other.has_material("mine"), "control: another text is another material"
    rows = again.index.search("“", filters={"state": {"live"}}).rows
    assert {r["feature"] for r in rows} <= set(made.live.tolist()) and rows
