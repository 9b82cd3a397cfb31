"""Gains, changes of tau, criteria and regressions where SAEs share language models or prompts: last in `coverage.py`.

Scores of features are max(0, level + noise), so that a share of them is 0 (the floor: 0, 30, 70 %). An LM has an effect
of its own on what a selection gains, on a tau, or on a criterion, with a standard deviation of 0, 0.5 and 1 times that
of one SAE's own. Every design is made with a true value of 0 and with another one; a line gives the least and the most
over floors: false positives are the share of intervals that exclude a true 0, coverage that of those that hold another.
"""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import polars as pl
from scipy.stats import norm, rankdata

from saelab.core.seeds import numpy_generator
from saelab.stats.association import Draws, Sample
from saelab.stats.crossed import crossed_difference
from saelab.stats.effects import tau_difference
from saelab.stats.estimate import Estimate
from saelab.stats.gains import RELATIVE, gains_of
from saelab.stats.regression import rank_regression
from saelab.stats.units import Units, over_units, units_of
from saelab.stats.within import permuted

Ends = tuple[float | None, float | None]
Found = dict[str, Ends]  # method -> interval less its truth
LMS, PROMPTS = (3, 10, 30), (4, 10, 30)
EFFECTS, FLOORS = (0.0, 0.5, 1.0), (0.0, 0.3, 0.7)
PER_LM = 6  # SAEs of an LM
BLIND, CHOSEN = 12, 6  # features of an SAE
OWN = 0.4  # standard deviation of an SAE's own gain, of features whose scores have 1
TAU_NOISE = 0.15  # about the standard deviation of one SAE's tau over 24 features, of a change over 30 SAEs
START = Estimate(statistic="tau", state="too_few")


@dataclass(frozen=True)
class Design:
    """LMs, the standard deviation of their own effect, the share of zeros, and the true value."""

    lms: int
    effect: float
    floor: float
    truth: float


def shifted(low: float | None, high: float | None, truth: float) -> Ends:
    return (None, None) if low is None or high is None else (low - truth, high - truth)


