"""A root with several SAEs lists them with the next command, and a file that is named is looked at alone."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub
from safetensors.torch import save_file
from sample_saes import random_sae

from saelab.core.errors import UserError
from saelab.saes.formats import convert_sae, load, load_sae, save_sae
from saelab.saes.formats.listing import homes


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield running


def test_a_local_root_lists_its_saes(tmp_path: Path) -> None:
    for layer in range(10):
        save_sae(random_sae("topk"), tmp_path / "root" / "resid" / f"layer_{layer}", format="sparsify")
    with pytest.raises(
        UserError, match=r"holds 10 SAEs: resid/layer_0, .*resid/layer_7, \.\.\. \(10 in all\)"
    ) as caught:
        load(tmp_path / "root")
    assert caught.value.hint == f"Open one: saelab inspect {tmp_path}/root/resid/layer_0"
    assert load_sae(tmp_path / "root" / "resid" / "layer_9").cfg.d_in  # control
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no known SAE format; it holds nothing"):
        load(tmp_path / "empty")


def test_a_hub_root_is_listed_and_not_fetched(hub: FakeHub, tmp_path: Path) -> None:
    save_sae(random_sae("topk"), tmp_path / "one")
    files = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
    hub.repos["me/saes"] = {f"layer_{n}/{name}": data for n in (2, 10) for name, data in files.items()}
    hub.repos["me/saes"]["README.md"] = b"two"
    with pytest.raises(UserError, match="holds 2 SAEs: layer_2, layer_10") as caught:
        load("hf:me/saes")
    assert caught.value.hint == "Open one: saelab inspect hf:me/saes/layer_2"
    assert not any("/resolve/" in path for path in hub.asked), "weights were fetched to say that there are several"
    assert load_sae("hf:me/saes/layer_10").cfg.k
    hub.repos["me/set"] = {f"layer_{n}.safetensors": b"" for n in range(3)} | {"config.yaml": b"model_kind: a"}
    with pytest.raises(UserError, match=r"3 SAEs: layer_0.safetensors"):
        load("hf:me/set")


def test_the_homes_of_weights() -> None:
    names = [
        "a/ae.pt",
        "a/checkpoints/ae_1.pt",
        "b/hyperparams.json",
        "b/checkpoints/final.safetensors",
        "c/optimizer.pt",
    ]
    assert homes(names) == ["a", "b"]
    assert homes(["sae_weights.safetensors", "sparsity.safetensors", "config.json"]) == [""]
    assert homes(["x/params_layer_0.safetensors", "x/params_layer_1.safetensors"]) == ["x"]
    assert homes(["autoencoders/README.md"]) == []


def test_a_named_file_is_looked_at_alone(tmp_path: Path) -> None:
    """Beside an SAE's own files, another file is not taken for them."""
    save_sae(random_sae("jumprelu"), tmp_path)
    save_file({"log_sparsity": torch.zeros(4), "odd": torch.zeros(2, 3)}, tmp_path / "sparsity.safetensors")
    with pytest.raises(UserError, match=r"tensors log_sparsity \[4\], odd \[2, 3\]") as caught:
        load(tmp_path / "sparsity.safetensors")
    assert "--tensors" in str(caught.value.hint)
    assert load_sae(tmp_path / "sae_weights.safetensors").cfg.d_in == load_sae(tmp_path).cfg.d_in  # control


def test_links_and_bad_folders_hide_nothing(tmp_path: Path) -> None:
    """A link to an ancestor is not followed; what cannot be looked into is named, and the others are listed."""
    root = tmp_path / "root"
    for name in ("a", "b"):
        save_sae(random_sae("topk"), root / name)
    (root / "loop").symlink_to(root)
    (root / "latest").symlink_to(root / "b")
    assert _message(root).endswith("holds 2 SAEs: a, b.")
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{")
    (root / "broken" / "ae.pt").write_bytes(b"")
    assert re.search(r"holds 2 SAEs: a, b; not looked into: broken \(.*not valid JSON", _message(root))


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "closed"):
        save_sae(random_sae("topk"), tmp_path / name)
    listing = Path.is_file

    def denied(self: Path) -> bool:
        if self.parent.name == "closed":
            raise PermissionError(13, "Permission denied")
        return listing(self)

    monkeypatch.setattr(Path, "is_file", denied)
    assert "one SAE further down: a; not looked into: closed (Permission denied)." in _message(tmp_path)


def _message(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(root)
    return caught.value.message


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("qwen_scope/SAE-Res-Qwen3-1.7B-Base-W32K-L0_5", "layer3.sae.pt"),
        ("openai/resid_post_mlp_v4", "autoencoders/3.pt"),
        ("openai/resid_post_mlp_v4/autoencoders", "3.pt"),
    ],
)
def test_a_folder_of_pickled_files_lists_them(tmp_path: Path, folder: str, file: str) -> None:
    place = Path(__file__).parent / "golden" / folder
    with pytest.raises(UserError, match=f"holds one SAE.*: {file}") as caught:
        convert_sae(place, tmp_path / "new")
    assert caught.value.hint == f"Open one: saelab convert {place}/{file} NEW-FOLDER"
    assert convert_sae(place / file, tmp_path / "new").cfg.d_in  # control: what the hint says


def test_a_folder_with_one_unknown_file_says_how_to_map_it(tmp_path: Path) -> None:
    save_file({"enc": torch.zeros(2, 3)}, tmp_path / "odd.safetensors")
    for place in (tmp_path, tmp_path / "odd.safetensors"):
        with pytest.raises(UserError, match=r"the tensors enc \[2, 3\]") as caught:
            load(place)
        assert f"saelab inspect {place} --tensors W_enc=" in str(caught.value.hint)
    save_file({"enc": torch.zeros(2, 3)}, tmp_path / "other.safetensors")  # control: of two, neither is taken
    with pytest.raises(UserError, match=r"it holds odd\.safetensors, other\.safetensors"):
        load(tmp_path)


def test_a_file_that_is_no_sae_is_said_to_be_none(tmp_path: Path) -> None:
    """What lies beside it is not listed. Control: of its folder it is."""
    (tmp_path / "notes.yaml").write_text("a: 1")
    (tmp_path / "secret.txt").write_text("")
    with pytest.raises(UserError, match="no file of an SAE") as error:
        load_sae(str(tmp_path / "notes.yaml"))
    assert "secret" not in f"{error.value} {error.value.hint}" and "saelens" in str(error.value.hint)
    with pytest.raises(UserError, match=r"it holds notes\.yaml, secret\.txt"):
        load_sae(str(tmp_path))
