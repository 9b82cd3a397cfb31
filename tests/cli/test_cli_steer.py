"""`saelab steer` and `saelab select` on a tiny model: what is shown, what is exported, and that it is the same edit."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from saelab.cli import main
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import SaeConfig
from saelab.saes.formats import save_sae
from saelab.steering.export import load_directions

D, F, SITE = 32, 12, "resid_post.1"


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--lm` names no download here."""
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: tiny_lm())


@pytest.fixture
def sae(tmp_path: Path) -> tuple[str, ReluSae]:
    g = torch.Generator().manual_seed(0)
    decoder = 2 * torch.randn(F, D, generator=g)
    weights = {"W_enc": decoder.T / 8, "W_dec": decoder, "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}
    made = ReluSae(SaeConfig(architecture="relu", d_in=D, d_sae=F, site=SITE), weights)
    save_sae(made, str(tmp_path / "sae"), format="saelens")
    return f"path:{tmp_path / 'sae'}", made


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--lm", "tiny", "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def steer(capsys: pytest.CaptureFixture[str], reference: str, *more: object) -> Any:
    shared = ("--prompt", "The cat", "--max-new-tokens", 4)
    return told(capsys, "steer", reference, 3, *shared, "--unit", "raw", *more)


def one(record: Any) -> Any:
    """The one text of a call."""
    (row,) = record["steered"]
    return row


def test_steered_beside_unsteered_and_where(sae: tuple[str, ReluSae], capsys: pytest.CaptureFixture[str]) -> None:
    reference, _ = sae
    record = steer(capsys, reference, "--strength", 40, "--positions", "last")
    assert record["unsteered"] != one(record)["text"] and "the last prompt token" in record["edited"]
    assert one(steer(capsys, reference, "--strength", 0))["text"] == record["unsteered"], "control: no strength"
    shared = ("steer", reference, 3, "--prompt", "The cat", "--max-new-tokens", 4, "--strength")
    share = one(told(capsys, *shared, 0.5))
    assert share["share"] == pytest.approx(0.5), "shares of the norm where nothing is said"
    assert one(told(capsys, *shared, 0.01, "--unit", "kl"))["strength"] != share["strength"]
    assert "clamp," in steer(capsys, reference, "--strength", 40, "--edit", "clamp")["edited"]


@pytest.mark.parametrize("unit", ["raw", "norm", "kl"])
def test_several_features_and_strengths_are_each_what_they_are_alone(
    sae: tuple[str, ReluSae], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    loaded = []
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: loaded.append(ref) or tiny_lm())
    strengths = {"raw": (20, 40), "norm": (2, 4), "kl": (0.02, 0.05)}[unit]
    shared = ("--prompt", "The cat", "--max-new-tokens", 6, "--temperature", 1, "--unit", unit)
    whole = told(capsys, "steer", sae[0], 3, 5, *shared, "--strength", *strengths)
    assert loaded == ["tiny"]
    rows = [(row["feature"], row["strength"], row["text"]) for row in whole["steered"]]
    alone = [
        one(told(capsys, "steer", sae[0], feature, *shared, "--strength", far))
        for far in strengths
        for feature in (3, 5)
    ]
    assert [r[0] for r in rows] == [a["feature"] for a in alone] and [r[2] for r in rows] == [a["text"] for a in alone]
    assert [r[1] for r in rows] == pytest.approx([a["strength"] for a in alone], rel=1e-4)
    assert len({r[2] for r in rows}) > 1, "control: they differ from each other"
    assert (
        main(["steer", sae[0], "3", "5", "--prompt", "The cat", "--strength", "20", "--unit", "raw", "--lm", "tiny"])
        == 0
    )
    shown = capsys.readouterr().out
    assert "unsteered\n" in shown and "feature 3, strength 20" in shown and "feature 5, strength 20" in shown


def test_the_exported_direction_is_the_one_used(
    sae: tuple[str, ReluSae], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """safetensors: the unit row and the strength. CSV: coefficient x stored row = strength x unit row."""
    reference, opened = sae
    steer(capsys, reference, "--strength", 5, "--export", tmp_path / "d.safetensors")
    back = load_directions(tmp_path / "d.safetensors")["feature_3"]
    row = opened.W_dec[3]
    torch.testing.assert_close(back.vector, row / row.norm())
    assert (back.distance, back.site, back.feature) == (pytest.approx(5), SITE, 3)
    names = ("--release", "org/release", "--sae-id", "layer_1")
    steer(capsys, reference, "--strength", 5, "--export", tmp_path / "d.csv", *names)
    line = pl.read_csv(tmp_path / "d.csv").row(0, named=True)
    assert (line["loader"], line["sparse_model"], line["sae_id"]) == ("sae_lens", "org/release", "layer_1")
    assert (line["action"], line["hookpoint"], line["feature_index"]) == ("add", "layers.1", 3)
    torch.testing.assert_close(line["steering_coefficient"] * row, 5 * back.vector, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_exported_is_a_sentence(sae: tuple[str, ReluSae], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["steer", sae[0], "3", "--prompt", "x", "--strength", "1", "--lm", "tiny", "--export", "d.pt"]
    assert main(arguments) == 2
    assert ".safetensors" in capsys.readouterr().err
    assert main([*arguments[:-1], "d.csv", "--strength", "2"]) == 2
    assert "one --strength" in capsys.readouterr().err


def test_select_takes_every_criterion(
    sae: tuple[str, ReluSae], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All criteria, an edit of another kind, several prefixes, and the input score from a table of contexts."""
    contexts, out = tmp_path / "contexts.parquet", tmp_path / "effects.parquet"
    pl.DataFrame({"feature": [3, 3], "tokens": [["a", "b"], ["c", "d"]], "peak": [0, 1]}).write_parquet(contexts)
    more = ("--all-criteria", "--edit", "scale", "--prefix", "One day|The", "--contexts", contexts, "--out", out)
    shown = told(capsys, "select", sae[0], "--by", "js", "--top", 2, *more)
    assert len(shown) == 4 and all("js" in row for row in shown)
    table = pl.read_parquet(out)
    assert table.height == F and {"kl_reverse", "output_score_paper", "lens_skew", "input_score"} <= set(table.columns)
    assert table["input_score"].is_null().sum() == F - 1 and 0 <= table["input_score"][3] <= 1
    assert main(["select", sae[0], "--by", "entropy_chnge", "--lm", "tiny"]) == 2
    assert "entropy_change" in capsys.readouterr().err


def test_what_cannot_be_done_is_said_before_the_work(
    sae: tuple[str, ReluSae], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence and exit 2 or 3, and no language model is loaded for it."""
    monkeypatch.setattr("saelab.lm.model.LanguageModel.load", lambda ref: pytest.fail("the model was loaded"))
    for arguments, said in [
        (("select", sae[0], "--by", "top_tokens"), "top_tokens"),
        (("select", sae[0], "--by", "input_score"), "--contexts"),
        (("select", sae[0], "--by", "concept_lift"), "concept_lift"),
        (("select", sae[0], "--top", 0), "--top"),
        (("select", sae[0], "--contexts", tmp_path / "none.parquet"), "missing"),
        (("steer", sae[0], 3, "--prompt", "x", "--strength", "nan"), "finite"),
    ]:
        assert main([*map(str, arguments), "--lm", "tiny"]) in (2, 3)
        assert said in capsys.readouterr().err
