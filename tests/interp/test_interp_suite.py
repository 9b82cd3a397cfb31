"""The suite on a tiny LM: every evaluation, valid files, equal bytes, one pass for all SAEs."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from saebench_fields import METRICS, problems
from test_interp_run import CONFIG, SITE, packed_text, random_sae
from torch import Tensor

from saelab.activations.harvest import HarvestConfig, harvest
from saelab.core.errors import UserError
from saelab.interp.run import prepare as prepare_text
from saelab.interp.run import run as run_interp
from saelab.interp.suite import labelled as labelled_module
from saelab.interp.suite.catalogue import CATALOGUE, Entry, Headline, headlines
from saelab.interp.suite.config import SuiteConfig
from saelab.interp.suite.evaluation import Evaluation, SiteSuite, Subject, data_sets_of, evaluation_of
from saelab.interp.suite.labelled import LabelledData
from saelab.interp.suite.result import Result
from saelab.interp.suite.run import COLUMNS, read, run
from saelab.interp.suite.site import prepare
from saelab.judges.lexical import LexicalJudge
from saelab.lm.tiny import tiny_lm
from saelab.report.evaluation_tables import suite as suite_table
from saelab.report.names import Names
from saelab.store.tensors import read_tensors

DOCS = Path(__file__).parents[2] / "docs" / "interpretability.md"
TINY = SuiteConfig(preset="tiny")


def labelled(name: str) -> LabelledData:
    """Three classes told apart by a word, or two with an attribute."""
    crossed, two = name == "alive_sex", name[0].isdigit()
    words = ("cats", "dogs") if crossed or two else ("cats", "dogs", "rain")
    labels = [words[i % len(words)] for i in range(240)]
    texts = tuple(f"{label} and {i * 7919 % 1000} more {label} here" for i, label in enumerate(labels))
    if name == "code_language":
        labels = [("C", "Python", "HTML")[i % 3] for i in range(240)]
    if not crossed:
        return LabelledData(name, texts, tuple(labels))
    values = [("True", "False")[label == "dogs"] for label in labels]
    return LabelledData(name, texts, tuple(values), tuple(("female", "male")[i // 2 % 2] for i in range(240)))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteSuite:
    lm, folder = tiny_lm(), tmp_path_factory.mktemp("suite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labelled_module, "load_labelled", labelled)
        train, held_out = packed_text(lm, 1), packed_text(lm, 100)
        shards = harvest(lm, train, [SITE], folder / "acts", config=HarvestConfig(dtype="float32"))
        text = prepare_text(CONFIG, lm, site=SITE, held_out=held_out, packed=train, shards=shards[SITE])
        for data in data_sets_of(TINY):
            paths = read(data, lm, ["resid_post.0", SITE], folder / data.key, seed=TINY.seed)
            assert [p.stem for p in paths] == ["resid_post.0", SITE]

        def load(key: str) -> Mapping[str, Tensor]:
            return read_tensors(folder / key / f"{SITE}.safetensors")

        return prepare(TINY, text, load)


@pytest.fixture(scope="module")
def features(site: SiteSuite, tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    folder = tmp_path_factory.mktemp("features")
    return pl.read_parquet(run_interp(site.text, random_sae(), folder, judge=LexicalJudge())[1])


def run_into(site: SiteSuite, features: pl.DataFrame, folder: Path, name: str = "a") -> list[Path]:
    table, saebench = folder / "evaluations.parquet", folder / "saebench"
    return run(site, random_sae(), name, features=features, judge=LexicalJudge(), table=table, saebench=saebench)


@pytest.fixture(scope="module")
def written(site: SiteSuite, features: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One SAE's table and files, written over a stale one."""
    folder = tmp_path_factory.mktemp("written")
    stale = folder / "saebench" / "absorption" / "a_custom_sae_eval_results.json"
    stale.parent.mkdir(parents=True)
    stale.write_text("{}")
    return run_into(site, features, folder)


def test_every_evaluation_leaves_a_row_and_its_file(written: list[Path]) -> None:
    table, *files = written
    rows = pl.read_parquet(table)
    assert dict(rows.schema) == COLUMNS and set(rows["preset"]) == {"tiny"}
    assert set(rows["kind"]) == set(TINY.kinds) == set(CATALOGUE) - {"ravel"}  # its tables are not shipped
    for path in files:
        file = json.loads(path.read_text())
        assert file["eval_type_id"] in METRICS
        assert problems(file) == [], path
        assert file["eval_config"]["preset"] == "tiny" and file["eval_config"]["deviations"]
        assert path.name == "a_custom_sae_eval_results.json"
    known = {(kind, h.metric) for kind, h in headlines() if kind in TINY.kinds}
    assert known <= set(rows.select("kind", "metric").iter_rows())


