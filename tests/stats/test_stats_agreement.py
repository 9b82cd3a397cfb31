"""The public table of agreement: the paper's arithmetic, the axes, the states, and a study of nothing."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import kstest

from saelab.core.errors import ArtefactError, UserError
from saelab.core.seeds import numpy_generator
from saelab.stats.agreement import COLUMNS, agreement, read_and_agree
from saelab.stats.association import Draws, sample_of
from saelab.stats.axes import Mode, groups_of, psi
from saelab.stats.estimate import Estimate
from saelab.stats.inputs import numbers
from saelab.stats.table_files import open_table
from saelab.stats.within import permuted

AXES = {"architecture": "architecture", "level": "level", "lm": "lm"}
LMS = ("gemma-2-2b", "gemma-2-9b", "qwen-2.5-3b")
PUBLISHED = {  # arXiv 2510.03659 Tables 1 and 3: taus of the groups, psi, SE, interval
    "T1 A": ((0.3203, -0.2026, 0.4248, 0.3595, 0.3856), 0.2575, 0.1163, (0.0222, 0.3961)),
    "T1 B": ((0.5429, 0.3524, 0.1810, 0.1810, -0.2190, -0.0476), 0.1651, 0.1112, (-0.0286, 0.3587)),
    "T1 C": ((0.2184, 0.4575, 0.3057), 0.3272, 0.0698, (0.2184, 0.4575)),
    "T3 A": ((-0.2288, 0.0327, -0.0065, -0.2810, 0.1242), -0.0719, 0.0781, None),
    "T3 B": ((0.0476, 0.1619, 0.0095, 0.0476, -0.1810, -0.0095), 0.0127, 0.0457, None),
    "T3 C": ((-0.1402, -0.1448, -0.0483), -0.1111, 0.0314, None),
}


def grid(rho: float, *names: str | int) -> pl.DataFrame:
    """The paper's design, 3 x 5 x 6 SAEs, x and y Gaussian with correlation rho."""
    rows = [
        (a, k, m)
        for m in LMS
        for a in ("BatchTopK", "Gated", "JumpReLU", "ReLU", "TopK")
        for k in (50, 80, 160, 320, 520, 820)
    ]
    x, noise = numpy_generator("test agreement", *names).standard_normal((2, 90))
    table = pl.DataFrame(rows, schema=["architecture", "level", "lm"], orient="row")
    return table.with_columns(x=pl.Series(x), y=pl.Series(rho * x + np.sqrt(1 - rho**2) * noise))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_psi(name: str) -> None:
    taus, value, se, interval = PUBLISHED[name]
    found = psi(taus, Draws(0, 20_000))
    assert found.value == pytest.approx(value, abs=2e-4)
    if name == "T3 B":  # the page prints another SE than sd / sqrt(6) = 0.0460
        assert found.se == pytest.approx(se, abs=1e-3)
    else:
        assert found.se == pytest.approx(se, abs=2e-4)
    if interval:
        assert (found.low, found.high) == pytest.approx(interval, abs=0.012)


def test_published_grand_psi() -> None:
    for table, expected in (("T1", 0.2499), ("T3", -0.0568)):
        psis = [PUBLISHED[f"{table} {axis}"][1] for axis in "ABC"]
        assert np.mean(psis) == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def planted() -> pl.DataFrame:
    return agreement(grid(0.5, "planted"), x="x", y="y", axes=AXES, seed=3)


def test_the_frame_has_its_columns_and_rows(planted: pl.DataFrame) -> None:
    assert tuple(planted.columns) == COLUMNS
    counts = planted.group_by("mode", "axis", "statistic").len().sort("mode", "axis", "statistic", nulls_last=True)
    found = {(m, a, s): n for m, a, s, n in counts.iter_rows()}
    assert found == {
        ("overall", None, "tau"): 2, ("overall", None, "tau within"): 2,
        ("reported", "architecture", "tau"): 5, ("reported", "level", "tau"): 6, ("reported", "lm", "tau"): 3,
        ("matched", "level", "tau"): 15, ("matched", "architecture", "tau"): 18, ("matched", "lm", "tau"): 30,
        **{(m, a, "psi"): 1 for m in ("reported", "matched") for a in AXES},
        ("reported", None, "Psi"): 1, ("matched", None, "Psi"): 1,
    }  # fmt: skip
    sizes = planted.filter(pl.col("statistic") == "tau").group_by("mode", "axis").agg(pl.col("n").unique())
    expected = {("reported", "architecture"): 18, ("reported", "level"): 15, ("reported", "lm"): 30}
    expected |= {("matched", "level"): 6, ("matched", "architecture"): 5, ("matched", "lm"): 3, ("overall", None): 90}
    assert {(m, a): n for m, a, (n,) in sizes.iter_rows()} == expected
    assert (planted["seed"] == 3).all()


