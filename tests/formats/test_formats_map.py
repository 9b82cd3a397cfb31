"""Plain tensors open by an explicit map, as the same SAE; what the map gets wrong is said with what the file holds."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from sample_saes import D, F, K, inputs
from test_formats_foreign import B_DEC, B_ENC, THETA, W_DEC, W_ENC, drawn

from saelab.cli import main
from saelab.core.errors import SaelabError, UserError
from saelab.saes.formats import convert_sae, load, load_sae, load_transcoder

X = inputs()
MAP = "W_enc=enc.weight.T,W_dec=dec.weight.T,b_enc=enc.bias,b_dec=b"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What a training script of one's own might leave."""
    tensors = {"enc.weight": W_ENC.T, "dec.weight": W_DEC.T, "enc.bias": B_ENC, "b": B_DEC, "theta": THETA}
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def codes(x: Any, theta: Any = 0.0) -> Any:
    pre = x @ W_ENC + B_ENC
    return pre.clamp(min=0) * (pre > theta)


def test_one_line_or_five_of_yaml_or_a_dict(file: Path, tmp_path: Path) -> None:
    line = load_sae(file, tensors=f"{MAP},threshold=theta,subtract_b_dec=false,site=layers.3,lm=hf:gpt2")
    assert torch.allclose(line.encode(X), codes(X, THETA), atol=1e-6)
    assert torch.allclose(line(X), codes(X, THETA) @ W_DEC + B_DEC, atol=1e-5)
    assert (line.cfg.architecture, line.cfg.site, line.cfg.lm) == ("jumprelu", "resid_post.3", "hf:gpt2")
    tensors = dict(pair.split("=") for pair in MAP.split(","))
    data = {"architecture": "jumprelu", "subtract_b_dec": True, "tensors": tensors | {"threshold": "theta"}}
    (tmp_path / "map.yaml").write_text(json.dumps(data))  # JSON is YAML
    moved = load_sae(file, tensors=str(tmp_path / "map.yaml"))
    assert torch.allclose(moved.encode(X), codes(X - B_DEC, THETA), atol=1e-5)
    assert not torch.allclose(moved.encode(X), line.encode(X), atol=1e-2)  # control
    assert torch.equal(load_sae(file, tensors=data).encode(X), moved.encode(X))
    (tmp_path / "saelab.yaml").write_text(json.dumps(data | {"k": K, "architecture": "topk", "tensors": tensors}))
    beside = load_sae(tmp_path)
    assert int((beside.encode(X) > 0).sum(-1).max()) == K


def test_numbers_and_a_transcoder(file: Path) -> None:
    bare = "W_enc=enc.weight.T,W_dec=dec.weight.T,b_enc=0,b_dec=0"
    sae = load_sae(file, tensors=f"{bare},threshold=0.3")
    pre = X @ W_ENC
    assert torch.allclose(sae.encode(X), pre.clamp(min=0) * (pre > 0.3), atol=1e-6)
    found = load_transcoder(file, tensors=f"{MAP},site=resid_pre.2,site_out=mlp_out.2")
    assert torch.allclose(found(X), codes(X) @ W_DEC + B_DEC, atol=1e-5)
    assert (found.cfg.site, found.cfg.site_out) == ("resid_pre.2", "mlp_out.2")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("W_enc=enc.weight.T,W_dec=dec.weight.T", r"lacks b_dec, b_enc.*dec.weight \[16, 48\]"),
        (MAP.replace("enc.bias", "enc.bais"), r"holds no 'enc.bais'.*enc.bias \[48\]"),
        (MAP, "does not say whether b_dec"),
        (f"{MAP},subtract_b_dec=true,W_gate=b", "has no W_gate"),
        (f"{MAP.replace('enc.weight.T', 'enc.weight')},subtract_b_dec=true", "W_enc is .*as mapped"),
        (MAP.replace("dec.weight.T", "dec.weight"), "as mapped"),
        (f"{MAP},architecture=relu2", "no architecture 'relu2'"),
        ("W_enc", "no list of NAME=TENSOR"),
        (f"{MAP},subtract_b_dec=maybe", "subtract_b_dec"),
        (f"{MAP},k=0,subtract_b_dec=true,architecture=topk", "k"),
    ],
)
def test_what_is_wrong_is_one_sentence(file: Path, given: str, said: str) -> None:
    with pytest.raises(SaelabError, match=said):
        load(file, tensors=given)


def test_two_files_are_not_chosen_between(file: Path, tmp_path: Path) -> None:
    save_file({"a": drawn(2, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"mine.safetensors, other.safetensors; one file"):
        load(tmp_path, tensors=f"{MAP},subtract_b_dec=false")


def test_the_command_line_inspects_and_converts_it(file: Path, tmp_path: Path, capsys: Any) -> None:
    given = ["--tensors", f"{MAP},subtract_b_dec=false"]
    assert main(["inspect", str(file), *given, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["format"], record["d_in"], record["d_sae"]) == ("tensors", D, F)
    assert main(["convert", str(file), str(tmp_path / "out"), *given, "--json"]) == 0
    assert torch.equal(load_sae(tmp_path / "out").encode(X), load_sae(file, tensors=given[1]).encode(X))


def test_a_pickle_is_mapped_by_convert_alone(tmp_path: Path) -> None:
    torch.save({"model": {"enc": W_ENC, "dec": W_DEC}}, tmp_path / "mine.pt")
    given = "W_enc=model/enc,W_dec=model/dec,b_enc=0,b_dec=0"
    with pytest.raises(UserError, match="can run code"):
        load(tmp_path / "mine.pt", tensors=given)
    sae = convert_sae(tmp_path / "mine.pt", tmp_path / "out", tensors=given)
    assert torch.allclose(sae.encode(X), (X @ W_ENC).clamp(min=0), atol=1e-6)
