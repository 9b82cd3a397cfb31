"""The stage on a tiny model: its tables, its honesty about dev and test, controls of equal norm, and resuming."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import Tensor

from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Judgement
from saelab.judges.client import Request
from saelab.judges.scripted import ScriptedJudge, always
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.saes.base import Sae, SaeConfig
from saelab.steering import plan
from saelab.steering.arms import Arm, default_arms
from saelab.steering.config import UtilityConfig
from saelab.steering.evaluate import GENERATIONS, JUDGEMENTS
from saelab.steering.run import UTILITY, SteeringInputs, run

F, D, SITE = 30, 32, "resid_post.1"
ARMS = (Arm(criterion="delta_confidence", n=2), Arm(criterion="output_score", n=3), Arm(random=5))
CONFIG = UtilityConfig(
    arms=ARMS, n_control=2, factors=(0.5, 2.0), n_dev=2, n_test=2,
    max_new_tokens=4, temperature=1.0, batch_size=8, chunk=10,
)  # fmt: skip
INSTRUCTIONS = [f"Say {word}." for word in ["one", "two", "three", "four", "five", "six", "seven"]]
FILES = ("generations.parquet", "judgements.parquet", "utility.parquet")


class PlainSae(Sae):
    """A ReLU autoencoder of random weights whose decoder rows are not of unit norm."""

    saelens_name = "standard"

    def activate(self, pre: Tensor) -> Tensor:
        return pre.clamp(min=0)


class Counting:
    """A judge that remembers what it was asked."""

    name = "counting"

    def __init__(self, answer: ScriptedJudge):
        self.answer, self.seen = answer, []

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        self.seen += list(requests)
        return self.answer.judge(requests, progress=progress)


class Stop(Exception):
    """What interrupts a run in these tests."""


@pytest.fixture(scope="module")
def inputs() -> SteeringInputs:
    g = torch.Generator().manual_seed(3)
    decoder = torch.randn(F, D, generator=g) * 2
    weights = {"W_enc": decoder.T.clone(), "W_dec": decoder, "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}
    features = pl.DataFrame(
        {
            "feature": range(F),
            "max_activation": [1.0 + f / 9 for f in range(F)],
            "description": [f"the word {f}" for f in range(F)],
            "terms": [[{"text": f" w{f}", "weight": 0.9}] for f in range(F)],
            "state": ["ok"] * (F - 6) + ["dead"] * 6,
        }
    )
    effects = pl.DataFrame(
        {
            "feature": range(F),
            "delta_confidence": [f - 15.0 for f in range(F)],
            "output_score": [0.1 * f for f in range(F)],
        }
    )
    sae = PlainSae(SaeConfig(architecture="relu", d_in=D, d_sae=F, site=SITE), weights)
    return SteeringInputs(tiny_lm(), sae, features, effects, INSTRUCTIONS, always(1.0))


def tables(folder: Path) -> tuple[pl.DataFrame, ...]:
    return tuple(pl.read_parquet(folder / name) for name in FILES)


def test_tables_have_the_agreed_columns(inputs: SteeringInputs, tmp_path: Path) -> None:
    paths = run(CONFIG, inputs, tmp_path)
    assert all(p.exists() for p in paths)
    generations, judgements, utility = tables(tmp_path)
    assert dict(generations.schema) == GENERATIONS
    assert dict(judgements.schema) == JUDGEMENTS
    assert dict(utility.schema) == UTILITY
    assert generations["generation"].is_unique().all()
    assert judgements.height == 3 * generations.height
    assert set(generations["method"]) == {"sae_feature", "random_direction", "unsteered"}
    assert set(utility["reason_chosen"]) == {"random", "delta_confidence", "output_score"}
    assert utility.select("feature", "method", "reason_chosen").is_unique().all()
    assert (utility["test_score"] == 1).all() and (utility["factor"].is_in([0.0, 0.5])).all(), "ties: smallest factor"


def test_dead_features_are_left_out_before_any_arm_is_filled(inputs: SteeringInputs, tmp_path: Path) -> None:
    """The six features with the highest scores are dead: the arms hold the next ones, not fewer."""
    run(CONFIG, inputs, tmp_path)
    utility = tables(tmp_path)[2]
    assert utility["feature"].max() < F - 6
    own = utility.filter(pl.col("method") == "sae_feature")
    assert own.filter(pl.col("reason_chosen") == "output_score")["feature"].to_list() == [21, 22, 23]
    assert own.filter(pl.col("reason_chosen") == "delta_confidence")["feature"].to_list() == [0, 1, 22, 23]
    with pytest.raises(UserError, match="No feature"):
        run(CONFIG, replace(inputs, features=inputs.features.with_columns(state=pl.lit("dead"))), tmp_path / "none")


def test_dev_and_test_never_meet(inputs: SteeringInputs, tmp_path: Path) -> None:
    """No instruction in both splits; only the chosen factor is written and judged on test."""
    run(CONFIG, inputs, tmp_path)
    generations, _, utility = tables(tmp_path)
    dev, test = (set(generations.filter(pl.col("split") == s)["instruction_id"]) for s in ("dev", "test"))
    assert not dev & test
    chosen = {(r["feature"], r["method"]): r["factor"] for r in utility.iter_rows(named=True)}
    for row in generations.filter(pl.col("split") == "test").iter_rows(named=True):
        assert row["factor"] == chosen[row["feature"], row["method"]]


def test_test_texts_cannot_move_the_choice(inputs: SteeringInputs, tmp_path: Path) -> None:
    """A judge that hates everything written on test changes the test scores and no chosen factor."""
    dev_only = [INSTRUCTIONS[i] for i in _dev_ids(inputs, tmp_path)]
    longer = ScriptedJudge(lambda r: float(len(r.text) % 3))
    harsh = ScriptedJudge(lambda r: float(len(r.text) % 3) if r.instruction in dev_only else 0.0, name="scripted")
    found = []
    for i, judge in enumerate((longer, harsh)):
        run(CONFIG, replace(inputs, judge=judge), tmp_path / str(i))
        found.append(tables(tmp_path / str(i))[2])
    assert found[0]["factor"].to_list() == found[1]["factor"].to_list()
    assert found[0]["test_score"].sum() > found[1]["test_score"].sum() == 0


def _dev_ids(inputs: SteeringInputs, folder: Path) -> list[int]:
    run(CONFIG, inputs, folder / "dev")
    return tables(folder / "dev")[0].filter(pl.col("split") == "dev")["instruction_id"].unique().to_list()


def test_the_number_of_judged_texts_is_the_cheap_one(inputs: SteeringInputs, tmp_path: Path) -> None:
    """Factors x dev + test per direction (not factors x (dev + test)), three rubrics each."""
    judge = Counting(always(1.0))
    run(CONFIG, replace(inputs, judge=judge), tmp_path)
    generations = tables(tmp_path)[0]
    steered = generations.filter(pl.col("method") != "unsteered")
    pairs = steered.select("feature", "method").unique().height
    assert steered.height == pairs * (len(CONFIG.factors) * CONFIG.n_dev + CONFIG.n_test)
    assert len(judge.seen) == 3 * generations.height


def test_missing_judgements_are_counted_and_never_zero(inputs: SteeringInputs, tmp_path: Path) -> None:
    """A judge that is silent about one test text in two: the mean is of the others, and the holes are counted."""
    moody = ScriptedJudge(lambda r: "no answer" if r.task == "fluency" and len(r.text) % 2 else 2.0)
    run(CONFIG, replace(inputs, judge=moody), tmp_path)
    utility = tables(tmp_path)[2]
    assert utility["n_missing"].sum() > 0
    assert set(utility["test_score"].drop_nulls()) == {2.0}
    run(CONFIG, replace(inputs, judge=ScriptedJudge(lambda _: "never")), tmp_path / "never")
    silent = tables(tmp_path / "never")[2]
    assert set(silent["state"]) == {"no_dev_score"} and silent["test_score"].null_count() == silent.height


def test_controls_are_of_equal_norm(inputs: SteeringInputs) -> None:
    """A feature's random direction has its strength at every factor; doubling the factor doubles the distance."""
    able = plan.candidates(inputs.features)
    directions = plan.directions_of(inputs.sae, able, [3, 8], [3, 8], 0)
    for feature in (3, 8):
        own, control = directions[feature, "sae_feature"], directions[feature, "random_direction"]
        assert float(own.vector.norm()) == pytest.approx(1) == pytest.approx(float(control.vector.norm()))
        assert own.strength(2) == 2 * own.strength(1) == control.strength(2)
        peak = able.filter(pl.col("feature") == feature)["max_activation"][0]
        torch.testing.assert_close(own.strength(1) * own.vector, peak * inputs.sae.W_dec[feature])
        assert abs(float(own.vector @ control.vector)) < 0.7
    assert not torch.equal(directions[3, "random_direction"].vector, directions[8, "random_direction"].vector)


