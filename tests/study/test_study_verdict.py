"""The study's answer: what each state of its tables is called, and that nothing is called more than it is."""

from typing import Any

import polars as pl
import pytest

from saelab.study.verdict import related, steers


def overall(value: float | None, low: float | None, high: float | None, p: float | None) -> pl.DataFrame:
    row = {"mode": "overall", "x": "interpretability", "y": "described", "value": value, "low": low, "high": high,
           "p": p, "n": 15, "statistic": "tau", "axis": None, "group": None}  # fmt: skip
    return pl.DataFrame([row], infer_schema_length=None)


def spread(reliability: float | None, p: float | None = 0.5) -> pl.DataFrame:
    rows: list[dict[str, Any]] = [
        {"score": "interpretability", "reliability": 0.9, "p": 0.001},
        {"score": "described", "reliability": reliability, "p": p},
    ]
    return pl.DataFrame(rows)


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.1, 0.02, 0.18), "steer more than"),
        ((-0.1, -0.18, -0.02), "steer less than"),
        ((0.1, -0.02, 0.22), "cannot be told from"),
        ((0.1, None, None), "cannot be told from"),
        ((None, None, None), "Too few"),
    ],
)
def test_the_random_dictionary_is_exceeded_by_an_interval_only(ends: tuple[float | None, ...], words: str) -> None:
    assert words in steers(dict(zip(("value", "low", "high"), ends, strict=True)))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((0.6, 0.3, 0.8, 0.002), "steer better"),
        ((-0.6, -0.8, -0.3, 0.002), "steer worse"),
        ((0.6, -0.1, 0.9, 0.002), "cannot be told"),
        ((0.6, 0.3, 0.8, 0.08), "cannot be told"),
        ((None, None, None, None), "too few SAEs"),
    ],
)
def test_a_relation_is_told_by_interval_and_p_together(row: tuple[float | None, ...], words: str) -> None:
    sentence = related(overall(*row), spread(0.6))
    assert words in sentence and ("because" in sentence) == ("cannot be told" in sentence)


def test_of_several_lms_the_verdict_speaks_of_what_is_inside_them() -> None:
    """Levels of LMs alone make an overall tau. Control: of one LM there is no such row, and the overall one counts."""
    levels = overall(0.7, 0.5, 0.85, 0.0001)
    inside = overall(0.0, -0.3, 0.3, 0.9).with_columns(statistic=pl.lit("tau within"))
    assert "cannot be told (tau inside language models" in related(pl.concat([levels, inside]), spread(0.6))
    assert "steer better (tau +0.70" in related(levels, spread(0.6))


def test_a_relation_inside_lms_says_on_which_alone_it_is_not_shown() -> None:
    inside = overall(0.4, 0.2, 0.6, 0.001).with_columns(statistic=pl.lit("tau within"))
    own = [overall(0.5, 0.3, 0.7, 0.001), overall(0.1, -0.2, 0.4, 0.3), overall(0.3, None, None, None)]
    shown = [
        row.with_columns(mode=pl.lit("reported"), axis=pl.lit("lm"), group=pl.lit(name))
        for name, row in zip("abc", own, strict=True)
    ]
    typed = inside.cast({"axis": pl.String, "group": pl.String})
    sentence = related(pl.concat([typed, *shown], how="vertical_relaxed"), spread(0.6))
    assert sentence.endswith("15 SAEs; not shown on b alone, +0.10 [-0.20, +0.40], c alone, +0.30)")
    assert "alone" not in related(pl.concat([typed, shown[0]], how="vertical_relaxed"), spread(0.6)), "control"


def test_the_reason_is_what_the_design_lacks() -> None:
    weak = related(overall(0.1, -0.3, 0.5, 0.6), spread(0.0))
    assert "not told apart" in weak and "no tau could be found" in weak
    strong = related(overall(0.1, -0.3, 0.5, 0.6), spread(0.9, p=0.001))
    assert "told apart, but not enough" in strong and "a true tau of 0." in strong
    assert "too few features" in related(overall(0.1, -0.3, 0.5, 0.6), spread(None, None))
