"""The table of criteria against held-out steering scores: its regret, and the control that knows nothing."""

import polars as pl
import pytest

from saelab.core.seeds import numpy_generator
from saelab.study.summary import _regret


def scored(saes: int = 5, features: int = 30) -> pl.DataFrame:
    """Features with a held-out score, a criterion that is the score, its reverse, and one that is noise."""
    rng = numpy_generator("criteria")
    tables = []
    for s in range(saes):
        score = rng.random(features)
        columns = {"test_score": score, "oracle": score, "reverse": -score, "random": rng.random(features)}
        tables.append(pl.DataFrame({"sae": [f"s{s}"] * features, **columns}))
    return pl.concat(tables)


def test_regret_is_nothing_for_an_oracle_and_everything_for_its_reverse() -> None:
    table = scored()
    best, worst = (_regret(table, p, "test_score", 0) for p in ("oracle", "reverse"))
    spans = table.group_by("sae").agg(
        span=pl.col("test_score").max() - pl.col("test_score").min(),
        blind=pl.col("test_score").max() - pl.col("test_score").mean(),
    )
    assert best["regret"] == 0 and worst["regret"] == pytest.approx(spans["span"].mean())
    assert best["regret_chance"] == worst["regret_chance"] == pytest.approx(spans["blind"].mean())
    noise = _regret(table, "random", "test_score", 0)
    assert noise["regret_low"] < noise["regret_chance"] < noise["regret_high"], "control: as good as blind"


def test_a_missing_score_is_left_out_and_too_few_saes_have_no_estimate() -> None:
    table = scored().with_columns(
        oracle=pl.when(pl.col("test_score") == pl.col("test_score").max().over("sae")).then(None).otherwise("oracle")
    )
    assert _regret(table, "oracle", "test_score", 0)["regret"] == 0, "the best of what is known"
    assert _regret(scored(saes=2), "oracle", "test_score", 0)["regret"] is None
