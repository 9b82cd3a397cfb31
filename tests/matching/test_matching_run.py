"""The matching stage on a tiny LM: what it writes, that its parts agree, and that worse matchings are worse."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from saelab.lm.tiny import tiny_lm
from saelab.matching.run import MatchConfig, run
from saelab.saes.architectures.jump_relu import JumpReluSae
from saelab.saes.base import SaeConfig
from saelab.store.files import read_json
from saelab.text.pack import PackedText

D, F, SITES = 32, 48, ("resid_post.0", "resid_post.1", "resid_post.2")


def sae(order: torch.Tensor) -> JumpReluSae:
    """The same dictionary at every site, shuffled."""
    g = torch.Generator().manual_seed(3)
    decoder = torch.nn.functional.normalize(torch.randn(F, D, generator=g), dim=1)
    threshold = 0.05 + 0.1 * torch.rand(F, generator=g)
    weights = {
        "W_enc": decoder.T.contiguous()[:, order], "W_dec": decoder[order], "b_enc": torch.zeros(F),
        "b_dec": torch.zeros(D), "threshold": threshold[order],
    }  # fmt: skip
    return JumpReluSae(SaeConfig(architecture="jumprelu", d_in=D, d_sae=F), weights)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two steps and the way end to end."""
    root = tmp_path_factory.mktemp("matching")
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 250, (6, 24), generator=g).int()
    documents = torch.arange(12).repeat_interleave(12).reshape(6, 24).int()  # two to a context
    text = PackedText(tokens, documents, tuple("abcdefghijkl"), None, frozenset())
    lm = tiny_lm(n_layers=4, d_model=D)
    saes = [sae(torch.randperm(F, generator=g)) for _ in SITES]
    config = MatchConfig(contexts=6, quantiles=(0.5, 1.0))
    steps = []
    for k, (a, b) in enumerate(pairwise(range(3))):
        run(config, saes[a], saes[b], root / str(k), lm=lm, text=text, sites=(SITES[a], SITES[b]))
        steps.append(pl.read_parquet(root / str(k) / "matching.parquet"))
    run(config, saes[0], saes[2], root / "2", lm=lm, text=text, sites=(SITES[0], SITES[2]), steps=steps)
    return [root / str(k) for k in range(3)]


def test_the_parts_of_a_step_agree(folders: list[Path]) -> None:
    quality, table = read_json(folders[0] / "quality.json"), pl.read_parquet(folders[0] / "matching.parquet")
    assert table.columns == ["a", "b", "cost", "cosine", "partner", "class", "distance", "family", "relation", "into"]
    assert (table["b"] == table["partner"]).all() and set(table["class"]) == {"carried on"}, "the same features"
    assert quality["cost"] == pytest.approx(0, abs=1e-6) and quality["matching_score"] > quality["chance"]
    assert quality["classes"]["carried on"] == F and quality["classes"]["born"] == 0
    assert quality["persistence"]["1.0"] == 1
    whole = {k: v for k, v in quality["skip"].items() if not k.endswith(("_low", "_high"))}
    assert {k: quality["limited"]["quantile_1"][k] for k in whole} == pytest.approx(whole), (
        "all moved is the whole skip"
    )
    errors = quality["mse"]
    assert errors["matched"]["decoder"] < 1e-9 < errors["random"]["decoder"] and errors["identity"]["encoder"] > 1e-9
    assert quality["baselines"]["greedy"] >= quality["cost"] - 1e-6


def test_steps_compose_and_paths_follow_them(folders: list[Path]) -> None:
    quality, paths = read_json(folders[2] / "quality.json"), pl.read_parquet(folders[2] / "paths.parquet")
    assert quality["composed"]["same_as_direct"] == 1
    assert np.allclose(quality["survival"][0], [1, 1])
    assert (paths["length"] == 3).all() and paths["path"].n_unique() == F
    steps = [pl.read_parquet(f / "matching.parquet")["b"].to_list() for f in folders[:2]]
    first = paths.filter(pl.col("path") == 0).sort("site")["feature"].to_list()
    assert first == [0, steps[0][0], steps[1][steps[0][0]]]


def test_controls_and_intervals_are_of_the_same_text(folders: list[Path]) -> None:
    """A control that finds the same pairs differs in nothing but its scale; intervals hold their values."""
    quality = read_json(folders[0] / "quality.json")
    assert set(quality["controls"]) == {"folded", "unfolded"}, "a control is no control of itself"
    for record in quality["controls"].values():
        assert record["same_as_matched"] == 1, "the same dictionary, shuffled: every way finds it"
        assert record["less"]["matching_score"]["value"] == 0 and record["gap"] <= 1e-6
        skipped = record["skip"]["explained_variance"]
        assert record["less"]["explained_variance"]["value"] == pytest.approx(
            quality["skip"]["explained_variance"] - skipped, abs=1e-6
        )
    for place, name in (
        (quality, "matching_score"),
        (quality["skip"], "explained_variance"),
        (quality["skip"], "ce_change"),
    ):
        assert place[f"{name}_low"] < place[name] < place[f"{name}_high"]
    drop = quality["compared_with"]["drop"]
    assert drop["explained_variance_low"] < drop["explained_variance"] < drop["explained_variance_high"]


def test_a_control_is_no_control_of_itself(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 250, (4, 12), generator=g).int()
    text = PackedText(tokens, torch.zeros_like(tokens), ("a",), None, frozenset())
    a, b = (sae(torch.randperm(F, generator=g)) for _ in range(2))
    config = MatchConfig(contexts=4, fold="theta", parts="all")
    run(config, a, b, tmp_path, lm=tiny_lm(n_layers=4, d_model=D), text=text, sites=SITES[:2])
    quality = read_json(tmp_path / "quality.json")
    assert set(quality["controls"]) == {"directions", "unfolded"}
    assert quality["shares"] is None, "the same dictionary: there is no cost to share"
    assert quality["matching_score"] is not None and quality["matching_score_low"] is None, "one document: no interval"
