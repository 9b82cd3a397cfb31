"""What a study asks about its tau, from tables alone: halves of prompts, rows that know of LMs, texts by prompt."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from saelab.instrument.readers import HEADLINE
from saelab.study.collect import prompt_tables
from saelab.study.questions import _halves, _known, _partials
from saelab.study.spec import StudyConfig


def texts(prompts: int, copies: int = 1) -> pl.DataFrame:
    """Two features; a text's score says its prompt: 1, 2, .. for instructions, 10, 20, .. for openings."""
    rows = [
        {"feature": f, "prompt": f"{'say' if answer else 'so'} {i}", "answer": answer, "copy": c,
         HEADLINE: 100 * f + (1 if answer else 10) * (i + 1)}
        for f in (0, 1) for answer in (True, False) for i in range(prompts) for c in range(copies)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema_overrides={HEADLINE: pl.Float64})


@pytest.mark.parametrize("copies", [1, 3])
def test_halves_are_of_prompts_and_hold_both_kinds(copies: int) -> None:
    """Instructions 1 and 3 with openings 10 and 30 choose, the others test; all copies of a prompt lie in one half."""
    found = _halves(texts(4, copies), HEADLINE)
    assert found["dev"].to_list() == [11, 111] and found["test"].to_list() == [16.5, 116.5]
    shuffled = _halves(texts(4, copies).sample(fraction=1, shuffle=True, seed=1), HEADLINE)
    assert shuffled.sort("feature").equals(found)


def test_one_prompt_of_each_kind_is_a_half_each() -> None:
    found = _halves(texts(1), HEADLINE)
    assert found["dev"].to_list() == [1, 101] and found["test"].to_list() == [10, 110]


def test_texts_by_prompt_keep_the_order_of_prompts_and_say_what_is_missing() -> None:
    read = texts(2, 2).filter(~((pl.col("feature") == 1) & pl.col("answer")))
    found = prompt_tables(read, {"random": [1, 0], "none": []}, HEADLINE)
    assert found["random"][1].tolist() == [10, 20, 1, 2]
    assert np.isnan(found["random"][0]).tolist() == [False, False, True, True]
    assert found["none"].shape == (0, 4)


def grid(lms: int) -> pl.DataFrame:
    rng, n = np.random.default_rng(0), 14
    one = pl.DataFrame({c: rng.normal(size=n * lms) for c in ("interpretability", "described", "read_back", "fvu")})
    width = [1024, 2048] * (n * lms // 2)
    return one.with_columns(
        l0=pl.Series(rng.normal(size=n * lms)), width=pl.Series(width), site=pl.lit("resid_post.7"),
        lm=pl.Series([f"lm{i}" for i in range(lms) for _ in range(n)]),
    )  # fmt: skip


def test_rows_that_know_nothing_of_lms_are_not_shown_where_there_are_several(study_data: dict[str, Any]) -> None:
    """Of one LM the SAEs are the units; what varies inside every LM is held too, what does not is no term."""
    study = StudyConfig.parse(study_data | {"resamples": 100})
    one, two = (list(_partials(study, grid(n))) for n in (1, 2))
    assert {r["statistic"] for r in one} == {"partial tau", "rank coefficient"}
    assert {r["statistic"] for r in two} == {"partial tau within", "rank coefficient within"}
    assert {r["about"] for r in two if r["question"] == "regression"} == {"interpretability", "l0", "fvu", "width"}
    assert "l0, fvu, width" in {r["about"] for r in one}
    like = [r for r in two if "no interval below 3" in (r["note"] or "")]
    assert like and all(r["low"] is None for r in like), "two LMs say nothing of others"
    absent = pl.DataFrame({"statistic": ["tau difference"], "value": [None]})
    assert _known(absent, {"cluster": "lm"}).height == 1, "a reason is not dropped"