def test_levels_stand_in_their_order(planted: pl.DataFrame) -> None:
    groups = planted.filter(mode="reported", axis="level", statistic="tau")["group"].to_list()
    assert groups == ["50", "80", "160", "320", "520", "820"]


def test_groups_and_psi_are_what_they_say(planted: pl.DataFrame) -> None:
    table = grid(0.5, "planted")
    part = table.filter(architecture="Gated", lm=LMS[0])
    row = planted.filter(mode="matched", axis="level", group=f"Gated / {LMS[0]}").row(0, named=True)
    concordant = sum(
        (part["x"][i] - part["x"][j]) * (part["y"][i] - part["y"][j]) > 0 for i in range(6) for j in range(i)
    )
    assert row["value"] == pytest.approx(2 * concordant / 15 - 1)
    for mode in ("reported", "matched"):
        psis = []
        for axis in AXES:
            of_axis = planted.filter(mode=mode, axis=axis)
            mean = of_axis.filter(statistic="psi")["value"][0]
            assert mean == pytest.approx(of_axis.filter(statistic="tau")["value"].mean())
            psis.append(mean)
        assert planted.filter(mode=mode, statistic="Psi")["value"][0] == pytest.approx(np.mean(psis))


def test_a_planted_association_is_found(planted: pl.DataFrame) -> None:
    overall = planted.filter(mode="overall")
    methods = ["BCa bootstrap", None, "BCa bootstrap within lm", "t over lm"]
    assert overall["interval_method"].to_list() == methods
    naive, clustered, these, like = overall.iter_rows(named=True)
    assert naive["low"] > 0.1 and naive["low"] < naive["value"] < naive["high"]
    assert naive["p"] < 0.001 and these["p"] < 0.001 and these["p_method"] == "permutation within lm"
    assert (clustered["p"], clustered["value"]) == (None, naive["value"]) and "3 values of lm" in clustered["note"]
    assert these["value"] == like["value"]
    assert these["low"] < these["value"] < these["high"] and like["low"] < like["value"] < like["high"]
    taus = planted.filter(mode="reported", axis="lm", statistic="tau")["value"]
    assert like["value"] == pytest.approx(taus.mean()) and like["p_method"] == "t over lm"
    assert (planted.filter(statistic="psi", mode="reported")["p"] < 0.01).all()


def levels_of_three_lms(*names: str | int, within: float) -> pl.DataFrame:
    """Three LMs of ten SAEs whose levels of x and y rise together; inside an LM x and y correlate by `within`."""
    x, e = numpy_generator("test agreement", *names).standard_normal((2, 30))
    level = np.repeat([0.0, 3.0, 6.0], 10)
    y = within * x + np.sqrt(1 - within**2) * e
    return pl.DataFrame({"x": level + x, "y": level + y, "lm": np.repeat(["a", "b", "c"], 10)})


def test_each_p_stands_beside_the_estimate_that_it_tests() -> None:
    """Levels alone make the overall tau; the p inside LMs stands beside the tau inside LMs. Control: over all SAEs."""
    wrong = {"within": 0, "like": 0, "overall": 0}
    for i in range(60):
        found = agreement(levels_of_three_lms("beside", i, within=0.0), x="x", y="y", cluster="lm", draws=300)
        assert abs(found["value"][1] - found["value"][0]) < 1e-12 and found["p"][1] is None
        for name, row in (("overall", 0), ("within", 2), ("like", 3)):
            wrong[name] += found["p"][row] < 0.05
    assert wrong["within"] < 10 and wrong["like"] < 10
    assert wrong["overall"] == 60, "control: over all SAEs the levels count"
    one = agreement(
        levels_of_three_lms("one", within=0.9).with_row_index("own"), x="x", y="y", cluster="own", draws=200
    )
    assert one["statistic"].to_list() == ["tau", "tau", "tau within", "tau within"]
    assert one["p"][1] < 0.05 and one["state"].to_list()[2:] == ["too_few"] * 2, "one SAE per LM has no inside"


def test_three_and_four_rows_have_no_p() -> None:
    """3 rows: the rarest order has p 1/3; 4 rows: 1/12; 5 rows: 1/60."""
    for n, known in ((3, False), (4, False), (5, True)):
        row = agreement(pl.DataFrame({"x": range(n), "y": range(n)}), x="x", y="y").row(0, named=True)
        assert (row["p"] is not None) == known and (row["p_method"] is not None) == known
        assert "too few orders" in row["note"] or known


