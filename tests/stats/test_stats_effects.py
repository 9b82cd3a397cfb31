"""Differences, partial tau and rank regression: right on constructed data, and quiet where there is nothing."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.stats.effects import group_differences, partial_tau, tau_difference
from saelab.stats.kendall import tau_b
from saelab.stats.regression import rank_regression


def normal(n: int, k: int, *names: str | int) -> np.ndarray:
    return numpy_generator("test effects", *names).standard_normal((k, n))


def table(n: int, *names: str | int) -> pl.DataFrame:
    """x drives y and not z; l0 drives u and v; lm is a label of six values."""
    e = normal(n, 7, *names)
    return pl.DataFrame(
        {"x": e[0], "y": 0.8 * e[0] + 0.6 * e[1], "z": e[2], "l0": e[3], "u": 2 * e[3] + e[4], "v": 2 * e[3] + e[5]}
    ).with_columns(lm=pl.Series([f"lm{i % 6}" for i in range(n)]))


def test_the_difference_is_the_difference_and_is_paired() -> None:
    data = table(60, "difference")
    found = tau_difference(data, first=("x", "y"), second=("x", "z"), cluster="lm", draws=2000)
    expected = [tau_b(data["x"].to_numpy(), data[c].to_numpy()) for c in "yz"]
    assert found["value"].to_list()[:2] == pytest.approx([expected[0] - expected[1]] * 2)
    methods = ["BCa bootstrap", None, "BCa bootstrap within lm", "t over lm"]
    assert found["interval_method"].to_list() == methods and "6 values of lm" in found["note"][1]
    known = found.drop_nulls("low")
    assert (known["low"] > 0.1).all() and (known["p"] < 0.02).all()
    of_lms = [
        (tau_b(g["x"].to_numpy(), g["y"].to_numpy()) or 0) - (tau_b(g["x"].to_numpy(), g["z"].to_numpy()) or 0)
        for _, g in data.group_by("lm")
    ]
    assert found["value"].to_list()[2:] == pytest.approx([np.mean(of_lms)] * 2)
    near = data.with_columns(w=pl.col("y") + 0.01 * pl.col("z"))
    close = tau_difference(near, first=("x", "y"), second=("x", "w"), draws=2000)
    width = (close["high"] - close["low"])[0]
    assert width < 0.05, "two taus that rise and fall together differ by little, however wide each interval is"


def test_a_difference_of_nothing_is_seldom_found() -> None:
    ps = [
        tau_difference(table(40, "null", i), first=("x", "z"), second=("x", "l0"), draws=400)["p"][0]
        for i in range(120)
    ]
    assert 0.0 < np.mean(np.array(ps) < 0.05) < 0.12 or np.mean(np.array(ps) < 0.1) < 0.2


def test_of_several_columns_the_mean_tau_is_taken_off() -> None:
    data = table(50, "several")
    found = tau_difference(data, first=("x", "y"), second=("x", "z", "u", "l0"), cluster="lm", draws=300)
    taus = {c: tau_b(data["x"].to_numpy(), data[c].to_numpy()) or 0.0 for c in ("y", "z", "u", "l0")}
    assert found["value"][0] == pytest.approx(taus["y"] - np.mean([taus[c] for c in ("z", "u", "l0")]))
    of_lms = [
        (tau_b(g["x"].to_numpy(), g["y"].to_numpy()) or 0)
        - np.mean([tau_b(g["x"].to_numpy(), g[c].to_numpy()) or 0 for c in ("z", "u", "l0")])
        for _, g in data.group_by("lm")
    ]
    assert found["value"][2] == pytest.approx(np.mean(of_lms))


def test_fewer_features_are_no_change_of_tau() -> None:
    """A selection that knows nothing leaves a noisier mean and so a lower tau; beside as many random ones, no change.
    Control: beside the mean of all 28 it is found often.
    """
    found: dict[str, list[float]] = {"as many": [], "all": []}
    sets = [f"set {i}" for i in range(7)]
    for i in range(60):
        e = normal(60, 33, "fewer", i)
        scores = e[0] + 3 * e[1:33].reshape(8, 4, 60).mean(axis=1)  # of four features each, of every SAE
        data = pl.DataFrame(
            {"x": e[0], "after": scores[7], "all": scores[:7].mean(axis=0)} | dict(zip(sets, scores, strict=False))
        )
        for name, base in (("as many", sets), ("all", ["all"])):
            row = tau_difference(data, first=("x", "after"), second=("x", *base), draws=200).row(0, named=True)
            found[name].append(row["p"])
    shares = {name: float(np.mean(np.array(ps) < 0.05)) for name, ps in found.items()}
    assert shares["as many"] <= 0.15 and shares["all"] >= 0.4, shares


def test_partial_tau_of_one_covariate_is_kendalls_formula() -> None:
    data = table(50, "formula")
    x, y, z = (data[c].to_numpy() for c in ("u", "v", "l0"))
    xy, xz, yz = tau_b(x, y), tau_b(x, z), tau_b(y, z)
    assert xy is not None and xz is not None and yz is not None
    found = partial_tau(data, x="u", y="v", given=["l0"], draws=500)
    assert found["value"][0] == pytest.approx((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)), abs=1e-6)


def test_a_common_cause_goes_and_a_real_one_stays() -> None:
    data = table(200, "cause")
    plain = partial_tau(data, x="u", y="v", draws=500)["value"][0]
    held = partial_tau(data, x="u", y="v", given=["l0"], draws=500)["value"][0]
    kept = partial_tau(data, x="x", y="y", given=["l0", "z"], draws=500)
    assert plain > 0.45 and held < plain / 2
    assert kept["low"][0] > 0.3


def test_within_compares_inside_the_label_only() -> None:
    """The label shifts x and y together and against what happens inside (Simpson): `within` turns the sign."""
    e = normal(120, 2, "simpson")
    shift = np.repeat([0.0, 5, 10, 15], 30)
    data = pl.DataFrame({"x": shift + e[0], "y": shift - e[0] + 0.3 * e[1], "lm": [f"m{s:g}" for s in shift]})
    plain, held = (partial_tau(data, x="x", y="y", within=w, draws=500) for w in ([], ["lm"]))
    assert plain["low"][0] > 0.3 and held["high"][0] < -0.5
    assert held["pairs"][0] == 4 * 30 * 29 // 2
    inside = np.mean([tau_b(g["x"].to_numpy(), g["y"].to_numpy()) for _, g in data.group_by("lm")])
    assert held["value"][0] == pytest.approx(inside, abs=1e-6)


def test_effects_have_states() -> None:
    data = table(30, "states")
    same = partial_tau(data, x="x", y="y", given=["x"], draws=100)
    assert same["state"][0] == "undefined" and same["value"][0] is None
    flat = data.with_columns(y=pl.lit(1.0))
    assert partial_tau(flat, x="x", y="y", draws=100)["state"][0] == "constant"
    assert tau_difference(flat, first=("x", "y"), second=("x", "z"))["state"][0] == "constant"
    assert tau_difference(data.head(2), first=("x", "y"), second=("x", "z"))["state"][0] == "too_few"
    small = tau_difference(data.head(8), first=("x", "y"), second=("x", "z"), draws=100)
    assert small["state"][0] == "ok" and small["low"][0] is None and "below 10" in small["note"][0]
    holes = data.with_columns(z=pl.when(pl.col("z") > 0).then("z"))
    found = tau_difference(holes, first=("x", "y"), second=("x", "z"), draws=100)
    assert found["n"][0] + found["dropped"][0] == 30 and found["dropped"][0] > 5
    with pytest.raises(UserError, match="no column 'zz'"):
        tau_difference(data, first=("x", "y"), second=("x", "zz"))


def test_groups_that_differ_and_groups_that_do_not() -> None:
    e = normal(90, 2, "groups")
    by = np.repeat(["a", "b", "c"], 30)
    data = pl.DataFrame({"x": e[0], "y": np.where(by == "c", -e[0], e[0]) + 0.7 * e[1], "by": by})
    found = group_differences(data, x="x", y="y", by="by", draws=2000)
    p = {(a, b): v for a, b, v in found.select("first", "second", "p_holm").iter_rows()}
    assert p["a", "c"] < 0.01 and p["b", "c"] < 0.01 and p["a", "b"] > 0.05
    row = found.filter(first="a", second="c").row(0, named=True)
    parts = [tau_b(g["x"].to_numpy(), g["y"].to_numpy()) for g in (data.filter(by="a"), data.filter(by="c"))]
    assert row["value"] == pytest.approx(parts[0] - parts[1])
    assert row["low"] < row["value"] < row["high"]
    flat = data.with_columns(y=pl.when(pl.col("by") == "a").then(1.0).otherwise("y"))
    assert group_differences(flat, x="x", y="y", by="by", draws=100)["state"].to_list() == [
        "constant",
        "constant",
        "ok",
    ]


def test_rank_regression_is_least_squares_on_ranks() -> None:
    data = table(80, "ols").with_columns(out=pl.col("x") + 2 * pl.col("l0") + 0.3 * pl.col("z"))
    found = rank_regression(data, response="out", terms=["x", "l0", "lm"], draws=500)
    ranks = {c: (r := data[c].rank().to_numpy()) - r.mean() for c in ("out", "x", "l0")}
    ranks = {c: r / r.std() for c, r in ranks.items()}
    dummies = [(data["lm"] == f"lm{i}").to_numpy().astype(float) for i in range(1, 6)]
    design = np.stack([np.ones(80), ranks["x"], ranks["l0"], *dummies], axis=1)
    expected = np.linalg.lstsq(design, ranks["out"], rcond=None)[0][1:]
    assert found["term"].to_list() == ["x", "l0", *(f"lm=lm{i}" for i in range(1, 6))]
    assert found["value"].to_list() == pytest.approx(list(expected))
    assert found.filter(term="l0")["low"][0] > 0.5 and found.filter(term="lm=lm1")["p"][0] > 0.01


def test_rank_regression_takes_out_a_common_cause() -> None:
    data = table(150, "regression cause")
    alone = rank_regression(data, response="v", terms=["u"], draws=500)
    held = rank_regression(data, response="v", terms=["u", "l0"], draws=500)
    assert alone["low"][0] > 0.6
    assert held["low"][0] < 0.15 < held.filter(term="l0")["low"][0]


def lms(effect: float, *names: str | int, lms: int = 4, each: int = 14, shift: float = 3.0) -> pl.DataFrame:
    """x drives y with a slope of each LM's own around 0; l0 drives both a little; levels of LMs differ."""
    rng = numpy_generator("lms", *names)
    slope, level = (np.repeat(rng.standard_normal(lms), each) for _ in range(2))
    x, e, l0 = rng.standard_normal((3, lms * each))
    x, y = x + 0.5 * l0 + shift * level, effect * slope * x + e + 0.5 * l0 - shift * level
    return pl.DataFrame({"x": x, "y": y, "l0": l0, "lm": np.repeat([f"m{i}" for i in range(lms)], each)})