def test_unsteered_texts_are_the_plain_models_and_are_judged_on_each_concept(
    inputs: SteeringInputs, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"temperature": 0.0})
    judge = Counting(always(1.0))
    run(config, replace(inputs, judge=judge), tmp_path)
    plain = tables(tmp_path)[0].filter(pl.col("method") == "unsteered")
    for row in plain.iter_rows(named=True):
        ids = inputs.lm.generate_ids([inputs.lm.chat(row["instruction"])], sampling=Sampling(4))
        assert row["text"] == inputs.lm.decode(ids[0])
    asked = {r.description.text for r in judge.seen if r.task == "concept" and r.description is not None}
    assert len(asked) == plain["feature"].n_unique()


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_an_interrupted_run_ends_with_the_same_bytes(
    inputs: SteeringInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    run(CONFIG, inputs, tmp_path / "whole")
    original, calls = LanguageModel.generate_ids, []

    def failing(self: LanguageModel, *args: object, **kwargs: object) -> list[list[int]]:
        calls.append(1)
        if len(calls) > cut:
            raise Stop
        return original(self, *args, **kwargs)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "generate_ids", failing)
        with pytest.raises(Stop):
            run(CONFIG, inputs, tmp_path / "cut")
    run(CONFIG, inputs, tmp_path / "cut")
    for name in FILES:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_finished_run_writes_nothing_again_and_other_settings_start_anew(
    inputs: SteeringInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(CONFIG, inputs, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "generate_ids", None)
        judge = Counting(always(1.0))
        judge.name = inputs.judge.name
        run(CONFIG, replace(inputs, judge=judge), tmp_path)
        assert judge.seen == []
    run(CONFIG.model_copy(update={"max_new_tokens": 2}), inputs, tmp_path)
    assert tables(tmp_path)[0]["n_tokens"].max() <= 2


def test_former_keys_mean_the_arms_they_meant() -> None:
    former = UtilityConfig.parse({"n_random": 5, "top_per_direction": 2, "top_output": 3})
    assert set(former.arms) == set(ARMS) and former.features == 5 + 2 * 2 + 3
    assert UtilityConfig.parse({}).arms == default_arms() == UtilityConfig.parse({"n_random": 48}).arms
    assert [a.criterion for a in UtilityConfig.parse({"top_output": 0}).arms] == ["delta_confidence", None]
    assert UtilityConfig.parse(former.model_dump(mode="json")) == former, "what a run folder keeps is read again"
    with pytest.raises(UserError, match="say n_random as arms"):
        UtilityConfig.parse({"n_random": 5, "arms": [{"random": 5}]})


@pytest.mark.parametrize(
    ("arms", "sentence"),
    [
        ([{"criterion": "kl", "n": 2}], "need one {random: N}"),
        ([{"random": 2}, {"random": 3}], "need one {random: N}"),
        ([{"random": 2}, {"criterion": "delta_confidance", "n": 2}], "delta_confidence"),
        ([{"random": 2, "criterion": "kl", "n": 1}], "not both"),
        ([{"random": 2}, {"criterion": "kl"}], "{criterion: NAME, n: K}"),
        ([{"random": 2}, {"criterion": "kl", "n": 2}, {"criterion": "kl", "n": 2}], "the same"),
        ([{"random": 2}, {"criterion": "kl", "n": 2, "tail": "left"}], "tail"),
    ],
)
def test_arms_that_are_none_are_refused(arms: list[dict], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        UtilityConfig.parse({"arms": arms})


def test_any_number_of_arms(inputs: SteeringInputs, tmp_path: Path) -> None:
    """Each holds its own features, by name; two of one criterion are told apart; one alone is the SAE unselected."""
    arms = [{"random": 2}, *({"criterion": "output_score", "tail": t, "n": 2} for t in ("up", "down"))]
    config = UtilityConfig.parse(CONFIG.model_dump() | {"arms": arms})
    run(config, inputs, tmp_path / "three")
    own = tables(tmp_path / "three")[2].filter(pl.col("method") == "sae_feature")
    found = {name: part["feature"].to_list() for (name,), part in own.group_by("reason_chosen")}
    assert found["output_score.up.2"] == [22, 23] and found["output_score.down.2"] == [0, 1]
    assert set(found) == {"random", "output_score.up.2", "output_score.down.2"} and len(found["random"]) == 2
    run(UtilityConfig.parse(CONFIG.model_dump() | {"arms": arms[:1]}), inputs, tmp_path / "one")
    assert set(tables(tmp_path / "one")[2]["reason_chosen"]) == {"random"}


def test_factors_are_distinct() -> None:
    with pytest.raises(ValueError, match="distinct"):
        UtilityConfig(factors=(1.0, 1.0))
