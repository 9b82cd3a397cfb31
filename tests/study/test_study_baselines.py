"""Hard baselines in a study: beside the SAEs in every table of SAEs, and in no claim about them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.report.baselines import sentences
from saelab.report.names import Names
from saelab.store.layout import RunFolder
from saelab.study.baselines import _of_features, _over_features, _paired, _row, pairs_of
from saelab.study.costs import power_of
from saelab.study.plan import cells_of
from saelab.study.scales import read_study
from saelab.study.spec import StudyConfig, saes_of
from saelab.workflow import run_study


def with_controls(data: dict[str, Any]) -> StudyConfig:
    """Three levels of TopK with a frozen decoder beside each, and one of them on the shuffled model."""
    (model,) = data["models"]
    grid = {"sites": ["resid_post.1"], "architectures": ["topk"], "levels": [4, 6, 8], "d_sae": 48}
    plain = model | {"grids": [grid | {"freeze": ["none", "decoder"]}], "paths": []}
    shuffled = model | {"grids": [grid | {"levels": [4]}], "paths": [], "control": "shuffled_weights"}
    small = {"interp": data["interp"] | {"n_scored": 16, "material": False}, "selection": {"features": "tested"}}
    steering = {"arms": [{"random": 3}]}
    suite = {"preset": "tiny", "only": ["core"]}
    return StudyConfig.parse(data | {"models": [plain, shuffled], "steering": steering, "suite": suite} | small)


def test_controls_are_scored_beside_and_claimed_of_nothing(study_data: dict[str, Any], tmp_path: Path) -> None:
    study = with_controls(study_data)
    page = run_study(study, tmp_path / "run").read_text()
    run = RunFolder(tmp_path / "run")
    saes, told = run.stats.table("saes").read(), run.stats.table("baselines").read()
    assert dict(saes.group_by("control").len().iter_rows()) == {None: 3, "frozen_decoder": 3, "shuffled_weights": 1}
    steered = saes.filter(pl.col("n_steered").is_not_null())["control"].unique().to_list()
    assert set(steered) == {None, "frozen_decoder"}, "a shuffled model writes no text to be steered"

    own = saes.filter(pl.col("control").is_null())
    whole = run.stats.table("agreement").read().filter(pl.col("mode") == "overall")
    assert set(whole["n"]) == {3}, "as many SAEs as are no controls"
    assert set(run.stats.table("steered").read()["sae"]) == set(own["sae"])
    assert set(run.stats.table("spread").read()["items"]) == {3}

    fvu = {r["control"]: r for r in told.filter(pl.col("score") == "fvu").iter_rows(named=True)}
    assert fvu["shuffled_weights"]["told"] is None, "one pair tells nothing"
    frozen = saes.filter(pl.col("control") == "frozen_decoder")["fvu"]
    assert fvu["frozen_decoder"]["difference"] == pytest.approx((own["fvu"].to_numpy() - frozen.to_numpy()).mean())
    assert fvu["frozen_decoder"]["difference"] < 0 and fvu["frozen_decoder"]["told"]
    explained = told.filter((pl.col("score") == "suite: Explained") & (pl.col("control") == "frozen_decoder"))
    assert explained["difference"][0] > 0 and explained["n"][0] == 3, "the suite's figures stand beside the others"
    assert "Which scores tell trained from frozen" in page and "SAEs whose decoder stays as it was drawn" in page
    (of_frozen,) = [s for s in sentences(told, Names()) if "decoder stays" in s]
    better, worse = of_frozen.partition("told as worse by")[::2]
    assert "told as better by FVU" in better and "FVU" not in worse, "a lower FVU is the better one"
    turned = told.with_columns(-pl.col("difference"))
    assert any("told as worse by FVU" in s for s in sentences(turned, Names())), "control: the other way round"
    assert run.results.read()["baselines"] and "frozen decoder" in page


def test_a_control_is_paired_with_what_differs_in_nothing_else(study_data: dict[str, Any]) -> None:
    saes = saes_of(with_controls(study_data))
    pairs = pairs_of(saes)
    assert len(pairs) == 4 and all(a.level == b.level and a.control is None and b.control for a, b in pairs)
    assert pairs_of([s for s in saes if s.level == 4 or s.control]) == [p for p in pairs if p[0].level == 4]
    both = [s.model_copy(update={"freeze": "decoder"}) if s.model.control else s for s in saes]
    assert len(pairs_of(both)) == 3, "what is a control by two things has no pair"


def test_a_plan_counts_no_control_among_the_saes_that_agree(study_data: dict[str, Any]) -> None:
    planned = power_of(with_controls(study_data))
    assert planned is not None and planned.saes == 3, "six are steered with"


def test_without_controls_nothing_is_told_of_them(study: StudyConfig) -> None:
    """Names and keys of cells of a study without controls hold nothing of them."""
    (model,) = study.model_dump(mode="json")["models"]
    assert "control" not in model and not any("freeze" in grid for grid in model["grids"])
    assert not any("freeze" in str(c.settings) or "frozen" in c.name for c in cells_of(study))


def test_a_mean_difference_of_pairs_has_the_t_interval() -> None:
    """1, 2, 3 less 0: mean 2, standard error 1 / sqrt 3, t of two degrees of freedom 4.303."""
    found = _paired(np.array([1.0, 2.0, 3.0, np.nan]), np.zeros(4))
    assert (found.value, found.n, found.dropped) == (2.0, 3, 1)
    assert found.low == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-5) and found.p == pytest.approx(0.0742, abs=1e-4)
    assert _paired(np.array([1.0, 2.0]), np.zeros(2)).state == "too_few"
    alike = _paired(np.ones(3), np.zeros(3))
    assert alike.value == 1 and alike.low is None, "nothing varies: no interval"


def test_the_shipped_study_of_controls() -> None:
    """Every control has its SAE at two levels and in two trainings; the shuffled model's are not steered with."""
    saes = saes_of(read_study(Path(__file__).parents[2] / "studies" / "baselines.yaml"))
    controls = [control.control for _, control in pairs_of(saes)]
    assert {name: controls.count(name) for name in controls} == dict.fromkeys(
        ("frozen_decoder", "frozen_encoder", "frozen_soft", "frozen_principal", "shuffled_weights"), 4
    )
    assert len(saes) == 24 and [s.control for s in saes if not s.steer] == ["shuffled_weights"] * 4