def test_inside_clusters_is_the_mean_of_the_clusters_own() -> None:
    """Of a regression and of a partial tau, in both scopes; a cluster that is the only one changes nothing."""
    data = lms(0.0, "own")
    asked: dict[str, Any] = {"cluster": "lm", "draws": 300}
    found = rank_regression(data, response="y", terms=["x", "l0"], **asked)
    single = [rank_regression(g, response="y", terms=["x", "l0"], draws=300) for g in data.partition_by("lm")]
    means = [np.mean([s["value"][i] for s in single]) for i in (0, 0, 1, 1)]
    assert found["value"].to_list() == pytest.approx(means) and found["term"].to_list() == ["x", "x", "l0", "l0"]
    assert found["interval_method"].to_list()[:2] == ["BCa bootstrap within lm", "t over lm"]
    assert rank_regression(data.filter(lm="m0"), response="y", terms=["x", "l0"], **asked).equals(single[0])
    held = partial_tau(data, x="x", y="y", given=["l0"], **asked).filter(statistic="partial tau within")
    own = [partial_tau(g, x="x", y="y", given=["l0"], draws=300)["value"][0] for g in data.partition_by("lm")]
    assert held["value"].to_list() == pytest.approx([np.mean(own)] * 2)
    with pytest.raises(UserError, match="is the cluster and a term"):
        rank_regression(data, response="y", terms=["x", "lm"], **asked)


