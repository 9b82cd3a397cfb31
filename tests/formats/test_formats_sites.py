"""Dictionaries of several sites in others' layouts: the libraries' own codes, and never taken for an SAE."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_formats_foreign import drawn, written

from saelab.core.errors import ArtefactError, UserError
from saelab.saes.crosscoder import Crosscoder
from saelab.saes.formats import load, load_crosscoder, load_sae, load_transcoder
from saelab.store.tensors import read_tensors

GOLDEN = Path(__file__).parent / "golden_sites"
CASES = sorted(p.parent for p in GOLDEN.rglob("io.safetensors"))
SETS = [p for p in CASES if p.name.startswith("set_")]
SEVERAL = [p for p in CASES if p not in SETS]
D, F, S = 12, 24, 3


def test_there_are_golden_files() -> None:
    assert {p.relative_to(GOLDEN).parts[0] for p in CASES} == {"llamascopium", "circuit_tracer", "gemma_scope_2"}
    assert len(SEVERAL) >= 12 and len(SETS) == 2


@pytest.mark.parametrize("folder", SEVERAL, ids=[str(p.relative_to(GOLDEN)) for p in SEVERAL])
def test_codes_and_output_are_the_librarys_own(folder: Path) -> None:
    expected = read_tensors(folder / "io.safetensors")
    found = load_crosscoder(folder)
    codes = found.encode(expected["x"])
    assert bool((codes > 0).any()) and bool((codes == 0).any())
    assert torch.allclose(codes, expected["codes"], atol=1e-5)
    assert torch.allclose(found(expected["x"]), expected["rebuilt"], atol=1e-5)
    swapped = expected["x"][:, [1, 0, 2]]
    assert not torch.allclose(found(swapped), expected["rebuilt"], atol=1e-2)  # control: sites in another order
    with pytest.raises(UserError, match="several sites"):
        load_sae(folder)
    with pytest.raises(UserError, match="not a transcoder"):
        load_transcoder(folder)


@pytest.mark.parametrize("folder", SETS, ids=[p.name for p in SETS])
def test_every_layer_of_a_set_is_a_transcoder(folder: Path) -> None:
    expected = read_tensors(folder / "io.safetensors")
    for layer in range(S):
        found = load_transcoder(folder / f"layer_{layer}.safetensors")
        x = expected["x"][:, layer]
        assert torch.allclose(found.encode(x), expected["codes"][:, layer], atol=1e-5)
        assert torch.allclose(found(x), expected["rebuilt"][:, layer], atol=1e-5)
        assert found.cfg.site_out == f"mlp_out.{layer}" and found.cfg.lm == "hf:google/gemma-2-2b"
    assert not torch.allclose(found(expected["x"][:, 0]), expected["rebuilt"][:, 0], atol=1e-2)  # control
    with pytest.raises(UserError, match=r"3 transcoders.*layer_0.safetensors, layer_1") as caught:
        load(folder)
    assert "layer_0.safetensors" in str(caught.value.hint)


def test_a_decoder_of_2025_is_told_by_its_shape_and_a_square_one_is_refused(tmp_path: Path) -> None:
    tensors = read_tensors(GOLDEN / "circuit_tracer" / "set_relu" / "layer_1.safetensors")
    new, old, square = (
        tmp_path / "layer_0.safetensors",
        tmp_path / "layer_1.safetensors",
        tmp_path / "layer_2.safetensors",
    )
    save_file(tensors, new)
    save_file(tensors | {"W_dec": tensors["W_dec"].T.contiguous()}, old)
    x = drawn(5, D)
    assert torch.equal(load_transcoder(new)(x), load_transcoder(old)(x))
    small = {"W_enc": drawn(D, D), "W_dec": drawn(D, D, seed=1), "b_enc": drawn(D), "b_dec": drawn(D, seed=2)}
    save_file(small, square)
    with pytest.raises(UserError, match="is square"):
        load_transcoder(square)
    save_file(tensors | {"W_dec": drawn(F, D + 1)}, square)
    with pytest.raises(ArtefactError, match="was expected"):
        load_transcoder(square)


def gemma(folder: Path, kind: str, hook: str, **change: Any) -> Path:
    """Files of a crosscoder of three sites."""
    config = {"architecture": "jump_relu", "type": kind, "hf_hook_point_in": hook, "hf_hook_point_out": hook}
    files: dict[str, Any] = {"config.json": config | {"model_name": "google/gemma-3-270m-pt"} | change}
    for i in range(S):
        shapes = {"w_enc": (D, F), "w_dec": (F, S, D), "b_enc": (F,), "b_dec": (D,), "threshold": (F,)}
        files[f"params_layer_{i}.safetensors"] = {n: drawn(*s, seed=9 * i + 1) for n, s in shapes.items()}
    return written(folder, files)


def test_gemma_scope_2_crosscoder(tmp_path: Path) -> None:
    """Latents read their own site and write all; `type` alone does not make a file of one site a crosscoder."""
    found = load_crosscoder(gemma(tmp_path / "a", "crosscoder", "model.layers.{5,9,12}.output"))
    assert found.cfg.sites == found.cfg.sites_out == ("resid_post.5", "resid_post.9", "resid_post.12")
    assert (found.cfg.kind, found.cfg.lm) == ("cross_layer", "hf:google/gemma-3-270m")
    x = drawn(7, S, D, seed=4)
    parts = [read_tensors(tmp_path / "a" / f"params_layer_{i}.safetensors") for i in range(S)]
    pre = torch.stack([x[:, i] @ p["w_enc"] + p["b_enc"] for i, p in enumerate(parts)], 1)
    codes = pre.clamp(min=0) * (pre > torch.stack([p["threshold"] for p in parts]))
    rebuilt = torch.einsum("nsf,sftd->ntd", codes, torch.stack([p["w_dec"] for p in parts]))
    assert torch.allclose(found(x), rebuilt + torch.stack([p["b_dec"] for p in parts]), atol=1e-5)

    one = parts[0] | {"w_dec": drawn(F, D)}
    flat = written(tmp_path / "b", {"config.json": {"type": "crosscoder"}, "params.safetensors": one})
    with pytest.raises(ArtefactError, match="hold tensors of one"):
        load(flat)
    written(flat, {"config.json": {"type": "sae"}})
    assert load_sae(flat).cfg.d_sae == F  # control: the same tensors under their own type
    with pytest.raises(ArtefactError, match="names 2 sites"):
        load(gemma(tmp_path / "c", "crosscoder", "model.layers.{5,9}.output"))


def test_what_is_missing_or_not_read_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "clt"
    shutil.copytree(GOLDEN / "llamascopium" / "clt_topk", folder)
    config = json.loads((folder / "config.json").read_text())
    for change, said in (
        ({"act_fn": "batchtopk"}, "batchtopk"),
        ({"norm_activation": "token-wise"}, "token-wise"),
        ({"hook_points_in": "blocks.0"}, "hook_points_in: Input should be a valid list"),
        ({"hook_points_out": config["hook_points_out"][:2]}, "W_D.2"),
        ({"top_k": 10_000}, "k = 10000"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises((UserError, ArtefactError), match=said):
            load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    assert isinstance(load(folder), Crosscoder)  # control