def test_stability_tells_what_is_found_again(study_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted stabilities of features: 0.3 apart they are told; controls with the SAEs' own are not (control)."""
    study = with_controls(study_data)
    pairs = [pair for pair in pairs_of(saes_of(study)) if pair[1].freeze != "none"]
    rng = np.random.default_rng(0)
    for apart in (0.3, 0.0):
        values = {s.name: rng.normal(0.8 - apart * (s.freeze != "none"), 0.1, 40) for pair in pairs for s in pair}
        found = {name: (pl.DataFrame({"stability": v}), [0.1]) for name, v in values.items()}
        monkeypatch.setattr("saelab.study.baselines.stability_of", lambda study, run, s, found=found: found[s.name])
        read = dict(_of_features(study, RunFolder(Path()), pairs, seen=False))["stability"]
        groups = [[read(pair[side]) for pair in pairs] for side in (0, 1)]
        row = _row(groups, _over_features(*groups))
        assert row["told"] is (apart > 0) and row["difference"] == pytest.approx(apart, abs=0.05)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"options": {"frozen_decoder": "true"}}, "is now said by `freeze: decoder`"),
        ({"options": {"freeze": "decoder"}}, "is said by architectures, levels, d_sae and freeze"),
        ({"freeze": ["half"]}, "freeze.0"),
        ({"freeze": []}, "freeze"),
    ],
)
def test_what_cannot_be_frozen_is_said(study_data: dict[str, Any], grid: dict[str, Any], message: str) -> None:
    study_data["models"][0]["grids"][0] |= grid
    with pytest.raises(UserError) as caught:
        StudyConfig.parse(study_data)
    assert message in str(caught.value)
