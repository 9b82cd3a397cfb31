"""The proof confirms an SAE that is what it says, and names the site, the threshold or b_dec where that is wrong."""

import json
from pathlib import Path

import pytest
import torch

from saelab.cli import main
from saelab.core.errors import UserError
from saelab.interp.proof import prove
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import Sae
from saelab.saes.catalogue import BatchTopKConfig, TopKConfig
from saelab.saes.formats import save_sae
from saelab.saes.formats.conventions import with_bias_convention
from saelab.saes.normalised import normalised
from saelab.text.corpora import Document
from saelab.text.pack import PackedText, pack
from saelab.training.sweep import train

SITE = "resid_post.1"
WORDS = "harbour lantern the of a red quiet stone river maps seven was in and bread cold window"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    made = tiny_lm(n_layers=4)
    # Real residual streams have a large mean; without one it would not matter what is done with b_dec.
    made.model.get_input_embeddings().weight.data += 1.0
    return made


def packed(lm: LanguageModel, n: int, seed: int) -> PackedText:
    words = WORDS.split()
    g = torch.Generator().manual_seed(seed)
    texts = [" ".join(words[int(i)] for i in torch.randint(len(words), (60,), generator=g)) for _ in range(n)]
    return pack(
        [Document(f"{seed}/{i}", t) for i, t in enumerate(texts)],
        lambda x: lm.tokenize(x, bos=False),
        context=48,
        bos_id=lm.bos_id,
        special_ids=lm.special_ids,
    )


@pytest.fixture(scope="module")
def held_out(lm: LanguageModel) -> PackedText:
    return packed(lm, 6, seed=1)


@pytest.fixture(scope="module")
def sae(lm: LanguageModel) -> Sae:
    text = packed(lm, 40, seed=0)
    hidden = lm.run_to(text.tokens.long(), [SITE])[SITE][text.counts].float()
    cfg = BatchTopKConfig(d_in=hidden.shape[1], d_sae=96, k=6)
    g = torch.Generator().manual_seed(0)
    batches = [hidden[torch.randint(len(hidden), (256,), generator=g)] for _ in range(150)]
    (made,) = train([cfg], batches, steps=150)
    made.cfg = made.cfg.model_copy(update={"site": SITE, "metadata": {"l0": 6.0}})
    return made


def test_a_good_sae_is_confirmed(lm: LanguageModel, sae: Sae, held_out: PackedText) -> None:
    proof = prove(lm, sae, held_out)
    assert proof.holds, proof
    assert proof.claims["l0"] == 6
    assert proof.declared.fvu < 0.6
    assert proof.ce["ce_clean"] is not None


@pytest.mark.parametrize("wrong", ["resid_post.0", "resid_post.2"])
def test_a_site_moved_by_one_is_named(lm: LanguageModel, sae: Sae, held_out: PackedText, wrong: str) -> None:
    proof = prove(lm, sae, held_out, site=wrong)
    assert not proof.holds, proof
    assert f"reads {SITE}" in proof.verdict


def test_a_lost_threshold_is_named(lm: LanguageModel, sae: Sae, held_out: PackedText) -> None:
    lost = ReluSae(sae.cfg, {n: t for n, t in sae.weights().items() if n != "threshold"})
    proof = prove(lm, lost, held_out)
    assert not proof.holds, proof
    assert "a threshold near" in proof.verdict


def test_a_wrong_b_dec_is_named(lm: LanguageModel, sae: Sae, held_out: PackedText) -> None:
    flipped = type(sae)(sae.cfg.model_copy(update={"subtract_b_dec": False}), sae.weights())
    proof = prove(lm, flipped, held_out)
    assert not proof.holds, proof
    assert "b_dec is subtracted" in proof.verdict


@pytest.mark.parametrize("subtract", [True, False])
def test_a_lost_b_dec_is_named(lm: LanguageModel, sae: Sae, held_out: PackedText, subtract: bool) -> None:
    same = with_bias_convention(sae, subtract=subtract)
    assert prove(lm, same, held_out).holds, "control: the convention alone changes nothing"
    lost = type(sae)(same.cfg, same.weights() | {"b_dec": torch.zeros(sae.cfg.d_in)})
    proof = prove(lm, lost, held_out)
    assert not proof.holds, proof
    assert "b_dec near the mean" in proof.verdict


def test_a_lost_normalisation_is_named(lm: LanguageModel, held_out: PackedText) -> None:
    text = packed(lm, 40, seed=0)
    hidden = lm.run_to(text.tokens.long(), [SITE])[SITE][text.counts].float()
    rows = torch.nn.functional.layer_norm(hidden, hidden.shape[1:])
    g = torch.Generator().manual_seed(0)
    batches = [rows[torch.randint(len(rows), (256,), generator=g)] for _ in range(100)]
    (inner,) = train([TopKConfig(d_in=rows.shape[1], d_sae=96, k=6)], batches, steps=100)
    inner.cfg = inner.cfg.model_copy(update={"site": SITE})
    proof = prove(lm, normalised(inner, "layer_norm"), held_out)
    assert proof.holds, proof
    assert proof.declared.l0 == pytest.approx(8, abs=0.2), "6 latents, the mean and the spread"
    lost = prove(lm, inner, held_out)
    assert not lost.holds, lost
    assert "every token is normalised (layer_norm)" in lost.verdict


def test_width_and_site_are_asked_for(lm: LanguageModel, sae: Sae, held_out: PackedText) -> None:
    homeless = type(sae)(sae.cfg.model_copy(update={"site": None}), sae.weights())
    with pytest.raises(UserError, match="--site"):
        prove(lm, homeless, held_out)
    with pytest.raises(UserError, match="width 16"):
        prove(tiny_lm(d_model=16), sae, packed(tiny_lm(d_model=16), 3, seed=2))


def test_inspect_and_convert_on_the_command_line(sae: Sae, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_sae(sae, tmp_path / "a")
    assert main(["inspect", str(tmp_path / "a"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["format"], record["d_sae"], record["b_dec subtracted"]) == ("saelens", 96, True)
    assert "l0 6" in record["claims"]
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "gemma_scope", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "gemma_scope"
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "c"), "--to", "sparsify"]) == 2
    assert "sparsify holds TopK" in capsys.readouterr().err
