"""What selection buys: score, difference, relative gain and steering gain are four things, with intervals over SAEs."""

import numpy as np
import polars as pl
import pytest

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.stats.gains import selection_gain, steering_gains


def utility(saes: int, gain: float, *names: str | int) -> pl.DataFrame:
    """Features of `saes` SAEs: ten random, five by each arm; `delta` scores `gain` more, `output` as random."""
    generator = numpy_generator("test lift", *names)
    rows = []
    for i in range(saes):
        base = generator.uniform(0.2, 0.6)
        for reason, size, more in (("random", 10, 0.0), ("delta", 5, gain), ("output", 5, 0.0)):
            scores = base + more + 0.1 * generator.standard_normal(size)
            rows += [(f"sae{i:02}", f"lm{i % 3}", reason, float(s)) for s in scores]
    return pl.DataFrame(rows, schema=["sae", "lm", "arm", "utility"], orient="row")


def test_published_gains_are_ratios_of_means() -> None:
    """arXiv 2510.03659 Table 2: .133 -> .328 is +146.6 %, .171 -> .399 +133.3 %, .142 -> .289 +103.5 %."""
    for base, selected, published in ((0.133, 0.328, 146.6), (0.171, 0.399, 133.3), (0.142, 0.289, 103.5)):
        rows = [
            (f"s{i}", r, v + d)
            for i, d in enumerate((-0.05, 0.0, 0.05))
            for r, v in (("random", base), ("dc", selected))
        ]
        table = pl.DataFrame(rows, schema=["sae", "arm", "utility"], orient="row")
        found = selection_gain(table, draws=100).filter(statistic="relative gain")
        assert 100 * found["value"][0] == pytest.approx(published, abs=0.1)
        gain = selection_gain(table, draws=100).filter(statistic="steering gain")["value"][0]
        assert 100 * gain > published + 5, "the mean of the SAEs' gains is another number"


def test_the_four_quantities_are_what_they_say() -> None:
    table = utility(15, 0.2, "say")
    found = selection_gain(table, draws=2000)
    means = table.group_by("sae", "arm").agg(pl.col("utility").mean()).pivot("arm", index="sae", values="utility")
    value = {s: v for s, v in found.filter(arm="delta", against="random").select("statistic", "value").iter_rows()}
    assert found.filter(arm="delta", statistic="score")["value"][0] == pytest.approx(means["delta"].mean())
    assert value["difference"] == pytest.approx((means["delta"] - means["random"]).mean())
    assert value["relative gain"] == pytest.approx(means["delta"].mean() / means["random"].mean() - 1)
    assert value["steering gain"] == pytest.approx((means["delta"] / means["random"] - 1).mean())
    assert ((found["low"] < found["value"]) & (found["value"] < found["high"])).all()
    both = found.filter(arm="delta", against="random", statistic="difference")
    assert both["scope"].to_list() == ["like these", "these"] and both["value"].n_unique() == 1


def test_a_gain_is_found_and_nothing_is_not() -> None:
    both = selection_gain(utility(12, 0.2, "found"), draws=1000).filter(statistic="difference")
    assert set(both["family"]) == {
        f"{n} {of} (all, {scope})" for scope in ("these", "like these")
        for n, of in ((2, "differences from random"), (1, "differences of arms"))
    }  # fmt: skip
    these, found = (both.filter(scope=s) for s in ("these", "like these"))
    assert these["p_method"].unique().to_list() == ["permutation within SAEs"]
    assert these.filter(arm="delta")["p_holm"].max() < 0.01 < these.filter(arm="output")["p"][0]
    p = {(a, b): v for a, b, v in found.select("arm", "against", "p_holm").iter_rows()}
    assert p["delta", "random"] < 0.01 and p["delta", "output"] < 0.01 and p["output", "random"] > 0.05
    assert found["p_method"].unique().to_list() == ["exact sign flips"]
    null = [
        selection_gain(utility(14, 0.0, "null", i), draws=300).filter(statistic="difference", arm="delta")["p"][0]
        for i in range(60)
    ]
    assert np.mean(np.array(null) < 0.1) < 0.25


def test_per_lm_as_in_table_two() -> None:
    found = selection_gain(utility(12, 0.2, "lm"), by="lm", draws=200)
    assert found["group"].unique(maintain_order=True).to_list() == ["all", "lm0", "lm1", "lm2"]
    assert found.filter(group="lm1", statistic="score")["n"].unique().to_list() == [4]