def test_ties_are_ties_to_the_last_digit() -> None:
    """0.1 + 0.2 is 0.3: control, a difference of a millionth is an order."""
    y = [1.0, 2.0, 3.0, 0.5, 2.5, 1.5]
    same, near, apart = (
        agreement(pl.DataFrame({"x": [v, 0.3, 2.0, 3.0, 4.0, 5.0], "y": y}), x="x", y="y")["value"][0]
        for v in (0.3, 0.1 + 0.2, 0.3 + 1e-6)
    )
    assert near == same != apart


def test_labels_are_exact() -> None:
    """Floats of seven digits are two groups, NaN is none."""
    table = grid(0.1, "labels").with_columns(level=pl.when(pl.col("y") > 0).then(1234567.0).otherwise(1234568.0))
    found = agreement(table, x="x", y="y", axes={"level": "level"}, draws=50)
    assert set(found.drop_nulls("group")["group"]) == {"all", "1234567", "1234568"}
    nan = table.with_columns(level=pl.when(pl.col("y") > 0).then(float("nan")).otherwise("level"))
    with pytest.raises(UserError, match="has no value in column 'level'"):
        agreement(nan, x="x", y="y", axes={"level": "level"})


def test_families(planted: pl.DataFrame) -> None:
    groups = planted.filter(mode="reported", statistic="tau")
    assert groups["family"].unique().to_list() == ["14 groups (reported)"]
    assert (groups["p_holm"] >= groups["p_bh"] - 1e-12).all() and (groups["p_bh"] >= groups["p"]).all()
    assert planted.filter(mode="matched", statistic="psi")["family"].unique().to_list() == ["3 axes (matched)"]
    assert planted.filter(mode="overall")["p_holm"].null_count() == 4


def test_ninety_saes_take_under_ten_seconds() -> None:
    table = grid(0.3, "time").with_columns(pl.col("x").round(1), pl.col("y").round(1))  # ties: the slow road
    start = time.perf_counter()
    agreement(table, x="x", y="y", axes=AXES)
    assert time.perf_counter() - start < 10


def test_row_order_does_not_matter_and_the_seed_does() -> None:
    table = grid(0.3, "order").with_columns(pl.col("x").round(1))
    one = agreement(table, x="x", y="y", axes=AXES, draws=500)
    assert one.equals(agreement(table.sample(fraction=1, shuffle=True, seed=5), x="x", y="y", axes=AXES, draws=500))
    other = agreement(table, x="x", y="y", axes=AXES, draws=500, seed=1)
    assert one["value"].equals(other["value"]) and not one["low"].equals(other["low"])


def test_a_study_of_nothing_rejects_at_its_rate() -> None:
    """Null grids: overall and psi p are below .1 in about a tenth; Holm over 14 groups finds any in about a tenth."""
    overall, psis, any_group = [], [], []
    for i in range(200):
        overall.append(agreement(grid(0.0, "null", i), x="x", y="y", draws=100)["p"][0] < 0.1)
    for i in range(20):
        found = agreement(grid(0.0, "null", i), x="x", y="y", axes=AXES, draws=100).filter(mode="reported")
        psis += (found.filter(statistic="psi")["p"] < 0.1).to_list()
        any_group.append((found.filter(statistic="tau")["p_holm"] < 0.1).any())
    assert 0.03 < np.mean(overall) < 0.19
    assert np.mean(psis) < 0.3
    assert np.mean(any_group) < 0.35


@pytest.mark.parametrize(("mode", "axis"), [("reported", "lm"), ("matched", "level"), ("matched", "lm")])
def test_psi_p_is_uniform_under_the_null(mode: Mode, axis: str) -> None:
    ps = []
    for i in range(60):
        table = grid(0.0, "psi", i)
        xs, ys = numbers(table, "x"), numbers(table, "y")
        groups = [g for g in groups_of(table, AXES, mode) if g.axis == axis]
        found = permuted([sample_of(xs[g.rows], ys[g.rows]) for g in groups], Draws(i, 99))
        assert found is not None
        ps.append(found[0])
    assert kstest(ps, "uniform").pvalue > 0.005


