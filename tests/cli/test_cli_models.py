"""The language model that an SAE names is the one that is used; another is said, and one that cannot fit is refused."""

from pathlib import Path

import pytest
import torch

from saelab.cli import main
from saelab.cli.models import model_for
from saelab.core.errors import UserError
from saelab.lm.sources import reference_of, same_model
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import Sae, SaeConfig
from saelab.saes.formats import save_sae


def saved_lm(folder: Path, family: str = "llama") -> str:
    lm = tiny_lm(family)
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return f"path:{folder}"


def sae_of(lm: str | None, site: str = "resid_post.1", d_in: int = 32) -> Sae:
    g = torch.Generator().manual_seed(0)
    weights = {"W_enc": torch.randn(d_in, 6, generator=g), "W_dec": torch.randn(6, d_in, generator=g)}
    weights |= {"b_enc": torch.zeros(6), "b_dec": torch.zeros(d_in)}
    return ReluSae(SaeConfig(architecture="relu", d_in=d_in, d_sae=6, site=site, lm=lm), weights)


def test_the_named_model_is_used_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = saved_lm(tmp_path / "own")
    capsys.readouterr()
    assert model_for([sae_of(reference)], None).reference == reference
    assert model_for([sae_of(None)], reference).reference == reference
    assert capsys.readouterr().err.split() == ["loading", "model", reference] * 2


def test_another_model_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = saved_lm(tmp_path / "other", "gpt2")
    save_sae(sae_of("hf:some/model"), tmp_path / "sae")
    capsys.readouterr()
    for verb in (["select"], ["steer", "2", "--prompt", "The cat", "--strength", "3", "--max-new-tokens", "2"]):
        assert main([verb[0], str(tmp_path / "sae"), *verb[1:], "--lm", other]) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("saelab:")]
        assert said == [f"saelab: the SAE names the language model hf:some/model; {other} is used, as asked."]


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        (sae_of("hf:some/model", d_in=48), "reads width 48, and .* has width 32"),
        (sae_of("hf:some/model", site="resid_post.40"), r"reads resid_post\.40, and .* has blocks 0 to"),
    ],
)
def test_a_model_that_cannot_fit_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sae: Sae, message: str
) -> None:
    reference = saved_lm(tmp_path / "lm")
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=message):
        model_for([sae], reference)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ((None,), "do not name its language model"),
        (("gpt2-small",), "where that lies is not known"),
        (("hf:a/b", "hf:c/d"), "name different language models: hf:a/b, hf:c/d"),
    ],
)
def test_what_cannot_be_settled_is_asked(named: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        model_for([sae_of(name) for name in named], None)
    assert "--lm" in str(caught.value)


def test_names_of_one_model() -> None:
    assert same_model("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert same_model("hf:google/gemma-3-270m@0123", "google/Gemma-3-270m")
    assert not same_model("smollm2-135m", "gemma3-270m") and not same_model("hf:a/b", "hf:a/c")
    assert reference_of("google/gemma-2-2b") == "hf:google/gemma-2-2b"
    assert reference_of("gpt2-small") is reference_of("./here") is None