def test_a_base_of_zero_has_no_gain_and_missing_is_counted() -> None:
    table = utility(6, 0.2, "zero").with_columns(
        utility=pl.when((pl.col("sae") == "sae00") & (pl.col("arm") == "random")).then(0.0)
        .when((pl.col("sae") == "sae01") & (pl.col("arm") == "delta")).then(None)
        .otherwise("utility")
    )  # fmt: skip
    gains = steering_gains(table).filter(arm="delta")
    state = {s: (v, g) for s, v, g in gains.select("sae", "state", "gain").iter_rows()}
    assert state["sae00"] == ("undefined", None) and state["sae01"] == ("missing", None)
    assert state["sae02"][0] == "ok" and gains.filter(sae="sae01")["dropped"][0] == 5
    found = selection_gain(table, draws=200).filter(arm="delta", against="random")
    n = {s: (n, d) for s, n, d in found.select("statistic", "n", "dropped").iter_rows()}
    assert set(n.values()) == {(5, 1)}, "no SAE is dropped for its outcome"
    gain = found.filter(statistic="steering gain").row(0, named=True)
    assert (gain["state"], gain["value"]) == ("undefined", None) and "1 of 5 SAEs is 0" in gain["note"]
    assert found.filter(statistic="relative gain")["state"][0] == "ok"


def test_few_saes_have_a_state_and_bad_input_a_sentence() -> None:
    found = selection_gain(utility(2, 0.2, "few"), draws=100)
    assert found["state"].unique().to_list() == ["too_few"] and found["value"].null_count() == found.height
    with pytest.raises(UserError, match=r"No row has arm = 'rendom'. Did you mean random"):
        selection_gain(utility(4, 0.2, "bad"), baseline="rendom")


def clustered(i: int, effect: float, *, lms: int = 3) -> pl.DataFrame:
    """Six SAEs of each LM; selection gains nothing on average, in one LM more and in another less."""
    generator = numpy_generator("test lift lms", i)
    rows = []
    for lm, own in enumerate(effect * generator.standard_normal(lms)):
        for sae in range(6):
            mine = own + 0.1 * generator.standard_normal()
            for reason, size, more in (("random", 8, 0.0), ("delta", 4, mine)):
                scores = 2 + more + 0.2 * generator.standard_normal(size)
                rows += [(f"s{lm}.{sae}", f"lm{lm}", reason, float(v)) for v in scores]
    return pl.DataFrame(rows, schema=["sae", "lm", "arm", "utility"], orient="row")


@pytest.mark.parametrize("effect", [0.0, 0.3])
def test_a_gain_that_is_an_lms_own_is_seldom_found(effect: float) -> None:
    """5 % over LMs with and without effects of the LM. Control: with SAEs as units far more where LMs differ."""
    wrong: dict[str | None, int] = {"lm": 0, None: 0}
    for i in range(100):
        for cluster in wrong:
            found = selection_gain(clustered(i, effect), cluster=cluster, draws=20)
            row = found.filter(statistic="difference", scope="like these").row(0, named=True)
            wrong[cluster] += row["p"] < 0.05
            assert row["interval_method"] == f"t over {cluster or 'SAEs'}"
    assert wrong["lm"] <= 11
    assert (wrong[None] > 25) == (effect > 0)


def test_few_lms_withhold_the_interval_and_say_so() -> None:
    two = selection_gain(clustered(0, 0.2, lms=2), cluster="lm", draws=20).filter(statistic="difference")
    like, these = two.iter_rows(named=True)
    assert (like["low"], like["p"]) == (None, None) and like["note"] == "2 values of lm: no interval below 3"
    assert these["low"] < these["value"] < these["high"], "what these SAEs gain can be said"
    one = selection_gain(clustered(0, 0.2, lms=1), cluster="lm", draws=20).filter(statistic="difference")
    assert one["interval_method"][0] == "t over SAEs", "of one LM the SAEs are all that can be drawn"
    with pytest.raises(UserError, match="has two values of lm"):
        selection_gain(clustered(0, 0).with_columns(sae=pl.lit("a")), cluster="lm")


def test_the_permutation_within_saes_does_not_call_a_random_arm_real() -> None:
    """Eight SAEs, features chosen at random: 5 %. Control: a bootstrap over the eight SAEs finds more."""
    ps, boot = [], 0
    for i in range(120):
        generator = numpy_generator("test lift random", i)
        scores = generator.standard_normal((8, 9)) ** 3
        rows = [(f"s{s}", "delta" if f < 3 else "random", scores[s, f]) for s in range(8) for f in range(9)]
        table = pl.DataFrame(rows, schema=["sae", "arm", "utility"], orient="row")
        found = selection_gain(table, draws=99).filter(statistic="difference", scope="these")
        ps.append(found["p"][0])
        gains = scores[:, :3].mean(axis=1) - scores[:, 3:].mean(axis=1)
        low, high = np.quantile(generator.choice(gains, (400, 8)).mean(axis=1), [0.025, 0.975])
        boot += not low < 0 < high
    assert 0.01 < np.mean(np.array(ps) < 0.05) < 0.1
    assert boot / 120 > np.mean(np.array(ps) < 0.05) + 0.03


def test_too_few_sign_flips_give_no_p() -> None:
    """5 SAEs: the rarest signs have p 1/16; 6: 1/32."""
    for saes, known in ((5, False), (6, True)):
        rows = selection_gain(utility(saes, 0.2, "few flips"), draws=50).filter(against="random", arm="delta")
        row = rows.filter(statistic="difference", scope="like these").row(0, named=True)
        assert (row["p"] is not None) == known
        assert (row["note"] == f"{saes} SAEs: too few sign flips for a p") != known