def test_what_is_missing_has_a_reason_and_no_file(written: list[Path]) -> None:
    """A byte-level LM has hardly any words: no letter has a good probe."""
    table, *files = written
    rows = pl.read_parquet(table)
    assert rows.filter(pl.col("value").is_null())["reason"].null_count() == 0
    absorbed = rows.filter(pl.col("kind") == "absorption_first_letter")
    stale = table.parent / "saebench" / "absorption" / "a_custom_sae_eval_results.json"
    assert stale.exists() == (absorbed["value"].null_count() == 0) == ("absorption" in {p.parent.name for p in files})
    assert not stale.exists() or stale.read_text() != "{}"


def test_the_same_settings_give_the_same_bytes(
    site: SiteSuite, features: pl.DataFrame, written: list[Path], tmp_path: Path
) -> None:
    again = run_into(site, features, tmp_path)
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again] and len(again) > 6


def test_an_sae_costs_no_reading(
    site: SiteSuite, features: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The LM runs from the site on (core) and writes (intervention), and reads no text."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("an SAE made the model read")

    monkeypatch.setattr(site.text.lm, "run_to", refuse)
    monkeypatch.setattr(site.text.lm, "capture", refuse)
    assert run_into(site, features, tmp_path)


def test_presets_are_three_and_share_readings() -> None:
    for preset in ("paper", "small", "tiny"):
        suite = SuiteConfig(preset=preset, only=("tpp", "sparse_probing", "scr", "absorption_first_letter"))
        keys = [r.key for r in data_sets_of(suite)]
        assert len(keys) == len(set(keys)) and all("/" not in k for k in keys)
    small = SuiteConfig(preset="small", only=("sparse_probing", "tpp"))
    assert len(data_sets_of(small)) == 2  # both evaluations read the same two sets
    core = SuiteConfig(only=("core",))
    assert data_sets_of(core) == () and core.kinds == ("core",)
    with pytest.raises(UserError, match="Did you mean scr"):
        SuiteConfig.parse({"only": ["scrr"]})


def test_every_entry_of_the_catalogue_loads_as_what_it_says() -> None:
    for kind, entry in CATALOGUE.items():
        loaded = evaluation_of(kind)
        assert kind == entry.kind == loaded.kind and set(loaded.presets) in (set(), {"paper", "small", "tiny"})
        assert entry.headlines and (loaded.saebench is None) == (kind not in METRICS)
        assert f"`{kind}`" in DOCS.read_text()
    titles = [h.title for _, h in headlines()]
    assert len(titles) == len(set(titles))


def toy(subject: Subject, shared: int) -> Result:
    return Result("toy", {"counts": {"rows_per_latent": shared / subject.sae.cfg.d_sae}}, {})


EVALUATION = Evaluation("toy", {}, toy, prepare=lambda site: len(site.text.rows))


def test_a_new_evaluation_is_a_file_and_an_entry(
    site: SiteSuite, features: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="there is no evaluation 'toy'"):
        SuiteConfig.parse({"only": ["toy"]})
    figure = Headline("Toy", "rows_per_latent", "higher", "rows")
    monkeypatch.setitem(CATALOGUE, "toy", Entry("toy", __name__, (figure,)))
    made = prepare(SuiteConfig(preset="tiny", only=("toy",)), site.text, site.load)
    (table,) = run_into(made, features, tmp_path)  # SAEBench has no such evaluation, so there is no file of it
    rows = pl.read_parquet(table)
    assert rows["value"].to_list() == [len(site.text.rows) / random_sae().cfg.d_sae]
    shown = suite_table(rows.with_columns(sae=pl.lit("a")), None, Names())
    assert [c.label for c in shown.columns] == ["SAE", "Toy"]


def test_long_texts_lose_their_beginning_but_not_their_bos() -> None:
    from saelab.interp.suite.pooled import read_ids

    lm = tiny_lm()
    ids = lm.tokenize(["abcdefghij", "xyz"])
    cut = read_ids(lm, ids, [SITE], context=5, cut="left", last=True)[SITE].rows
    direct = read_ids(lm, [[ids[0][0], *ids[0][-4:]], ids[1]], [SITE], context=50, last=True)[SITE].rows
    assert torch.equal(cut, direct) and cut.shape[0] == 2
    assert np.array_equal(read_ids(lm, ids, [SITE], context=5)[SITE].text.numpy(), [0] * 4 + [1] * 3)
