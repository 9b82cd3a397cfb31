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
        columns = {"utility": score, "oracle": score, "reverse": -score, "random": rng.random(features)}
        tables.append(pl.DataFrame({"sae": [f"s{s}"] * features, **columns}))
    return pl.concat(tables)


def test_regret_is_nothing_for_an_oracle_and_everything_for_its_reverse() -> None:
    table = scored()
    best, worst = (_regret(table, p, "utility", 0) for p in ("oracle", "reverse"))
    spans = table.group_by("sae").agg(
        span=pl.col("utility").max() - pl.col("utility").min(),
        blind=pl.col("utility").max() - pl.col("utility").mean(),
    )
    assert best["regret"] == 0 and worst["regret"] == pytest.approx(spans["span"].mean())
    assert best["regret_chance"] == worst["regret_chance"] == pytest.approx(spans["blind"].mean())
    noise = _regret(table, "random", "utility", 0)
    assert noise["regret_low"] < noise["regret_chance"] < noise["regret_high"], "control: as good as blind"


def test_a_missing_score_is_left_out_and_too_few_saes_have_no_estimate() -> None:
    table = scored().with_columns(
        oracle=pl.when(pl.col("utility") == pl.col("utility").max().over("sae")).then(None).otherwise("oracle")
    )
    assert _regret(table, "oracle", "utility", 0)["regret"] == 0, "the best of what is known"
    assert _regret(scored(saes=2), "oracle", "utility", 0)["regret"] is None
