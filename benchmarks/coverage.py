"""How often the intervals of saelab.stats hold the truth: simulated grids, nominal 95 %.

    python benchmarks/coverage.py --grids 2000 --workers 2        (about ten minutes on two cores)
    python benchmarks/coverage.py --grids 500 --only clusters:    (what SAEs that share LMs do: clusters.py)

Prints the tables of docs/statistics.md as Markdown. Truths: tau of a Gaussian pair is (2 / pi) asin(rho), of a Clayton
copula theta / (theta + 2); where LMs shift x and y, the share-weighted mean of tau inside and between LMs. Standard
error of a share near .95 of 2,000 grids: .005.
"""

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import clusters
import numpy as np
import polars as pl

from saelab.core.seeds import numpy_generator
from saelab.stats import resample
from saelab.stats.association import Draws, Sample, naive_tau
from saelab.stats.axes import Group, grand_psi, psi
from saelab.stats.effects import group_differences, partial_tau, tau_difference
from saelab.stats.features import feature_agreement
from saelab.stats.gains import RELATIVE, selection_gain
from saelab.stats.kendall import signs
from saelab.stats.power import smallest_taus

DRAWS = 1000
FEWER_DRAWS = 500  # all tables but the first
NESTED_DRAWS = 200
# Tables with all grids; the others with half of them.
MAIN = ("tau_b, rows independent", "tau_b, SAEs within LMs", "psi", "Psi, reported")
Found = dict[str, tuple[float | None, float | None]]  # method -> interval
LM_EFFECTS = {  # variance of LM shifts, their correlation, the correlation inside an LM
    "none": (0.0, 0.0, 0.4),
    "some": (0.5, 0.5, 0.3),
    "shifts unrelated": (1.0, 0.0, 0.0),
    "shifts only": (1.0, 0.8, 0.0),
}


@dataclass(frozen=True)
class Cell:
    """One line of a table: a design, its truth, and the function that makes one grid and its intervals."""

    table: str
    design: str
    truth: float
    make: Callable[..., Found]
    options: tuple[Any, ...]


def tau_of_rho(rho: float) -> float:
    return float(2 / np.pi * np.arcsin(rho))


def gaussian(generator: np.random.Generator, shape: int | tuple[int, ...], rho: float) -> tuple[np.ndarray, np.ndarray]:
    x, noise = generator.standard_normal(shape), generator.standard_normal(shape)
    return x, rho * x + np.sqrt(1 - rho**2) * noise


def one_tau(generator: np.random.Generator, seed: int, n: int, kind: str, tau: float) -> Found:
    if kind == "Clayton":
        theta = 2 * tau / (1 - tau)
        x, w = generator.uniform(size=(2, n))
        y = ((w ** (-theta / (1 + theta)) - 1) * x**-theta + 1) ** (-1 / theta)
    else:
        x, y = gaussian(generator, n, float(np.sin(np.pi * tau / 2)))
        if kind == "ties":
            x, y = np.round(x), np.round(y)
    row = naive_tau(Sample(x, y), Draws(seed, DRAWS))
    return {"BCa": (row.low, row.high)}


def clustered(generator: np.random.Generator, seed: int, m: int, k: int, effect: str) -> Found:
    spread, between, inside = LM_EFFECTS[effect]
    a, b = gaussian(generator, m, between)
    e, f = gaussian(generator, m * k, inside)
    index = np.repeat(np.arange(m), k)
    x, y = np.sqrt(spread) * a[index] + e, np.sqrt(spread) * b[index] + f
    draws = Draws(seed, FEWER_DRAWS)
    naive = naive_tau(Sample(x, y), draws)
    assert naive.value is not None
    drawn = resample.cluster_bootstrap(index.astype(str).astype(object), FEWER_DRAWS, draws.generator("clusters"))
    cluster = resample.cluster_t(resample.tau_of(drawn, signs(x), signs(y)), naive.value, m)
    nested = resample.percentile(nested_taus(x, y, (m, k), draws.generator("nested"))) or (None, None)
    ours = (cluster.low, cluster.high) if cluster else (None, None)
    return {"BCa over SAEs": (naive.low, naive.high), "cluster": ours, "nested": nested}


