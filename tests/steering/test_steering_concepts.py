"""Written concepts: AxBench's files read and written, terms from texts, and the stage on a tiny model."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from axbench_files import write_axbench
from saelab.core.errors import ArtefactError, UserError
from saelab.judges.scripted import ScriptedJudge
from saelab.lm.tiny import tiny_lm
from saelab.saes.architectures.relu import ReluSae
from saelab.saes.base import SaeConfig
from saelab.steering.concepts import axbench
from saelab.steering.concepts.config import ConceptInputs, ConceptsConfig
from saelab.steering.concepts.describe import describe
from saelab.steering.concepts.detection import bag_of_words, detect
from saelab.steering.concepts.run import run
from saelab.steering.config import UtilityConfig
from saelab.steering.direction import unit
from saelab.steering.export import COLUMNS, HarnessRow, load_directions, save_directions, write_harness
from saelab.steering.utility import summarise
from saelab.store.tensors import write_tensors

CONCEPT10 = Path(__file__).parents[3] / "shared" / "data" / "axbench" / "concept10"
real_files = pytest.mark.skipif(not CONCEPT10.exists(), reason="AxBench's concept10 files are not on this machine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_axbench(tmp_path)


def test_concepts_and_texts_are_read(folder: Path) -> None:
    data = axbench.AxBench(folder)
    sea, loops = data.concepts
    assert (sea.id, sea.text, sea.genre, sea.latent) == (0, "sea", "text", 40)
    texts = data.training(loops)
    assert texts.kinds.count("positive") == texts.kinds.count("negative") == 6
    assert all("loop" in p.answer for p, k in zip(texts.pairs, texts.kinds, strict=True) if k == "positive")
    found = data.detection(sea)
    assert found.kinds.count("hard negative") == 1
    few = found.first(2)
    assert [few.kinds.count(k) for k in ("positive", "negative", "hard negative")] == [2, 2, 1]
    assert set(few.pairs) <= set(found.pairs) and found.first(99) == found


def test_broken_files_get_a_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match="metadata"):
        _ = axbench.AxBench(folder / "nowhere").concepts
    with pytest.raises(ArtefactError, match="no texts"):
        axbench.AxBench(folder).detection(axbench.Concept(9, "x", "text", None))
    (folder / "metadata.jsonl").write_text('{"concept_id": 1}\n')
    with pytest.raises(ArtefactError, match="Line 1"):
        _ = axbench.AxBench(folder).concepts


def test_terms_are_the_words_of_the_concept() -> None:
    shown = ["the waves of the sea", "a sea and waves", "sea air and the waves", "waves"]
    others = ["the house", "a garden and the air", "the road", "the road again"]
    found = describe("sea", shown, others)
    assert {t.text for t in found.terms} == {" waves", " sea"}
    assert found.terms[0].weight == 1.0 and found.text == "sea"
    with pytest.raises(UserError, match="No word"):
        describe("nothing", others, others)


def test_the_stage_detects_steers_and_resumes(folder: Path, tmp_path: Path) -> None:
    steering = UtilityConfig(factors=(0.5, 1.0), n_dev=1, n_test=2, max_new_tokens=3, temperature=0.0)
    config = ConceptsConfig(site="resid_post.1", methods=("diff_means", "pca"), steering=steering)
    judge = ScriptedJudge(lambda r: float(len(r.text) % 3))
    concepts = axbench.AxBench(folder).concepts
    inputs = ConceptInputs(tiny_lm(), axbench.AxBench(folder), concepts, [f"Do {i}." for i in range(9)], judge)
    out = tmp_path / "out"
    paths = run(config, inputs, out)
    detection = pl.read_parquet(out / "detection.parquet")
    assert set(detection["method"]) == {"diff_means", "pca", "bag_of_words"}
    assert detection["n_hard"].unique().to_list() == [1]
    assert (detection.filter(pl.col("method") == "bag_of_words")["auroc_easy"] == 1).all()
    utility = pl.read_parquet(out / "utility.parquet")
    methods = {"diff_means", "pca", "random_direction", "prompting", "unsteered"}
    assert set(utility["method"]) == methods and utility.height == 2 * len(methods)
    assert set(utility.filter(pl.col("method").is_in(["prompting", "unsteered"]))["factor"]) == {0.0}
    first = [p.read_bytes() for p in paths]
    run(config, inputs, out)
    assert [p.read_bytes() for p in paths] == first
    wide = axbench.wide_table(
        pl.read_parquet(out / "generations.parquet"),
        concepts,
        {"diff_means": "DiffMean", "prompting": "PromptSteering"},
    )
    assert wide.columns[:6] == ["dataset_name", "concept_id", "input_concept", "input_id", "factor", "original_prompt"]
    assert {"DiffMean_steered_generation", "DiffMean_perplexity", "DiffMean_strength"} <= set(wide.columns)
    assert wide["input_id"].unique().sort().to_list() == [0, 1, 2]
    assert wide.select("concept_id", "input_id", "factor").is_unique().all()


def test_a_concept_without_a_feature_is_a_row_with_a_reason(folder: Path, tmp_path: Path) -> None:
    """Features by label and by AUROC beside a random feature; a label that no feature has lowers the coverage."""
    g = torch.Generator().manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(20, 32, generator=g), dim=-1)
    weights = {"W_enc": decoder.T, "W_dec": decoder, "b_enc": torch.zeros(20), "b_dec": torch.zeros(32)}
    sae = ReluSae(SaeConfig(architecture="relu", d_in=32, d_sae=20, site="resid_post.1"), weights)
    labels = {7: [{"text": " Sea", "weight": 0.9}], 8: [{"text": " hill", "weight": 0.5}], 9: []}
    features = pl.DataFrame({"feature": [7, 8, 9], "max_activation": [2.0, 3.0, 1.0], "terms": list(labels.values())})
    steering = UtilityConfig(factors=(1.0,), n_dev=1, n_test=1, max_new_tokens=2, temperature=0.0)
    config = ConceptsConfig(site="resid_post.1", methods=("sae_feature", "sae_auroc"), steering=steering)
    judge = ScriptedJudge(lambda r: 1.0)
    concepts = axbench.AxBench(folder).concepts
    asked = [f"Do {i}." for i in range(4)]
    run(
        config,
        ConceptInputs(tiny_lm(), axbench.AxBench(folder), concepts, asked, judge, sae=sae, features=features),
        tmp_path / "out",
    )
    utility = pl.read_parquet(tmp_path / "out" / "utility.parquet")
    by_label = utility.filter(pl.col("method") == "sae_feature").sort("feature")
    assert by_label["state"].to_list() == ["ok", "no_direction"] and by_label["test_score"].to_list() == [1.0, None]
    assert summarise(by_label).coverage == 0.5 and summarise(by_label).mean == 1.0
    states = pl.read_parquet(tmp_path / "out" / "detection.parquet").filter(pl.col("method") == "sae_feature")["state"]
    assert states[0] == "ok" and "No feature's description" in states[1]
    directions = load_directions(tmp_path / "out" / "directions.safetensors")
    assert directions["0/sae_feature"].feature == 7 and "1/sae_feature" not in directions
    assert directions["0/random_feature"].distance == directions["0/sae_feature"].distance
    assert not torch.allclose(directions["0/random_feature"].vector, directions["0/sae_feature"].vector)
    with pytest.raises(UserError, match="needs an SAE"):
        run(config, ConceptInputs(tiny_lm(), axbench.AxBench(folder), concepts, asked, judge), tmp_path / "none")


def test_the_wide_table_has_axbenchs_prompt_and_its_holes() -> None:
    """A method without factors stands in every row; a factor that dev did not choose is a hole on test, not a zero."""
    rows = [
        ("a", 0, "pca", 0.5, 1.0, 4, "Do it.", "x"), ("b", 0, "pca", 1.0, 2.0, 4, "Do it.", "y"),
        ("c", 0, "pca", 1.0, 2.0, 9, "Go.", "z"), ("d", 0, "lat", 0.5, 3.0, 9, "Go.", "v"),
        ("e", 0, "prompting", 0.0, 0.0, 4, "Do it.", "w"), ("f", 0, "prompting", 0.0, 0.0, 9, "Go.", "u"),
    ]  # fmt: skip
    columns = ["generation", "feature", "method", "factor", "strength", "instruction_id", "instruction", "text"]
    names = {"pca": "PCA", "lat": "LAT", "prompting": "PromptSteering"}
    wide = axbench.wide_table(
        pl.DataFrame(rows, columns, orient="row"),
        [axbench.Concept(0, "sea", "text", 40, "https://np/40")],
        axbench.Wide(names, {0: "Speak of the sea."}, {"a": 12.5}),
    )
    assert wide.select("input_id", "factor").rows() == [(0, 0.5), (0, 1.0), (1, 0.5), (1, 1.0)]
    assert wide["PCA_steered_generation"].to_list() == ["x", "y", None, "z"]
    assert wide["LAT_strength"].to_list() == [None, None, 3.0, None]
    assert wide["PromptSteering_steered_generation"].to_list() == ["w", "w", "u", "u"]
    assert wide["PCA_perplexity"].to_list() == [12.5, None, None, None]
    assert wide["steered_input"][0] == " Speak of the sea.\n\nQuestion: Do it." and wide["sae_id"].unique().item() == 40


def test_directions_round_trip_and_refuse_foreign_files(tmp_path: Path) -> None:
    made = unit(torch.randn(8), site="resid_post.3", distance=2.5, method="pca", origin="sea", source="largest")
    save_directions(tmp_path / "d.safetensors", {"pca": made})
    back = load_directions(tmp_path / "d.safetensors")["pca"]
    assert torch.equal(back.vector, made.vector)
    several = {f"d{i}": replace(made, vector=made.vector.clone()) for i in range(9)}
    for name in ("one", "two"):
        save_directions(tmp_path / f"{name}.safetensors", several)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    assert (back.site, back.distance, back.method, back.feature) == (made.site, 2.5, "pca", None)
    write_tensors(tmp_path / "foreign.safetensors", {"x": torch.ones(8) / 8**0.5})
    with pytest.raises(ArtefactError, match="does not say"):
        load_directions(tmp_path / "foreign.safetensors")


def test_the_harness_file_has_its_columns(tmp_path: Path) -> None:
    write_harness(
        tmp_path / "steer.csv",
        [
            HarnessRow(
                "gemma-scope-2b-pt-res-canonical",
                "resid_post.20",
                12082,
                240.0,
                "layer_20/width_16k/canonical",
                "dogs, cats",
            )
        ],
    )
    table = pl.read_csv(tmp_path / "steer.csv")
    assert tuple(table.columns) == COLUMNS
    assert table.row(0, named=True)["hookpoint"] == "layers.20" and table["description"][0] == "dogs, cats"
    twice = [HarnessRow("r", "resid_post.2", f, 1.0) for f in (1, 2)]
    with pytest.raises(UserError, match="one feature per site"):
        write_harness(tmp_path / "two.csv", twice)
    with pytest.raises(UserError, match=r"not at resid_pre\.2"):
        write_harness(tmp_path / "pre.csv", [HarnessRow("r", "resid_pre.2", 1, 1.0)])


@real_files
def test_a_bag_of_words_is_strong_on_the_real_concepts() -> None:
    """AxBench's point: words alone detect most concepts, hard negatives or not."""
    data = axbench.AxBench(CONCEPT10 / "prod_2b_l20_v1")
    easy, everything = [], []
    for concept in data.concepts:
        train, test = data.training(concept), data.detection(concept)
        assert train.kinds.count("positive") == train.kinds.count("negative") == 72
        scores = bag_of_words(
            [p.answer for p in train.pairs], [k == "positive" for k in train.kinds], [p.answer for p in test.pairs]
        )
        found = detect(scores, test.kinds)
        easy.append(found.auroc_easy)
        everything.append(found.auroc_all)
        plain = [k != "hard negative" for k in test.kinds]
        label = [k == "positive" for k, p in zip(test.kinds, plain, strict=True) if p]
        assert found.auroc_easy == pytest.approx(roc_auc_score(label, scores[plain]), rel=1e-15)
    assert sum(easy) / len(easy) > 0.85
    assert sum(everything) / len(everything) > 0.85
