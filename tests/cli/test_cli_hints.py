"""What a verb prints as the next step works, and what can be told early is told before a model is loaded."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_cli_models import sae_of

from saelab.cli import main
from saelab.cli.match import shown_gap
from saelab.cli.models import model_for
from saelab.core.errors import UserError
from saelab.publish.upload import upload
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import SaeConfig
from saelab.saes.formats import load_sae, load_transcoder, save_sae
from saelab.saes.formats.conventions import unit_of_codes
from saelab.saes.formats.released import released
from saelab.saes.transcoder import transcoder

D, F = 8, 16


def topk(site: str | None = "resid_post.1", lm: str | None = "gpt2") -> TopKSae:
    g = torch.Generator().manual_seed(0)
    decoder = torch.randn(F, D, generator=g)
    weights = {"W_enc": decoder.T.clone(), "W_dec": decoder, "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}
    return TopKSae(SaeConfig(architecture="topk", d_in=D, d_sae=F, k=3, site=site, lm=lm), weights)


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    capsys.readouterr()
    assert main([*map(str, arguments)]) == code
    heard = capsys.readouterr()
    return heard.out + heard.err


def check(text: str) -> list[list[str]]:
    """The commands after `Check it:`, as a shell would take them, without `saelab`."""
    line = re.search(r"Check it: (.*)", text)
    assert line is not None
    return [shlex.split(part)[1:] for part in line[1].split(" && ")]


@pytest.fixture
def never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: pytest.fail("it was loaded"))


def test_a_topk_transcoder_is_written_where_it_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = topk().weights()
    made = transcoder(weights, act_fn="topk", k=3, site="mlp_in.1", site_out="mlp_out.1", lm="gpt2")
    save_sae(made, tmp_path / "layers.1.mlp", "sparsify")
    said(capsys, "push", tmp_path / "layers.1.mlp", f"path:{tmp_path / 'out' / 'layers.1.mlp'}", "--incomplete")
    text = said(capsys, "convert", tmp_path / "layers.1.mlp", tmp_path / "b" / "layers.1.mlp")
    assert "sparsify" in text
    for copy in ("out", "b"):
        assert load_transcoder(tmp_path / copy / "layers.1.mlp").cfg.site_out == "mlp_out.1"
    assert "sparsify" in (tmp_path / "out" / "layers.1.mlp" / "README.md").read_text().split("---")[1]
    assert said(capsys, "convert", tmp_path / "layers.1.mlp", tmp_path / "c", "--to", "saelens", code=2)


@pytest.mark.parametrize(("to", "lost"), [("sparsify", True), ("saelens", False), ("dictionary_learning", False)])
def test_the_printed_check_works(tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, lost: bool) -> None:
    save_sae(topk(), tmp_path / "a")
    text = said(capsys, "convert", tmp_path / "a", tmp_path / "new one", "--to", to)
    assert ("do not say its site and language model" in text) is lost
    *before, last = check(text)
    assert last[-2:] == ["--lm", "NAME"], "gpt2 is no name that can be loaded"
    assert ("--site" in last) is lost
    for command in (*before, last[:-2]):
        said(capsys, *command)


def test_a_name_that_loads_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(topk(lm="some/model"), tmp_path / "a")
    assert check(said(capsys, "convert", tmp_path / "a", tmp_path / "b"))[0][-1] == "hf:some/model"


def test_a_site_can_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str], never_loaded: None) -> None:
    save_sae(topk(site=None, lm=None), tmp_path / "a")
    for verb in (["steer", tmp_path / "a", 1, "--prompt", "x", "--strength", 1], ["select", tmp_path / "a"]):
        text = said(capsys, *verb, code=2)
        assert "--site resid_post.12" in text and "saelab convert" in text
        assert "does not name its language model" in said(capsys, *verb, "--site", "resid_post.1", code=2).replace(
            "do not name", "does not name"
        )
        assert "is not a site" in said(capsys, *verb, "--site", "resid_pots.1", code=2)
    save_sae(topk(), tmp_path / "b")
    other = said(capsys, "select", tmp_path / "b", "--site", "resid_post.2", code=2)
    assert "is an SAE of resid_post.1, not of resid_post.2" in other


def test_inspect_tells_before_it_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, never_loaded: None
) -> None:
    monkeypatch.setattr("saelab.lm.loading.size_of", lambda ref: (D + 1, 3))
    save_sae(topk(site=None), tmp_path / "a")
    assert "which site it reads" in said(capsys, "inspect", tmp_path / "a", "--lm", "x", code=2)
    assert "is not a site" in said(capsys, "inspect", tmp_path / "a", "--lm", "x", "--site", "resid_pots.1", code=2)
    assert f"width {D + 1}" in said(capsys, "inspect", tmp_path / "a", "--lm", "x", "--site", "resid_post.1", code=2)


def test_match_tells_before_it_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str], never_loaded: None) -> None:
    save_sae(topk(), tmp_path / "a")
    save_sae(topk(site="resid_post.2"), tmp_path / "b")
    asked = ("match", tmp_path / "a", tmp_path / "b")
    text = said(capsys, *asked, "--fold", "theta", "--lm", "x", "--out", tmp_path / "o", code=2)
    assert "needs thresholds" in text
    assert main([*map(str, asked)]) == 0, "without thresholds, by directions"
    assert "matched" in capsys.readouterr().out


def test_declared_facts_are_shared_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(topk(), tmp_path / "a", "sparsify")
    config = tmp_path / "a" / "cfg.json"
    config.write_text(config.read_text().replace('"k": 3', '"k": null'))
    assert "--k" in said(capsys, "inspect", tmp_path / "a", code=3)
    assert "k 3" in said(capsys, "inspect", tmp_path / "a", "--k", 3)
    said(capsys, "convert", tmp_path / "a", tmp_path / "b", "--k", 3)
    assert load_sae(tmp_path / "b").cfg.metadata["declared"] == {"k": 3}
    said(capsys, "convert", tmp_path / "b", tmp_path / "c")
    assert load_sae(tmp_path / "c").cfg.metadata["declared"] == {"k": 3}


def test_the_unit_is_called_raw_only_where_it_is_known() -> None:
    plain = topk()
    trained = TopKSae(plain.cfg.model_copy(update={"metadata": {"training": {"k": 3}}}), plain.weights())
    assert unit_of_codes(trained) == "raw activations" and unit_of_codes(plain).startswith("that of its file")


def test_hints_name_what_is_possible(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as wrong:
        released("nothere")
    assert "There is no folder nothere" in str(wrong.value) and "Valid:" not in str(wrong.value)
    with pytest.raises(UserError, match="gemma-scope-2b-pt-res-canonical"):
        released("gemma-scope-2b-pt-res-canonicl")
    save_sae(topk(), tmp_path / "a")
    text = said(capsys, "convert", tmp_path / "a", tmp_path / "b", "--to", "nonsense", code=2)
    assert "sparsify" in text and "qwen_scope" not in text
    with pytest.raises(UserError, match="path:folder"):
        upload(tmp_path / "a", "pypi:x==1!y")
    with pytest.raises(UserError, match="path:folder"):
        upload(tmp_path / "a", "folder")
    save_file(load_file(tmp_path / "a" / "sae_weights.safetensors"), tmp_path / "plain.safetensors")
    assert "subtract_b_dec" in said(capsys, "inspect", tmp_path / "plain.safetensors", code=2)


def test_leaving_out_a_model_is_advised_only_where_it_can_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saelab.lm.loading.size_of", lambda ref: (7, 3))
    for named, leave in (("gpt2-small", False), ("hf:a/b", True)):
        with pytest.raises(UserError) as caught:
            model_for([sae_of(named)], "hf:c/d")
        assert ("leave out --lm" in str(caught.value)) is leave


def test_match_shows_no_column_that_was_not_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(topk(), tmp_path / "a")
    save_sae(topk(), tmp_path / "b")
    pair = ("match", tmp_path / "a", tmp_path / "b", "--fold", "none", "--json")
    assert "same as direct" not in said(capsys, *pair) and "same as direct" in said(capsys, *pair, "--direct")


def test_a_gap_within_rounding_is_none() -> None:
    assert shown_gap(-3e-12, 20.0) == 0.0 and shown_gap(1e-3, 20.0) == 1e-3