def nested_taus(x: np.ndarray, y: np.ndarray, shape: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """What saelab does not do: draw LMs, then SAEs inside each; pairs as in `resample.Clusters` (no ties)."""
    m, k = shape
    products = signs(x) * signs(y)
    inside = np.kron(np.eye(m), np.ones((k, k))).astype(np.float32) - np.eye(m * k, dtype=np.float32)
    across = 1 - inside - np.eye(m * k, dtype=np.float32)
    picks = generator.integers(0, m, (NESTED_DRAWS, m))
    picks = picks[(picks != picks[:, :1]).any(axis=1)]
    copies = np.zeros((picks.shape[0], m, m, k), dtype=np.float32)  # draw, copy, LM, SAE
    drawn = generator.multinomial(k, np.full(k, 1 / k), size=picks.shape)
    np.put_along_axis(copies, picks[:, :, None, None], drawn[:, :, None, :], axis=2)
    copies = copies.reshape(-1, m, m * k)

    def mean(mask: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
        top, bottom = (sum(((w @ pairs) * w).sum(axis=1) for w in parts) for pairs in (products * mask, mask))
        return top / bottom

    share = (k - 1) / (m * k - 1)
    return share * mean(inside, [copies[:, c] for c in range(m)]) + (1 - share) * mean(across, [copies.sum(axis=1)])


def cluster_truth(m: int, k: int, effect: str) -> float:
    spread, between, inside = LM_EFFECTS[effect]
    share = (k - 1) / (m * k - 1)
    return share * tau_of_rho(inside) + (1 - share) * tau_of_rho((spread * between + inside) / (spread + 1))


def one_psi(generator: np.random.Generator, seed: int, groups: int, size: int, spread: float) -> Found:
    """Groups whose own taus vary around .3 with standard deviation `spread`."""
    rhos = np.sin(np.pi / 2 * np.clip(0.3 + spread * generator.uniform(-1.73, 1.73, groups), -1, 1))
    taus = []
    for rho in rhos:
        x, y = gaussian(generator, size, float(rho))
        taus.append(float((signs(x) * signs(y)).sum() / (size * (size - 1))))
    rows = {mode: psi(taus, Draws(seed, FEWER_DRAWS), mode) for mode in ("reported", "matched")}
    return {
        "percentile": (rows["reported"].low, rows["reported"].high),
        "t": (rows["matched"].low, rows["matched"].high),
    }


def one_grand(generator: np.random.Generator, seed: int) -> Found:
    x, y = gaussian(generator, 90, float(np.sin(np.pi * 0.15)))
    cells = np.array([(a, k, m) for m in range(3) for a in range(5) for k in range(6)])
    groups = [
        Group(axis, str(v), np.flatnonzero(cells[:, i] == v))
        for i, axis in enumerate(("architecture", "level", "lm"))
        for v in range(cells[:, i].max() + 1)
    ]
    row = grand_psi(
        dict.fromkeys(("architecture", "level", "lm"), psi_mean(groups, x, y)), groups, (x, y), Draws(seed, FEWER_DRAWS)
    )
    return {"BCa": (row.low, row.high)}


def psi_mean(groups: list[Group], x: np.ndarray, y: np.ndarray) -> float:
    """Psi itself; given as each axis's psi it leaves their mean as it is."""
    by_axis: dict[str, list[float]] = {}
    for g in groups:
        n = g.rows.size
        by_axis.setdefault(g.axis, []).append(float((signs(x[g.rows]) * signs(y[g.rows])).sum() / (n * (n - 1))))
    return float(np.mean([np.mean(v) for v in by_axis.values()]))


def one_difference(generator: np.random.Generator, seed: int, n: int, lms: int) -> Found:
    x, y = gaussian(generator, n, float(np.sin(np.pi * 0.2)))
    z = 0.6 * y + 0.8 * generator.standard_normal(n)
    table = pl.DataFrame({"x": x, "y": y, "z": z, "lm": np.arange(n) % lms})
    rows = tau_difference(table, first=("x", "y"), second=("x", "z"), cluster="lm", seed=seed, draws=FEWER_DRAWS)
    return {"BCa": (rows["low"][0], rows["high"][0]), "cluster": (rows["low"][1], rows["high"][1])}


def one_group_difference(generator: np.random.Generator, seed: int, n: int) -> Found:
    a, b = gaussian(generator, n, float(np.sin(np.pi * 0.25))), gaussian(generator, n, 0.0)
    table = pl.DataFrame({"x": [*a[0], *b[0]], "y": [*a[1], *b[1]], "by": ["a"] * n + ["b"] * n})
    row = group_differences(table, x="x", y="y", by="by", seed=seed, draws=FEWER_DRAWS).row(0, named=True)
    return {"BCa": (row["low"], row["high"])}


def one_partial(generator: np.random.Generator, seed: int, n: int) -> Found:
    z = generator.standard_normal(n)
    e, f = gaussian(generator, n, 0.5)
    table = pl.DataFrame({"x": z + e, "y": z + f, "z": z})
    row = partial_tau(table, x="x", y="y", given=["z"], seed=seed, draws=FEWER_DRAWS).row(0, named=True)
    return {"BCa": (row["low"], row["high"])}


def partial_truth() -> float:
    xy, xz = tau_of_rho(1.5 / 2), tau_of_rho(1 / np.sqrt(2))
    return (xy - xz**2) / (1 - xz**2)


def one_relative_gain(generator: np.random.Generator, seed: int, saes: int) -> Found:
    base = generator.beta(2, 8, saes)
    chosen = base + 0.1 + 0.05 * generator.standard_normal(saes)
    names = [f"s{i}" for i in range(saes)]
    table = pl.DataFrame({"sae": names * 2, "arm": ["random"] * saes + ["dc"] * saes, "utility": [*base, *chosen]})
    rows = (
        selection_gain(table, seed=seed, draws=FEWER_DRAWS).filter(pl.col("statistic") == RELATIVE).row(0, named=True)
    )
    return {"t, log scale": (rows["low"], rows["high"])}


def one_feature(generator: np.random.Generator, seed: int, saes: int) -> Found:
    rhos = np.sin(np.pi / 2 * generator.uniform(0.1, 0.5, saes))
    parts = [gaussian(generator, 20, float(r)) for r in rhos]
    table = pl.DataFrame(
        {
            "sae": np.repeat(np.arange(saes), 20),
            "x": np.concatenate([p[0] for p in parts]),
            "y": np.concatenate([p[1] for p in parts]),
        }
    )
    rows = feature_agreement(table, predictors=["x"], response="y", seed=seed, draws=20)
    row = rows.filter(pl.col("sae").is_null() & (pl.col("statistic") == "tau")).row(0, named=True)
    return {"t over SAEs": (row["low"], row["high"])}


def tied_truth(tau: float) -> float:
    """Population tau_b of rounded Gaussian pairs, from four million pairs of rows."""
    generator = numpy_generator("coverage", "ties")
    x, y = gaussian(generator, (2, 4_000_000), float(np.sin(np.pi * tau / 2)))
    sx, sy = (np.sign(np.round(v[0]) - np.round(v[1])) for v in (x, y))
    return float((sx * sy).mean() / np.sqrt((sx**2).mean() * (sy**2).mean()))


def cells() -> Iterator[Cell]:
    for n in (10, 15, 18, 30, 90):
        for tau in (0.0, 0.3, 0.6):
            yield Cell("tau_b, rows independent", f"n = {n}, tau = {tau:g}", tau, one_tau, (n, "Gaussian", tau))
    for n in (18, 30, 90):
        yield Cell("tau_b, rows independent", f"n = {n}, Clayton, tau = 0.4", 0.4, one_tau, (n, "Clayton", 0.4))
        tied = tied_truth(0.4)
        yield Cell("tau_b, rows independent", f"n = {n}, ties, tau_b = {tied:.3f}", tied, one_tau, (n, "ties", 0.4))
    for m, k in ((3, 30), (5, 18), (10, 9), (30, 3)):
        for effect in LM_EFFECTS:
            name = f"{m} LMs x {k}, LM effect: {effect}"
            yield Cell("tau_b, SAEs within LMs", name, cluster_truth(m, k, effect), clustered, (m, k, effect))
    for groups, size in ((3, 30), (5, 18), (6, 15), (15, 6), (18, 5), (30, 3)):
        for spread in (0.0, 0.15):
            name = f"{groups} groups of {size}, sd of their taus {spread:g}"
            yield Cell("psi", name, 0.3, one_psi, (groups, size, spread))
    yield Cell("Psi, reported", "3 x 5 x 6, no group effect", 0.3, one_grand, ())
    difference = 0.4 - tau_of_rho(0.6 * np.sin(np.pi * 0.2))
    for n, lms in ((30, 3), (90, 3), (90, 10)):
        yield Cell("tau difference, paired", f"n = {n} in {lms} LMs", difference, one_difference, (n, lms))
    for n in (15, 18, 30):
        yield Cell("tau difference, two groups", f"{n} and {n}", 0.5, one_group_difference, (n,))
    for n in (30, 90):
        yield Cell("partial tau", f"n = {n}, one covariate", partial_truth(), one_partial, (n,))
    for n in (5, 15, 30):
        yield Cell(RELATIVE, f"{n} SAEs", 0.5, one_relative_gain, (n,))
    for n in (5, 10):
        yield Cell("feature tau, pooled", f"{n} SAEs of 20 features", 0.3, one_feature, (n,))


def measure(work: tuple[Cell, int]) -> tuple[Cell, dict[str, tuple[float, float, float]]]:
    """Per method: share of intervals that hold the truth, mean width, share of grids without an interval."""
    cell, grids = work
    grids = grids if cell.table in MAIN else grids // 2
    seen: dict[str, list[tuple[float | None, float | None]]] = {}
    for i in range(grids):
        generator = numpy_generator("coverage", cell.table, cell.design, i)
        for method, interval in cell.make(generator, i, *cell.options).items():
            seen.setdefault(method, []).append(interval)
    found = {}
    for method, intervals in seen.items():
        known = np.array([v for v in intervals if v[0] is not None], dtype=float).reshape(-1, 2)
        held = (known[:, 0] <= cell.truth + 1e-9) & (known[:, 1] >= cell.truth - 1e-9)
        width = float(np.diff(known, axis=1).mean()) if known.size else float("nan")
        found[method] = (float(held.mean()) if known.size else float("nan"), width, 1 - known.shape[0] / grids)
    return cell, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[""], help="lines whose `table: design` contains one of these")
    options = parser.parse_args()
    chosen = [c for c in cells() if any(part in f"{c.table}: {c.design}" for part in options.only)]
    table = ""
    with ProcessPoolExecutor(options.workers) as pool:
        for cell, found in pool.map(measure, [(c, options.grids) for c in chosen]):
            if cell.table != table:
                table = cell.table
                columns = [f"{m}: coverage" for m in found] + [f"{m}: width" for m in found]
                grids = options.grids if table in MAIN else options.grids // 2
                print(f"\n**{table}** ({grids} grids each)\n\n| design | truth | " + " | ".join(columns) + " |")
                print("|" + "---|" * (2 + len(columns)))
            parts = [
                f"{100 * c:.1f} %" + (f" ({100 * a:.0f} % none)" if a > 0.005 else "") for c, _, a in found.values()
            ]
            parts += [f"{w:.2f}" for _, w, _ in found.values()]
            print(f"| {cell.design} | {cell.truth:.3f} | " + " | ".join(parts) + " |", flush=True)
        clusters.show(options.grids, options.only, pool)
    if options.only == [""]:
        print("\n**Smallest tau seen with 80 % chance**\n")
        print("| n | pairs | smallest p | alpha .05 | alpha .05 / 14 |\n|---|---|---|---|---|")
        sizes = (3, 5, 6, 15, 18, 30, 60, 90)
        plain, holm = smallest_taus(sizes), smallest_taus(sizes, alpha=0.05 / 14)
        for a, b in zip(plain.iter_rows(named=True), holm.iter_rows(named=True), strict=True):
            shown = [f"{r['smallest_tau']:.2f}" if r["state"] == "ok" else r["state"] for r in (a, b)]
            print(f"| {a['n']} | {a['pairs']} | {a['smallest_p']:.2g} | {shown[0]} | {shown[1]} |")


if __name__ == "__main__":
    main()
