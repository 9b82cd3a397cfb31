"""The stage on a tiny LM: its files with the promised columns, same bytes twice, errors as sentences."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch

from saelab.activations.harvest import HarvestConfig, harvest
from saelab.core.errors import UserError
from saelab.interp.run import FEATURES, InterpConfig, InterpSite, Judges, prepare, run, scored_sample
from saelab.judges.embedding import EmbeddingJudge, Words
from saelab.judges.lexical import LexicalJudge
from saelab.judges.scripted import always
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.topk import TopKSae
from saelab.saes.base import Sae, SaeConfig
from saelab.store.folders import InterpFolder
from saelab.text.corpora import Document
from saelab.text.pack import PackedText, pack

SITE, WIDTH, FEATURES_N = "resid_post.1", 32, 96
CONFIG = InterpConfig(fidelity_contexts=8, n_scored=40, n_contexts=3)


def packed_text(lm, start: int) -> PackedText:
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "that", "it", "was", "red", "while", "rain", "fell"]
    texts = [" ".join(words[(i * j) % len(words)] for j in range(1, 90)) for i in range(start, start + 40)]
    return pack(
        [Document(str(i), t) for i, t in enumerate(texts)],
        lambda x: lm.tokenize(x, bos=False),
        context=64,
        bos_id=lm.bos_id,
        separator_id=257,
        special_ids=lm.special_ids,
    )


def random_sae(k: int = 4, *, dead: int = 2) -> Sae:
    """A TopK SAE of random directions whose last `dead` latents never fire."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(FEATURES_N, WIDTH, generator=generator), dim=1)
    bias = torch.zeros(FEATURES_N)
    bias[FEATURES_N - dead :] = -1e6
    weights = {"W_enc": directions.T, "W_dec": directions, "b_enc": bias, "b_dec": torch.zeros(WIDTH)}
    return TopKSae(SaeConfig(architecture="topk", d_in=WIDTH, d_sae=FEATURES_N, k=k), weights)


def identity_sae() -> Sae:
    """Codes are the coordinates and their negatives: an exact reconstruction."""
    eye = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
    weights = {"W_enc": eye.T, "W_dec": eye, "b_enc": torch.zeros(2 * WIDTH), "b_dec": torch.zeros(WIDTH)}
    return TopKSae(SaeConfig(architecture="topk", d_in=WIDTH, d_sae=2 * WIDTH, k=2 * WIDTH), weights)


def mean_sae(mean: torch.Tensor) -> Sae:
    """No latent ever fires and the decoder bias is the mean."""
    weights = {
        "W_enc": torch.zeros(WIDTH, 4),
        "W_dec": torch.eye(4, WIDTH),
        "b_enc": torch.full((4,), -1.0),
        "b_dec": mean,
    }
    return TopKSae(SaeConfig(architecture="topk", d_in=WIDTH, d_sae=4, k=1), weights)


@pytest.fixture(scope="module")
def site_text(tmp_path_factory: pytest.TempPathFactory) -> InterpSite:
    lm = tiny_lm()
    train, held_out = packed_text(lm, 1), packed_text(lm, 100)
    shards = harvest(lm, train, [SITE], tmp_path_factory.mktemp("acts"), config=HarvestConfig(dtype="float32"))
    return prepare(CONFIG, lm, site=SITE, held_out=held_out, packed=train, shards=shards[SITE])


def test_the_stage_writes_its_tables(site_text: InterpSite, tmp_path: Path) -> None:
    paths = run(site_text, random_sae(), tmp_path, judge=LexicalJudge(), also=[5])
    tables, material = ["fidelity.json", "features.parquet", "contexts.parquet"], InterpFolder(tmp_path).material
    kept = [material.text.path, material.part(0).path, material.manifest.path]
    assert [p.name for p in paths[:3]] == tables and paths[3:] == kept
    fidelity = json.loads(paths[0].read_text())
    assert fidelity["l0"] == pytest.approx(4, abs=0.1)
    assert fidelity["dead_share"] >= 2 / FEATURES_N
    assert set(fidelity["random_dictionary"]) >= {"fvu", "ce_recovered", "k"}
    features = pl.read_parquet(paths[1])
    assert dict(features.schema) == FEATURES and features.height == FEATURES_N
    assert set(features["judge"]) == {"lexical"}
    counts = dict(features["state"].value_counts().iter_rows())
    assert counts["dead"] >= 2 and counts["ok"] > 10 and counts.get("untested", 0) > 0
    ok = features.filter(pl.col("state") == "ok")
    assert ok["auroc"].null_count() == 0 and (ok["n_windows"] > 0).all()
    assert features.row(5, named=True)["state"] in ("ok", "too_few", "dead")
    untested = features.filter(pl.col("state") == "untested")
    assert untested["auroc"].null_count() == untested.height
    told = pl.read_parquet(kept[1])
    assert told.height == FEATURES_N and told["description"].equals(features["description"])
    contexts = pl.read_parquet(paths[2])
    assert contexts["rank"].max() == 2
    first = contexts.row(0, named=True)
    assert len(first["tokens"]) == len(first["activations"]) == 21
    assert first["activations"][first["peak"]] == max(first["activations"]) > 0
    assert "".join(first["tokens"]).strip()