CASES: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str, int]] = {
    "constant": (lambda t: t.with_columns(y=pl.lit(1.0)), "constant", 0),
    "two rows": (lambda t: t.head(2), "too_few", 0),
    "none": (lambda t: t.head(0), "too_few", 0),
    "all missing": (lambda t: t.with_columns(y=pl.lit(None, dtype=pl.Float64)), "missing", 90),
    "nearly all missing": (
        lambda t: t.with_row_index("i").with_columns(y=pl.when(pl.col("i") < 2).then(pl.col("y"))), "too_few", 88,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_failure_is_a_state_and_never_a_number(case: str) -> None:
    change, state, dropped = CASES[case]
    found = agreement(change(grid(0.3, "state")), x="x", y="y", axes=AXES, draws=200)
    overall = found.filter(mode="overall")
    assert overall["state"].unique().to_list() == [state]
    assert overall["dropped"].unique().to_list() == [dropped]
    numbers = found.filter(pl.col("state") != "ok").select("value", "low", "high", "p", "p_holm", "null_low", "se")
    assert numbers.null_count().row(0) == (numbers.height,) * 7


def test_missing_rows_are_left_out_and_counted() -> None:
    table = grid(0.5, "missing").with_row_index("i")
    holes = table.with_columns(
        x=pl.when(pl.col("i") % 10 == 0).then(float("nan")).otherwise("x"),
        y=pl.when(pl.col("i") % 10 == 1).then(float("inf")).otherwise("y"),
    )
    found = agreement(holes, x="x", y="y", axes=AXES, draws=200)
    without = agreement(table.filter(pl.col("i") % 10 > 1), x="x", y="y", axes=AXES, draws=200)
    there = found.filter(state="ok")  # whole groups of the matched mode are missing: a state, and no row without them
    assert there["value"].equals(without.filter(state="ok")["value"])
    assert there["n"].equals(without.filter(state="ok")["n"])
    assert "missing" in found["state"]
    assert found["dropped"][0] == 18 and without["dropped"][0] == 0
    assert found.filter(mode="reported", axis="lm", statistic="tau")["dropped"].sum() == 18


def test_perfect_agreement_has_a_value_and_no_interval() -> None:
    table = grid(0.0, "perfect").with_columns(y=pl.col("x") * 2)
    row = agreement(table, x="x", y="y").row(0, named=True)
    assert row["value"] == 1 and row["low"] is None and "vary" in row["note"]


def test_one_lm_has_no_cluster_interval_and_nothing_to_vary() -> None:
    found = agreement(grid(0.5, "one").filter(lm=LMS[0]), x="x", y="y", axes=AXES, draws=200)
    cluster = found.row(1, named=True)
    assert cluster["low"] is None and "1 value of lm: no cluster interval" in cluster["note"]
    assert found.filter(mode="overall").height == 2, "inside one LM is all there is"
    varying = found.filter(mode="matched", axis="lm", statistic="psi").row(0, named=True)
    assert varying["state"] == "too_few" and varying["value"] is None
    grand = found.filter(mode="matched", statistic="Psi").row(0, named=True)
    assert grand["n"] == 2 and "1 of 3 axes" in grand["note"]


def test_an_estimate_has_a_value_exactly_when_it_is_ok() -> None:
    with pytest.raises(ValueError, match="exactly"):
        Estimate(statistic="tau", value=0.3, state="constant")


def test_bad_input_gets_a_sentence(tmp_path: Path) -> None:
    table = grid(0.1, "bad")
    with pytest.raises(UserError, match="Did you mean level"):
        agreement(table, x="x", y="y", axes={"level": "levle"})
    with pytest.raises(UserError, match="not numbers"):
        agreement(table, x="lm", y="y")
    with pytest.raises(UserError, match=r"Row \d+ has no value in column 'lm'"):
        holes = table.with_columns(lm=pl.when(pl.col("y") == pl.col("y").max()).then(None).otherwise("lm"))
        agreement(holes, x="x", y="y", axes={"lm": "lm"})
    with pytest.raises(UserError, match="3100 rows"):
        agreement(pl.concat([table] * 40).head(3100), x="x", y="y")
    with pytest.raises(UserError, match="no file"):
        read_and_agree(tmp_path / "absent.csv", x="x", y="y")
    (tmp_path / "table.xlsx").write_text("")
    with pytest.raises(UserError, match="not a table"):
        read_and_agree(tmp_path / "table.xlsx", x="x", y="y")
    (tmp_path / "broken.parquet").write_text("no parquet")
    with pytest.raises(ArtefactError, match="not a readable"):
        read_and_agree(tmp_path / "broken.parquet", x="x", y="y")


def test_anybodys_file(tmp_path: Path) -> None:
    """CSV, TSV, JSON lines and Parquet open as the frame that was written; known axis columns are found by name."""
    table = grid(0.4, "file").with_columns(pl.col("x").round(3), pl.col("y").round(3))
    table.write_csv(tmp_path / "t.csv")
    table.write_csv(tmp_path / "t.tsv", separator="\t")
    table.write_ndjson(tmp_path / "t.jsonl")
    table.write_parquet(tmp_path / "t.parquet")
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        assert open_table(tmp_path / f"t.{ending}").equals(table), ending
    found = read_and_agree(tmp_path / "t.csv", x="x", y="y")
    assert found.equals(agreement(table, x="x", y="y", axes=AXES))
    plain = read_and_agree(tmp_path / "t.csv", x="x", y="y", axes={})
    assert plain.height == 1
