"""Transcoders, crosscoders and cross-layer transcoders through the command line, on a tiny model."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saelab.cli import main
from saelab.cli.references import split_site
from saelab.lm.tiny import tiny_lm
from saelab.saes.formats import load_transcoder, save_sae
from saelab.saes.transcoder import transcoder

D, F = 32, 64
EYE = torch.eye(D)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--lm` names no download here."""
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: tiny_lm(n_layers=3))
    monkeypatch.setattr("saelab.lm.loading.size_of", lambda ref: (D, 3))


def folder_of(path: Path, *, site: str = "resid_pre.2", out: str = "resid_post.1", scramble: bool = False) -> str:
    """A transcoder that copies: relu(x) and relu(-x). Its two ends are one place in the network, so it rebuilds it."""
    decoder = torch.cat([EYE, -EYE])
    weights = {"W_enc": torch.cat([EYE, -EYE]).T, "W_dec": decoder.roll(1, 0) if scramble else decoder}
    weights |= {"b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}
    save_sae(transcoder(weights, act_fn="relu", site=site, site_out=out, lm="hf:tiny"), path)
    return f"path:{path}"


def clt(folder: Path) -> str:
    """A cross-layer transcoder in llamascopium's layout whose sets copy their own site and write nothing further."""
    encoder, decoder = torch.cat([EYE, -EYE]).T, torch.cat([EYE, -EYE])
    both = torch.stack([torch.zeros_like(decoder), decoder])
    tensors = {"W_E": torch.stack([encoder] * 2), "b_E": torch.zeros(2, F), "W_D.0": decoder[None], "W_D.1": both}
    tensors |= {"b_D.0": torch.zeros(D), "b_D.1": torch.zeros(D)}
    folder.mkdir()
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "sae_weights.safetensors")
    config = {"sae_type": "clt", "act_fn": "relu", "norm_activation": "inference"}
    hooks = {"hook_points_in": ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"]}
    hooks["hook_points_out"] = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    (folder / "config.json").write_text(json.dumps(config | hooks))
    return f"path:{folder}"


def told(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> Any:
    assert main([*map(str, arguments), "--json"]) == code, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_inspect_proves_a_transcoder_by_the_site_that_it_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = told(capsys, "inspect", folder_of(tmp_path / "good"), "--lm", "tiny", "--contexts", 2, "--context", 32)
    assert (record["architecture"], record["activation function"]) == ("transcoder", "relu")
    assert (record["reads"], record["writes"], record["skip connection"]) == ("resid_pre.2", "resid_post.1", False)
    assert record["proof"]["holds"] and record["proof"]["sites"][0]["FVU"] < 1e-6
    assert record["proof"]["sites"][0]["FVU without codes"] > 0.5
    spoiled = folder_of(tmp_path / "bad", scramble=True)  # control
    record = told(capsys, "inspect", spoiled, "--lm", "tiny", "--contexts", 2, "--context", 32, code=3)
    assert not record["proof"]["holds"]
    unread = folder_of(tmp_path / "mlp", site="blocks.1.ln2.hook_normalized", out="mlp_out.1")
    record = told(capsys, "inspect", unread, "--lm", "tiny")
    assert record["proof"] == "Not measured: blocks.1.ln2.hook_normalized is no site that is read here."


def test_inspect_proves_every_site_of_a_cross_layer_transcoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = told(capsys, "inspect", clt(tmp_path / "clt"), "--lm", "tiny", "--contexts", 2, "--context", 32)
    assert (record["architecture"], record["sets"]) == ("cross_layer", f"2 of {F} latents")
    assert [s["site"] for s in record["proof"]["sites"]] == ["resid_post.0", "resid_post.1"]
    assert record["proof"]["holds"] and all(s["FVU"] < 1e-6 for s in record["proof"]["sites"])


def test_convert_and_push_write_transcoders_and_say_what_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder_of(tmp_path / "t")
    told(capsys, "convert", source, tmp_path / "copy")
    first, again = (load_transcoder(tmp_path / name) for name in ("t", "copy"))
    assert again.cfg.model_dump(exclude={"metadata"}) == first.cfg.model_dump(exclude={"metadata"})
    assert all(torch.equal(again.weights()[n], t) for n, t in first.weights().items())
    assert "holds TopK transcoders" in refused(capsys, "convert", source, tmp_path / "other", "--to", "sparsify")
    assert "reads and does not write" in refused(capsys, "convert", clt(tmp_path / "clt"), tmp_path / "x")
    told(capsys, "push", source, f"path:{tmp_path / 'pushed'}", "--incomplete")
    card = (tmp_path / "pushed" / "README.md").read_text()
    assert "# Transcoder: relu" in card and "| writes | resid_post.1 |" in card and "load_transcoder" in card
    assert load_transcoder(tmp_path / "pushed").cfg.site_out == "resid_post.1"


def test_steer_moves_along_the_decoder_row_at_the_site_that_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def steered(reference: str, index: int, *more: object) -> Any:
        shared = ("--prompt", "The cat", "--strength", 40, "--max-new-tokens", 4)
        record = told(capsys, "steer", reference, index, *shared, *more)
        return record | {"steered": record["steered"][0]["text"]}

    one = steered(folder_of(tmp_path / "t"), 3, "--export", tmp_path / "d.safetensors")
    assert one["steered"] != one["unsteered"] and "at resid_post.1" in one["edited"]
    assert torch.equal(load_file(tmp_path / "d.safetensors")["feature_3"], EYE[3])
    reference = clt(tmp_path / "clt")
    two = steered(
        f"{reference}#resid_post.1", F + 3, "--lm", "tiny"
    )  # block 1's latent 3: the same row at the same site
    assert two["steered"] == one["steered"]
    common = ("--prompt", "a", "--strength", 1, "--lm", "tiny")
    assert "one of them must be named" in refused(capsys, "steer", reference, 3, *common)
    assert "does not write to" in refused(capsys, "steer", f"{reference}#resid_post.0", F + 3, *common)
    clamp = refused(capsys, "steer", f"{reference}#resid_post.1", F + 3, *common, "--edit", "clamp")
    assert "code of an SAE feature" in clamp


def test_match_pairs_the_rows_of_two_sites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = torch.Generator().manual_seed(0)
    rows, order = torch.randn(F, D, generator=g), torch.randperm(F, generator=g)

    def crosscoder(folder: Path, second: Tensor) -> str:
        tensors = {"W_E": torch.zeros(2, D, F), "b_E": torch.zeros(2, F), "W_D": torch.stack([rows, second])}
        folder.mkdir()
        save_file(tensors | {"b_D": torch.zeros(2, D)}, folder / "sae_weights.safetensors")
        config = {"sae_type": "crosscoder", "act_fn": "relu", "norm_activation": "inference"}
        (folder / "config.json").write_text(json.dumps(config | {"hook_points": ["layers.1", "layers.2"]}))
        return f"path:{folder}"

    reference = crosscoder(tmp_path / "a", rows[order] * 3)
    sites = (f"{reference}#resid_post.1", f"{reference}#resid_post.2")
    how = ("--parts", "decoder", "--fold", "none")
    (row,) = told(capsys, "match", *sites, *how, "--out", tmp_path / "pairs.parquet")
    assert row["matched"] == F and row["median cosine"] == pytest.approx(1, abs=1e-5)
    pairs = pl.read_parquet(tmp_path / "pairs.parquet")
    assert order[pairs["b"].to_torch()].tolist() == pairs["a"].to_list()
    unrelated = crosscoder(tmp_path / "b", torch.randn(F, D, generator=g))  # control
    (row,) = told(capsys, "match", sites[0], f"{unrelated}#resid_post.2", *how)
    assert row["median cosine"] < 0.9
    (row,) = told(capsys, "match", *sites)
    assert row["median cosine"] == pytest.approx(1, abs=1e-5), "rows of a site have directions alone"
    assert "--parts decoder" in refused(capsys, "match", *sites, "--fold", "none", "--parts", "all")
    assert "decoder rows only" in refused(capsys, "match", *sites, "--fold", "theta", "--parts", "decoder")


def test_a_site_is_named_after_the_last_mark(tmp_path: Path) -> None:
    assert split_site("hf:a/b#blocks.3.hook_resid_post") == ("hf:a/b", "resid_post.3")
    assert split_site("pypi:a==1!b#00") == ("pypi:a==1!b#00", None)
    (tmp_path / "a#b").mkdir()
    assert split_site(f"path:{tmp_path}/a#b") == (f"path:{tmp_path}/a#b", None)
