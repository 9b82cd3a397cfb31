"""A path means something from the repository's name on: a user's own folders decide nothing, however it is written."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from sample_saes import D, F, K
from test_formats_foreign import B_DEC, B_ENC, GEMMA_3, LINEAR, PLAIN, THETA, W_DEC, W_ENC, X, written

from saelab.saes.base import Sae
from saelab.saes.formats import FORMATS, load, source_of
from saelab.saes.transcoder import Transcoder

TRANSPOSED = {"W_enc": W_ENC.T, "W_dec": W_DEC.T, "b_enc": B_ENC, "b_dec": B_DEC}
OPENAI = {"pre_bias": B_DEC, "latent_bias": B_ENC, "encoder.weight": W_ENC.T, "decoder.weight": W_DEC.T}
PICKLED = {"qwen_scope": TRANSPOSED, "openai": OPENAI}


@dataclass(frozen=True)
class Case:
    """Where a release lies under its repository's name, and what its path says."""

    format: str
    path: str
    site: str | None
    lm: str | None = None
    file: str | None = None
    kind: type = Sae


CASES = [
    Case(
        "gemma_scope", "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", "resid_post.12", "hf:google/gemma-2-2b"
    ),
    Case("gemma_scope", "gemma-scope-9b-it-res/embedding/width_4k/average_l0_6", None, "hf:google/gemma-2-9b-it"),
    Case(
        "gemma_scope",
        "gemma-scope-2b-pt-transcoders/layer_7/width_16k/average_l0_76",
        "blocks.7.ln2.hook_normalized",
        "hf:google/gemma-2-2b",
        kind=Transcoder,
    ),
    Case("gemma_scope_2", "gemma-scope-2-1b-pt/mlp_out_all/layer_9_width_16k_l0_small", "mlp_out.9"),
    Case(
        "gemma_scope_2",
        "gemma-scope-2-270m-it/transcoder/layer_3_width_16k_l0_big",
        "model.layers.3.pre_feedforward_layernorm.output",
        kind=Transcoder,
    ),
    Case("qwen_scope", "SAE-Res-Qwen3-1.7B-Base-W32K-L0_5", "resid_post.8", "hf:Qwen/Qwen3-1.7B-Base", "layer8.sae.pt"),
    Case("openai", "resid_delta_mlp_v5_32k/autoencoders", "mlp_out.6", "hf:openai-community/gpt2", "6.pt"),
    Case("sparsify", "pythia-skip/layers.3.mlp", "mlp_out.3"),
    Case("sparsify", "pythia/layers.3/seed4", "resid_post.3"),
]
IDS = [case.path for case in CASES]

# Names that the layouts use somewhere, as a user's folder could be called too.
TEMPTING = ["embedding", "transcoders_vs_saes", "layer_3_study", "layer_3", "average_l0_7", "width_16k", "resid_post"]
TEMPTING += ["transcoder", "layer_5_width_16k_l0_small", "L0_9", "SAE-L0_99", "resid_post_mlp", "layers.5", "h.2"]
TEMPTING += [
    "gemma-scope-2b-pt-transcoders_copy",
    "my gemma-scope-2b-pt-mlp",
    "snapshots",
    "autoencoders",
    "gpt2-small",
]
NAMES = st.sampled_from(TEMPTING) | st.text("abcXYZ_-.0123456789", min_size=1, max_size=12).filter(
    lambda name: name.strip(".") != ""
)
WAYS = ["absolute", "relative", "from inside", "trailing", "path:", "linked"]


def laid_out(root: Path, case: Case) -> Path:
    """The case's files under `root`."""
    folder = root / case.path
    folder.mkdir(parents=True)
    if case.format == "gemma_scope":
        np.savez(folder / "params.npz", **{k: v.numpy() for k, v in (PLAIN | {"threshold": THETA}).items()})
    elif case.format == "gemma_scope_2":
        save_file(GEMMA_3, folder / "params.safetensors")
    elif case.format == "sparsify":
        config = {"num_latents": F, "k": K, "d_in": D, "transcode": False}
        written(folder, {"cfg.json": config, "sae.safetensors": LINEAR})
    else:
        (folder / str(case.file)).touch()
    return folder / (case.file or "")


