"""Feature-level analysis: inside SAEs only, pooled over SAEs, quiet under the null."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import kendalltau, spearmanr, ttest_1samp

from saelab.core.seeds import numpy_generator
from saelab.stats.features import feature_agreement


def study(saes: int, features: int, slope: float, *names: str | int) -> pl.DataFrame:
    """SAEs that shift `good` and `score` against each other, while inside `good` drives the score by `slope`."""
    e = numpy_generator("test features", *names).standard_normal((3, saes, features))
    shift = 3.0 * np.arange(saes)[:, None]
    return pl.DataFrame(
        {
            "sae": np.repeat([f"sae{i:02}" for i in range(saes)], features),
            "good": (e[0] - shift).ravel(),
            "idle": e[1].ravel(),
            "score": (slope * e[0] + e[2] + shift).ravel(),
        }
    )


def test_coefficients_are_scipys_and_pooled_is_their_mean() -> None:
    data = study(6, 25, 1.0, "scipy").with_columns(pl.col("good").round(1))
    found = feature_agreement(data, predictors=["good", "idle"], response="score", draws=300)
    one = data.filter(sae="sae03")
    for name, expected in (("tau", kendalltau), ("spearman", spearmanr)):
        rows = found.filter(predictor="good", statistic=name)
        value = rows.filter(sae="sae03")["value"][0]
        assert value == pytest.approx(float(expected(one["good"], one["score"]).statistic))
        these, like = rows.filter(pl.col("sae").is_null()).iter_rows(named=True)
        inside = rows.filter(pl.col("sae").is_not_null())["value"]
        assert (these["scope"], like["scope"]) == ("these", "like these") and these["value"] == like["value"]
        assert like["value"] == pytest.approx(inside.mean()) and like["n"] == 6
        assert like["se"] == pytest.approx(inside.std() / np.sqrt(6))
        known = ttest_1samp(inside.to_numpy(), 0)
        assert (like["interval_method"], like["p"]) == ("t over SAEs", pytest.approx(float(known.pvalue)))
        assert these["p_method"] == "permutation within SAEs" and these["interval_method"] == "Fisher z over features"


def test_what_happens_between_saes_does_not_count() -> None:
    """Over all features good and score go against each other; inside every SAE they go together."""
    data = study(8, 30, 1.0, "between")
    assert kendalltau(data["good"], data["score"]).statistic < -0.5
    found = feature_agreement(data, predictors=["good", "idle"], response="score", draws=500)
    pooled = found.filter(pl.col("sae").is_null() & (pl.col("statistic") == "tau") & (pl.col("scope") == "these"))
    assert set(pooled["family"]) == {"2 predictors of score (tau, these)"}
    good, idle = pooled.iter_rows(named=True)
    assert good["low"] > 0.3 and good["p_holm"] < 0.01
    assert idle["low"] < 0 < idle["high"] and idle["p"] > 0.05


@pytest.mark.parametrize("features", [20, 80])
def test_p_under_the_null(features: int) -> None:
    """40 studies without a relation: pooled p below .1 in about a tenth, by permutation and by the normal road."""
    ps, covered = [], []
    for i in range(40):
        data = study(5, features, 0.0, "null", i)
        found = feature_agreement(data, predictors=["good"], response="score", draws=200)
        pooled = found.filter(pl.col("sae").is_null())
        ps += pooled["p"].to_list()
        covered += ((pooled["low"] < 0) & (pooled["high"] > 0)).to_list()
    assert 0.02 < np.mean(np.array(ps) < 0.1) < 0.22
    assert np.mean(covered) > 0.85


def test_states_and_counts() -> None:
    data = study(4, 12, 1.0, "states").with_columns(
        good=pl.when(pl.col("sae") == "sae00").then(1.0).otherwise("good"),
        score=pl.when(pl.col("sae") == "sae01").then(None).otherwise("score"),
    )
    data = pl.concat([data, data.filter(sae="sae02").head(2).with_columns(sae=pl.lit("sae99"))])
    found = feature_agreement(data, predictors=["good"], response="score", draws=200).filter(statistic="tau")
    states = dict(found.select("sae", "state").unique().iter_rows())
    assert states == {
        None: "ok",
        "sae00": "constant",
        "sae01": "missing",
        "sae02": "ok",
        "sae03": "ok",
        "sae99": "too_few",
    }
    these, like = found.filter(pl.col("sae").is_null()).iter_rows(named=True)
    for pooled in (these, like):
        assert pooled["n"] == 2 and "3 of 5 SAEs" in pooled["note"] and pooled["dropped"] == 12
    assert these["low"] is not None and like["low"] is None and "2 SAEs: no interval" in like["note"]


def test_saes_of_one_lm_are_no_units_where_lms_differ() -> None:
    """An LM's own relation, none on average: 5 % over LMs. Control: over SAEs far more."""
    wrong: dict[str | None, int] = {"lm": 0, None: 0}
    for i in range(24):
        generator = numpy_generator("test features lms", i)
        own = np.repeat(0.7 * generator.standard_normal(3), 3)[:, None]
        x, e = generator.standard_normal((2, 9, 12))
        data = pl.DataFrame({"sae": np.repeat(np.arange(9), 12), "x": x.ravel(), "y": (own * x + e).ravel()})
        data = data.with_columns(lm=pl.col("sae") // 3)
        for cluster in wrong:
            found = feature_agreement(data, predictors=["x"], response="y", cluster=cluster, draws=9)
            like = found.filter(pl.col("sae").is_null() & (pl.col("scope") == "like these")).row(0, named=True)
            wrong[cluster] += like["p"] < 0.05
            assert like["interval_method"] == f"t over {cluster or 'SAEs'}"
    assert wrong["lm"] < 5 and wrong[None] > 6