def test_a_slope_that_is_an_lms_own_is_seldom_found() -> None:
    """Four LMs whose slopes differ around 0. Control: with SAEs as the units it is found in most."""
    over_lms, over_saes = [], []
    for i in range(30):
        data = lms(2.0, "null", i, shift=0.0)
        found = rank_regression(data, response="y", terms=["x"], cluster="lm", draws=2)
        over_lms.append(found["p"][1] < 0.05)
        over_saes.append(rank_regression(data, response="y", terms=["x", "lm"], draws=99)["p"][0] < 0.05)
    assert np.mean(over_lms) < 0.15 and np.mean(over_saes) > 0.25


def test_clusters_that_cannot_be_fitted_are_counted_and_two_give_no_interval_of_others() -> None:
    data = pl.concat([lms(0.0, "few", lms=3), lms(0.0, "fewer", lms=1, each=5).with_columns(lm=pl.lit("small"))])
    row = rank_regression(data, response="y", terms=["x", "l0"], cluster="lm", draws=200).row(1, named=True)
    assert row["low"] is not None and "1 of 4 values of lm have no value" in row["note"]
    two = rank_regression(
        data.filter(pl.col("lm").is_in(["m0", "m1"])), response="y", terms=["x"], cluster="lm", draws=200
    )
    assert two["low"][0] is not None and two["low"][1] is None and "no interval below 3" in two["note"][1]


def test_rank_regression_has_states() -> None:
    data = table(30, "states").with_columns(again=pl.col("x") * 2)
    assert rank_regression(data, response="y", terms=["x", "again"])["state"].to_list() == ["undefined"] * 2
    assert rank_regression(data.head(4), response="y", terms=["x"])["state"].to_list() == ["too_few"]
    with pytest.raises(UserError, match="at least one term"):
        rank_regression(data, response="y", terms=[])


def test_row_order_does_not_matter() -> None:
    data = table(40, "order")
    other = data.sample(fraction=1, shuffle=True, seed=1)
    for ask in (
        lambda t: tau_difference(t, first=("x", "y"), second=("x", "z"), cluster="lm", draws=200),
        lambda t: partial_tau(t, x="x", y="y", given=["l0"], within=["lm"], draws=200),
        lambda t: group_differences(t, x="x", y="y", by="lm", draws=200),
        lambda t: rank_regression(t, response="y", terms=["x", "lm"], draws=200),
        lambda t: rank_regression(t, response="y", terms=["x"], cluster="lm", draws=200),
    ):
        assert ask(data).equals(ask(other))