def test_an_untrained_dictionary_stands_beside_every_score(site_text: InterpSite, tmp_path: Path) -> None:
    """One control for SAEs of about one L0; its score is its own, whatever the SAE's is."""
    paths = run(site_text, random_sae(), tmp_path / "random", judge=LexicalJudge())
    beside = json.loads(paths[0].read_text())["random_dictionary"]["interpretability"]
    assert beside["k"] == 4 and beside["n"] > 0 and 0 <= beside["balanced_accuracy"] <= 1
    assert site_text.interpretability_of_untrained(FEATURES_N, 5.5, Judges(LexicalJudge())) is (
        site_text.interpretability_of_untrained(FEATURES_N, 3.0, Judges(LexicalJudge()))
    )
    assert site_text.interpretability_of_untrained(FEATURES_N, 8.0, Judges(LexicalJudge()))["k"] == 8
    always_no = run(site_text, random_sae(), tmp_path / "none", judge=always(0))
    record = json.loads(always_no[0].read_text())["random_dictionary"]["interpretability"]
    assert record["balanced_accuracy"] == 0.5, "the control is judged by the judge of the run"


def test_a_description_is_also_tested_by_its_meaning(site_text: InterpSite, tmp_path: Path) -> None:
    """For the first few of the sample; by a judge that says nothing it tells nothing."""
    made = [
        pl.read_parquet(run(site_text, random_sae(), tmp_path / name, judge=LexicalJudge(), meaning=judge)[1])
        for name, judge in (("words", EmbeddingJudge(Words())), ("always", always(0)), ("nobody", None))
    ]
    words, nothing, nobody = (table.filter(pl.col("embedding_auroc").is_not_null()) for table in made)
    assert words.height == min(CONFIG.n_embedded, made[0].filter(pl.col("state") == "ok").height) > 0
    assert (nothing["embedding_auroc"] == 0.5).all() and nobody.is_empty()
    assert words["embedding_auroc"].n_unique() > 3


def test_same_config_same_bytes(site_text: InterpSite, tmp_path: Path) -> None:
    made = [run(site_text, random_sae(), tmp_path / name, judge=LexicalJudge()) for name in "ab"]
    assert [p.read_bytes() for p in made[0]] == [p.read_bytes() for p in made[1]]


def test_identity_keeps_everything_and_the_mean_nothing(site_text: InterpSite, tmp_path: Path) -> None:
    paths = run(site_text, identity_sae(), tmp_path / "identity", judge=LexicalJudge())
    fidelity = json.loads(paths[0].read_text())
    assert fidelity["fvu"] == 0 and fidelity["ce_spliced"] == pytest.approx(fidelity["ce_clean"], abs=1e-6)
    paths = run(site_text, mean_sae(site_text.clean.rows.mean(0)), tmp_path / "mean", judge=LexicalJudge())
    fidelity = json.loads(paths[0].read_text())
    assert fidelity["ce_spliced"] == pytest.approx(fidelity["ce_mean_ablated"], abs=1e-6) != fidelity["ce_clean"]
    assert fidelity["ce_recovered"] is None, "ablation does an LM of random weights no harm"
    assert fidelity["fvu"] == pytest.approx(1, abs=1e-6) and fidelity["dead_share"] == 1
    assert set(pl.read_parquet(paths[1])["state"]) == {"dead"}


def test_always_none_scores_half_balanced(site_text: InterpSite, tmp_path: Path) -> None:
    features = pl.read_parquet(run(site_text, random_sae(), tmp_path, judge=always(0))[1])
    ok = features.filter(pl.col("state") == "ok")
    assert (ok["balanced_accuracy"] == 0.5).all() and (ok["auroc"] == 0.5).all()
    assert ok["accuracy"].median() == pytest.approx(20 / 28)


def test_the_sample_is_of_live_features_and_stable() -> None:
    alive = torch.ones(50, dtype=torch.bool).numpy()
    drawn = scored_sample(alive, 20, 0)
    assert len(drawn) == 20 and drawn != scored_sample(alive, 20, 1)
    alive[next(iter(drawn))] = False
    assert len(scored_sample(alive, 20, 0) - drawn) == 1


def test_a_width_or_site_that_does_not_fit_is_a_sentence(site_text: InterpSite, tmp_path: Path) -> None:
    weights = {"W_enc": torch.zeros(8, 4), "W_dec": torch.zeros(4, 8), "b_enc": torch.zeros(4), "b_dec": torch.zeros(8)}
    narrow = TopKSae(SaeConfig(architecture="topk", d_in=8, d_sae=4, k=1), weights)
    with pytest.raises(UserError, match="width 8"):
        run(site_text, narrow, tmp_path, judge=LexicalJudge())


def test_the_material_can_be_left_out_and_changes_nothing_else(site_text: InterpSite, tmp_path: Path) -> None:
    kept = run(site_text, random_sae(), tmp_path / "kept", judge=LexicalJudge())
    bare = replace(site_text, config=CONFIG.model_copy(update={"material": False}))
    paths = run(bare, random_sae(), tmp_path / "bare", judge=LexicalJudge())
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in kept[:3]] and len(kept) > 3