def opened(case: Case, reference: str) -> tuple[Any, ...]:
    """Everything that a path could change."""
    if case.format in PICKLED:
        found = FORMATS[case.format].read(source_of(reference), PICKLED[case.format], {})
    else:
        found = load(reference)
    assert isinstance(found, case.kind)
    said = {"site": found.cfg.site, "lm": found.cfg.lm, "k": found.cfg.k, "l0": found.cfg.metadata.get("l0")}
    said["site_out"] = getattr(found.cfg, "site_out", None)
    return said, found.encode(X)


def written_as(way: str, place: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reference to the same files, in one of WAYS."""
    if way == "relative":
        monkeypatch.chdir(root)
        return os.path.relpath(place, root)
    if way == "from inside":
        inside = place.parent if place.is_file() else place
        monkeypatch.chdir(inside)
        return place.name if place.is_file() else "."
    if way == "trailing":
        return str(place) if place.is_file() else f"{place}/"
    if way == "linked":
        inside = place.parent if place.is_file() else place
        (root / "embedding_link").symlink_to(inside)
        return str(root / "embedding_link" / place.name) if place.is_file() else str(root / "embedding_link")
    return f"path:{place}" if way == "path:" else str(place)


@pytest.mark.parametrize("case", CASES, ids=IDS)
@settings(max_examples=6, deadline=None)
@given(parents=st.lists(NAMES, max_size=3), way=st.sampled_from(WAYS))
@example(parents=["embedding", "transcoders_vs_saes", "layer_3_study"], way="absolute")
@example(parents=["gemma-scope-9b-pt-mlp", "SAE-Res-X-W1K-L0_9", "layer_3"], way="from inside")
def test_a_users_own_folders_decide_nothing(case: Case, parents: list[str], way: str) -> None:
    with TemporaryDirectory() as plain, TemporaryDirectory() as other, pytest.MonkeyPatch.context() as patch:
        said, codes = opened(case, str(laid_out(Path(plain), case)))
        assert (said["site"], said["lm"]) == (case.site, case.lm)
        root = Path(other)
        place = laid_out(root.joinpath(*parents), case)
        again, same_codes = opened(case, written_as(way, place, root, patch))
        assert again == said
        assert torch.equal(codes, same_codes)


def test_the_old_reading_would_fail_above() -> None:
    """Control: searched anywhere in the path, a user's folder changes layer, kind and the embedding's scale."""
    path = "/study/layer_3/embedding/transcoders_vs_saes/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"
    layer = re.search(r"layer_(\d+)", path)
    assert layer is not None
    assert layer[1] == "3"
    assert "/embedding/" in path
    assert "transcoders" in path


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_without_the_repositorys_name_a_path_says_nothing(case: Case, tmp_path: Path) -> None:
    """But sparsify's hook point is the folder itself, and OpenAI's location the folder above `autoencoders`."""
    if case.format in ("sparsify", "openai"):
        return
    place = laid_out(tmp_path / "a", case)
    renamed = tmp_path / "a" / "mine"
    (tmp_path / "a" / case.path.split("/")[0]).rename(renamed)
    place = renamed / place.relative_to(tmp_path / "a" / case.path.split("/")[0])
    if case.format in PICKLED:
        found = FORMATS[case.format].read(source_of(place, k=K), PICKLED[case.format], {})
        assert (found.cfg.site, found.cfg.lm) == (case.site, None)  # the file's own name says the layer
        return
    found = load(place)
    assert isinstance(found, Sae)
    assert (found.cfg.site, found.cfg.lm, found.cfg.metadata.get("l0")) == (None, None, None)
    if case.format == "gemma_scope":
        assert "read as an SAE" in found.cfg.metadata["notice"]


def test_the_hubs_cache_has_the_repository_under_another_name(tmp_path: Path) -> None:
    case = CASES[0]
    real = laid_out(tmp_path / "b", case)
    name, _, inside = case.path.partition("/")
    cached = tmp_path / "hub" / f"models--google--{name}" / "snapshots" / "4a5b6c"
    cached.parent.mkdir(parents=True)
    (tmp_path / "b" / name).rename(cached)
    assert not real.exists()
    assert opened(case, str(cached / inside))[0]["site"] == "resid_post.12"