def scores(generator: np.random.Generator, at: Design, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Features of every SAE taken blindly [SAEs, 12], and chosen ones [SAEs, 6] that score `gain` more."""
    saes = at.lms * PER_LM
    level = 4.0 if at.floor == 0 else float(-norm.ppf(at.floor))  # without a floor far above it
    sae = level + 0.3 * generator.standard_normal((saes, 1))
    of_lm = np.repeat(at.effect * OWN * generator.standard_normal(at.lms), PER_LM)[:, None]
    mine = gain + of_lm + OWN * generator.standard_normal((saes, 1))
    return (
        np.maximum(0, sae + generator.standard_normal((saes, BLIND))),
        np.maximum(0, sae + mine + generator.standard_normal((saes, CHOSEN))),
    )


@lru_cache(maxsize=64)
def gain_truth(at: Design) -> tuple[float, dict[str, float]]:
    """The gain to plant, and what it comes to: from 4,000 LMs. At a floor an LM's own effect alone lifts the mean."""
    large = Design(4000, at.effect, at.floor, at.truth)

    def of(gain: float) -> dict[str, float]:
        base, chosen = (v.mean(axis=1) for v in scores(numpy_generator("coverage", "truth"), large, gain))
        there = base > 0
        ratios = chosen[there] / base[there] - 1
        return {
            "difference": float((chosen - base).mean()),
            RELATIVE: float(chosen.mean() / base.mean() - 1),
            "steering gain": float(ratios.mean()),
        }

    low, high = (-1.0, 1.0) if at.truth == 0 else (at.truth, at.truth)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if of(middle)["difference"] < 0 else (low, middle)
    return high, of(high)


def gain(generator: np.random.Generator, seed: int, at: Design) -> Found:
    """Difference, relative gain and steering gain over LMs; control: the difference with SAEs as units."""
    planted, truth = gain_truth(at)
    base, chosen = scores(generator, at, planted)
    lms = Units("lm", np.repeat(np.arange(at.lms), PER_LM))
    rows = {e.statistic: e for scope, e in gains_of([*chosen], [*base], lms, Draws(seed, 9)) if scope == "like these"}
    apart = chosen.mean(axis=1) - base.mean(axis=1)
    rows["control: difference over SAEs"] = over_units(START, lambda w: w @ apart / w.sum(axis=1), units_of(apart.size))
    return {name: shifted(e.low, e.high, truth.get(name, truth["difference"])) for name, e in rows.items()}


def change(generator: np.random.Generator, seed: int, at: Design) -> Found:
    """A change of tau between two outcomes of one set of SAEs, inside LMs of at least 10; three intervals."""
    size = max(10, 90 // at.lms)
    x = generator.standard_normal((at.lms, size))
    own = at.truth + at.effect * TAU_NOISE * generator.uniform(-1.73, 1.73, (at.lms, 1))
    rho = np.sin(np.pi / 2 * np.clip(np.stack([0.3 + own / 2, 0.3 - own / 2]), -0.99, 0.99))
    shared = 0.6 * generator.standard_normal((at.lms, size)) + 0.8 * generator.standard_normal((2, at.lms, size))
    y = cut(rho * x + np.sqrt(1 - rho**2) * shared, at.floor)
    lm = np.repeat(np.arange(at.lms), size)
    table = pl.DataFrame({"x": x.ravel(), "y": y[0].ravel(), "z": y[1].ravel(), "lm": lm})
    rows = tau_difference(table, first=("x", "y"), second=("x", "z"), cluster="lm", seed=seed, draws=300)
    truth = change_truth(at.floor, at.truth)
    names = ("control: BCa over SAEs", "cluster bootstrap", "", "t over LMs")
    ends = {n: shifted(r["low"], r["high"], truth) for n, r in zip(names, rows.iter_rows(named=True), strict=True)}
    return {name: ends[name] for name in (names[3], names[1], names[0])}


def cut(values: np.ndarray, floor: float) -> np.ndarray:
    return values if floor == 0 else np.maximum(values, norm.ppf(floor))


@lru_cache(maxsize=16)
def change_truth(floor: float, truth: float) -> float:
    """The change of tau_b of the cut outcomes, from two million pairs."""
    if truth == 0 or floor == 0:
        return truth
    x, e = numpy_generator("coverage", "change", str(floor)).standard_normal((2, 2, 2_000_000))
    taus: list[float] = []
    for tau in (0.3 + truth / 2, 0.3 - truth / 2):
        rho = np.sin(np.pi / 2 * tau)
        y = cut(rho * x + np.sqrt(1 - rho**2) * e, floor)
        sx, sy = np.sign(x[0] - x[1]), np.sign(y[0] - y[1])
        taus.append(float((sx * sy).mean() / np.sqrt((sy**2).mean())))
    return taus[0] - taus[1]


def taus_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """tau_b of every row of x with that of y; x without ties."""
    sx, sy = (np.sign(v[:, :, None] - v[:, None, :]) for v in (x, y))
    n = x.shape[1]
    with np.errstate(invalid="ignore"):
        return (sx * sy).sum(axis=(1, 2)) / np.sqrt(n * (n - 1) * np.abs(sy).sum(axis=(1, 2)))


def criterion(generator: np.random.Generator, seed: int, at: Design) -> Found:
    """A criterion's mean tau inside SAEs: over LMs; control: over SAEs; and the permutation of these SAEs."""
    x, y = criterion_grid(generator, at)
    values = taus_of(x, y)
    keep = np.isfinite(values)
    truth, kept = criterion_truth(at.effect, at.floor, at.truth), values[keep]
    saes = at.lms * PER_LM
    found: Found = {}
    for name, units in (
        ("t over LMs", Units("lm", np.arange(saes) // PER_LM)),
        ("control: t over SAEs", units_of(saes)),
    ):
        row = over_units(START, lambda w: w @ kept / w.sum(axis=1), units.take(keep))
        found[name] = shifted(row.low, row.high, truth)
    if at.truth == 0 and at.effect == 0 and at.lms == LMS[0]:  # an interval that excludes 0 where p is below 0.05
        p = (permuted([Sample(*pair) for pair in zip(x, y, strict=True)], Draws(seed, 199)) or (None,))[0]
        found["permutation within SAEs"] = (None, None) if p is None else (1.0, 2.0) if p < 0.05 else (-1.0, 1.0)
    return found


def criterion_grid(generator: np.random.Generator, at: Design) -> tuple[np.ndarray, np.ndarray]:
    saes = at.lms * PER_LM
    own = at.truth + at.effect * TAU_NOISE * np.repeat(generator.uniform(-1.73, 1.73, at.lms), PER_LM)[:, None]
    rho = np.sin(np.pi / 2 * np.clip(own, -0.99, 0.99))
    x, e = generator.standard_normal((2, saes, 2 * BLIND))
    return x, cut(rho * x + np.sqrt(1 - rho**2) * e, at.floor)


@lru_cache(maxsize=32)
def criterion_truth(effect: float, floor: float, truth: float) -> float:
    """The mean tau_b over 24 features of LMs like these, from 5,000 of them."""
    if truth == 0 or floor == 0:
        return truth
    at = Design(5000, effect, floor, truth)
    return float(np.nanmean(taus_of(*criterion_grid(numpy_generator("coverage", "criterion"), at))))


def regression(generator: np.random.Generator, seed: int, at: Design) -> Found:
    """The coefficient of x in a rank regression on x and a covariate inside LMs; control: LMs as 0/1 columns, BCa."""
    x, z, y = regression_grid(generator, at)
    lm = np.repeat(np.arange(at.lms), x.shape[1]).astype(str)
    table = pl.DataFrame({"x": x.ravel(), "z": z.ravel(), "y": y.ravel(), "lm": lm})
    truth = regression_truth(at.lms, at.effect, at.floor, at.truth)
    rows = rank_regression(table, response="y", terms=["x", "z"], cluster="lm", seed=seed, draws=9)
    plain = rank_regression(table, response="y", terms=["x", "z", "lm"], seed=seed, draws=199)
    return {
        "t over LMs": shifted(rows["low"][1], rows["high"][1], truth),
        "control: BCa over SAEs": shifted(plain["low"][0], plain["high"][0], truth),
    }


def regression_grid(generator: np.random.Generator, at: Design, lms: int | None = None) -> tuple[np.ndarray, ...]:
    lms, size = lms or at.lms, max(10, 90 // at.lms)
    own = at.truth + at.effect * TAU_NOISE * generator.uniform(-1.73, 1.73, (lms, 1))
    rho = np.sin(np.pi / 2 * np.clip(own, -0.99, 0.99))
    z, e, f = generator.standard_normal((3, lms, size))
    x = 0.6 * z + 0.8 * e
    return x, z, cut(rho * x + np.sqrt(1 - rho**2) * f, at.floor)


@lru_cache(maxsize=64)
def regression_truth(lms: int, effect: float, floor: float, truth: float) -> float:
    """The mean coefficient over LMs like these, of as many SAEs, from 4,000 of them: least squares on ranks."""
    if truth == 0:
        return 0.0
    parts = regression_grid(numpy_generator("coverage", "regression"), Design(lms, effect, floor, truth), 4000)
    x, z, y = (rankdata(v, axis=1) for v in parts)
    x, z, y = ((v - v.mean(axis=1, keepdims=True)) / v.std(axis=1, keepdims=True) for v in (x, z, y))
    xz, xy, zy = ((a * b).mean(axis=1) for a, b in ((x, z), (x, y), (z, y)))
    return float(np.mean((xy - xz * zy) / (1 - xz**2)))


def prompts(generator: np.random.Generator, seed: int, at: Design) -> Found:
    """Two sets of features of five SAEs at a few prompts (`lms` says how many), each better at some prompts than at
    others; control: an interval over features."""
    del seed
    level = 4.0 if at.floor == 0 else float(-norm.ppf(at.floor)) * np.sqrt(1 + 0.3**2)
    sets = []
    for mean, features in ((level + at.truth, CHOSEN), (level, BLIND)):
        shift = at.effect * OWN * generator.standard_normal(at.lms)
        own = 0.3 * generator.standard_normal((5, features, 1))
        sets.append(np.maximum(0, mean + shift + own + generator.standard_normal((5, features, at.lms))))
    row = crossed_difference(list(zip(*sets, strict=True)))
    sd = np.sqrt(1 + 0.3**2 + (at.effect * OWN) ** 2)
    truth = float(np.diff([m * norm.cdf(m / sd) + sd * norm.pdf(m / sd) for m in (level, level + at.truth)])[0])
    means = [s.mean(axis=2) for s in sets]
    apart = float(means[0].mean() - means[1].mean())
    se = float(np.sqrt(sum((m.var(axis=1, ddof=1) / m.shape[1]).sum() for m in means))) / 5
    return {
        "t over features and prompts": shifted(row.low, row.high, truth),
        "control: over features": shifted(apart - 2 * se, apart + 2 * se, truth),
    }


TABLES: dict[str, tuple[Callable[[np.random.Generator, int, Design], Found], float]] = {
    "clusters: what a selection gains": (gain, 0.5),
    "clusters: a change of tau": (change, 0.3),
    "clusters: a criterion's tau inside SAEs": (criterion, 0.2),
    "clusters: a rank coefficient": (regression, 0.3),
    "prompts (in place of LMs): a difference of two sets of features": (prompts, 0.5),
}


def measure(table: str, grids: int, at: Design) -> dict[str, tuple[float, float]]:
    """Per method the share of intervals that exclude the truth, and the share of grids without one."""
    make, seen = TABLES[table][0], dict[str, list[Ends]]()
    for i in range(grids):
        for method, interval in make(numpy_generator("coverage", table, str(at), i), i, at).items():
            seen.setdefault(method, []).append(interval)
    found = {}
    for method, intervals in seen.items():
        known = np.array([v for v in intervals if v[0] is not None], dtype=float).reshape(-1, 2)
        wrong = (known[:, 0] > 1e-9) | (known[:, 1] < -1e-9)
        found[method] = (float(wrong.mean()) if known.size else float("nan"), 1 - len(known) / grids)
    return found


def show(grids: int, only: list[str], pool: Executor) -> None:
    """Print the tables whose name holds one of `only`."""
    for table, (make, other) in TABLES.items():
        if not any(part in table for part in only):
            continue
        print(f"\n**{table}** ({grids} grids each; least and most over floors of 0, 30 and 70 %)\n")
        print(
            "| LMs | effect of the LM | method | false positives | coverage | without an interval |\n"
            + "|---" * 6
            + "|"
        )
        for lms in PROMPTS if make is prompts else LMS:
            for effect in EFFECTS:
                designs = [Design(lms, effect, floor, truth) for floor in FLOORS for truth in (0.0, other)]
                found = list(pool.map(partial(measure, table, grids), designs))
                for method in dict.fromkeys(m for f in found for m in f):
                    line(
                        f"{lms} | {effect:g} | {method}",
                        [(d, f[method]) for d, f in zip(designs, found, strict=True) if method in f],
                    )


def line(start: str, found: list[tuple[Design, tuple[float, float]]]) -> None:
    """One line: ranges of false positives, of coverage, and of the share withheld; a method below 20 % is not rated."""

    def span(values: list[float], digits: int = 1) -> str:
        known = [v for v in values if v == v]
        if not known:
            return "–"
        low, high = (f"{100 * v:.{digits}f}" for v in (min(known), max(known)))
        return f"{low} %" if low == high else f"{low} to {high} %"

    given = [(d, w) for d, (w, none) in found if none < 0.8]
    wrong = [w for d, w in given if d.truth == 0]
    held = [1 - w for d, w in given if d.truth != 0]
    print(f"| {start} | {span(wrong)} | {span(held)} | {span([none for _, (_, none) in found], 0)} |", flush=True)
