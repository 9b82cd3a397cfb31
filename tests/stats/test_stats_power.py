"""Power says what simulation says; reliability and attenuation undo the noise that was put in."""

import numpy as np
import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.stats.kendall import permutation_null
from saelab.stats.power import smallest_taus
from saelab.stats.reliability import corrected_tau, reliability, with_noise, without_noise


def gen(*names: str | int) -> np.random.Generator:
    return numpy_generator("test power", *names)


def test_the_smallest_tau_is_seen_four_times_of_five() -> None:
    n, tau = 18, smallest_taus([18])["smallest_tau"][0]
    rho = np.sin(np.pi * tau / 2)
    seen = []
    for i in range(400):
        x, noise = gen(i).standard_normal((2, n))
        null = permutation_null(x, rho * x + np.sqrt(1 - rho**2) * noise, draws=10, generator=gen())
        assert null is not None
        seen.append(null.p <= 0.05)
    assert np.mean(seen) == pytest.approx(0.8, abs=0.07)


def test_designs_in_order() -> None:
    found = smallest_taus([3, 5, 15, 18, 30, 90, 201])
    rows = {r["n"]: r for r in found.iter_rows(named=True)}
    assert rows[3]["state"] == "impossible" and rows[3]["smallest_tau"] is None
    assert rows[3]["smallest_p"] == pytest.approx(1 / 3)
    seen = [rows[n]["smallest_tau"] for n in (5, 15, 18, 30, 90, 201)]
    assert seen == sorted(seen, reverse=True)
    assert rows[18]["critical_tau"] == pytest.approx(0.34, abs=0.015)
    assert rows[90]["smallest_tau"] == pytest.approx(2.8 * np.sqrt(2 * 185 / (9 * 90 * 89)), abs=0.015)
    stricter = smallest_taus([18, 5], alpha=0.05 / 14)
    assert stricter["smallest_tau"][0] > rows[18]["smallest_tau"] and stricter["state"][1] == "impossible"
    with pytest.raises(UserError, match="three rows"):
        smallest_taus([2])
    with pytest.raises(UserError, match="alpha < power"):
        smallest_taus([20], alpha=0.9)


def judged(items: int, repeats: int, noise: float, *names: str | int) -> pl.DataFrame:
    truth, blur = gen("truth", *names).standard_normal(items), gen("blur", *names)
    values = truth[:, None] + noise * blur.standard_normal((items, repeats))
    return pl.DataFrame({"item": np.repeat(np.arange(items), repeats), "value": values.ravel()})


def test_reliability_is_the_share_of_variance_that_is_not_noise() -> None:
    found = reliability(judged(400, 3, 1.0), item="item", value="value")
    assert found["value"].to_list() == pytest.approx([0.5, 0.75], abs=0.06)
    assert ((found["low"] < found["value"]) & (found["value"] < found["high"])).all()
    covered = []
    for i in range(150):
        row = reliability(judged(30, 3, 1.0, i), item="item", value="value").row(0, named=True)
        covered.append(row["low"] <= 0.5 <= row["high"])
    assert 0.89 <= np.mean(covered) <= 1.0


def test_reliability_has_states() -> None:
    one = judged(20, 1, 1.0)
    assert reliability(one, item="item", value="value").select("state", "dropped").row(0) == ("too_few", 20)
    exact = judged(20, 2, 0.0)
    assert reliability(exact, item="item", value="value")["value"].to_list() == [1.0, 1.0]
    flat = exact.with_columns(value=pl.lit(1.0))
    assert reliability(flat, item="item", value="value")["state"].to_list() == ["constant"] * 2
    holes = judged(20, 2, 1.0).with_columns(value=pl.when(pl.col("item") < 3).then(None).otherwise("value"))
    row = reliability(holes, item="item", value="value").row(0, named=True)
    assert row["n"] == 17 and row["dropped"] == 6


def test_noise_put_in_is_taken_out() -> None:
    """Gaussian truth with tau .5, both sides measured with reliability .6."""
    rho = np.sin(np.pi * 0.25)
    x, e = gen("t").standard_normal((2, 2000))
    y = rho * x + np.sqrt(1 - rho**2) * e
    blur = np.sqrt(1 / 0.6 - 1) * gen("n").standard_normal((2, 2000))
    data = pl.DataFrame({"x": x + blur[0], "y": y + blur[1]})
    found = corrected_tau(data, x="x", y="y", reliability_x=0.6, reliability_y=0.6, draws=200)
    observed, corrected = found["value"].to_list()
    assert observed == pytest.approx(with_noise(0.5, 0.6, 0.6), abs=0.03)
    assert corrected == pytest.approx(0.5, abs=0.05) and corrected > observed + 0.15
    assert found["low"][1] < corrected < found["high"][1]


def test_corrections_invert_and_refuse() -> None:
    assert without_noise(with_noise(0.3, 0.7, 0.9), 0.7, 0.9) == pytest.approx(0.3)
    assert without_noise(0.4) == pytest.approx(0.4)
    assert without_noise(0.8, 0.5, 0.5) is None
    with pytest.raises(UserError, match="cannot be corrected"):
        without_noise(0.3, 0.0, 1.0)
    x = gen("refuse").standard_normal(40)
    data = pl.DataFrame({"x": x, "y": x + 0.1 * gen("e").standard_normal(40)})
    row = corrected_tau(data, x="x", y="y", reliability_x=0.4, draws=200).row(1, named=True)
    assert row["state"] == "undefined" and row["value"] is None and row["low"] is None
