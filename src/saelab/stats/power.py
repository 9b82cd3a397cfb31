"""What a design can see: the smallest tau that the permutation test finds with a given chance.

For n rows the exact null of S gives the critical value; the chance to pass it is simulated for Gaussian pairs with
rho = sin(pi tau / 2), the same draws for every tau, and solved by bisection. Above 200 rows both are normal. Rows are
taken as independent: with few LMs a design sees less than this.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import scipy
from jaxtyping import Float

from saelab.core.errors import UserError
from saelab.core.seeds import numpy_generator
from saelab.stats.kendall import EXACT_ROWS, exact_distribution

GRIDS = 4000  # simulated samples
STEPS = 10  # bisection steps: tau to 0.001


def smallest_taus(sizes: Sequence[int], *, alpha: float = 0.05, power: float = 0.8, seed: int = 0) -> pl.DataFrame:
    """For each number of rows: the smallest true |tau| that a two-sided test at `alpha` finds with chance `power`.

    Columns: n, pairs, alpha, power, smallest_p (the least p the design can give), critical_tau (the least observed
    |tau| with p <= alpha), smallest_tau, method, seed, state. State "impossible": no outcome has p <= alpha (n = 3,
    for one). For the first step of Holm over 14 groups give alpha = 0.05 / 14.
    """
    if not 0 < alpha < 1 or not alpha < power < 1:
        raise UserError(f"alpha={alpha:g} and power={power:g} are not chances with alpha < power < 1.")
    rows: list[dict[str, float | str | None]] = []
    for n in sizes:
        if n < 3:
            raise UserError(f"A tau needs three rows; a design of {n} was given.")
        row = {"n": n, "pairs": n * (n - 1) // 2, "alpha": alpha, "power": power, "seed": seed}
        rows.append(row | _smallest(n, alpha, power, seed))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


SCHEMA = {
    "n": pl.Int64,
    "pairs": pl.Int64,
    "alpha": pl.Float64,
    "power": pl.Float64,
    "smallest_p": pl.Float64,
    "critical_tau": pl.Float64,
    "smallest_tau": pl.Float64,
    "method": pl.String,
    "seed": pl.Int64,
    "state": pl.String,
}


def _smallest(n: int, alpha: float, power: float, seed: int) -> dict[str, float | str | None]:
    if n > EXACT_ROWS:
        deviation = float(np.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1))))
        critical = float(scipy.stats.norm.ppf(1 - alpha / 2)) * deviation
        least = critical + float(scipy.stats.norm.ppf(power)) * deviation
        return {"critical_tau": critical, "smallest_tau": least, "method": "normal", "state": "ok"}
    chances = exact_distribution(n)
    taus = 1 - 2 * np.arange(chances.size) / (chances.size - 1)
    two_sided = np.cumsum(chances) * 2  # p of an observed tau = taus[k] > 0
    inside = np.flatnonzero((two_sided <= alpha) & (taus > 0))
    found: dict[str, float | str | None] = {"smallest_p": float(two_sided[0]), "method": "simulated"}
    if inside.size == 0:
        return found | {"state": "impossible"}
    critical = float(taus[inside[-1]])
    generator = numpy_generator(seed, "stats", "power", n)
    x, noise = np.sort(generator.standard_normal((GRIDS, n)), axis=1), generator.standard_normal((GRIDS, n))
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        rho = np.sin(np.pi * middle / 2)
        seen = float((np.abs(_taus(rho * x + np.sqrt(1 - rho**2) * noise)) >= critical - 1e-9).mean())
        low, high = (low, middle) if seen >= power else (middle, high)
    return found | {"critical_tau": critical, "smallest_tau": high, "state": "ok"}


def _taus(y: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R"]:
    """tau of each row of y against its own order (x sorted, no ties)."""
    n = y.shape[1]
    above = sum(np.count_nonzero(y[:, i + 1 :] > y[:, i : i + 1], axis=1) for i in range(n - 1))
    return 4 * above / (n * (n - 1)) - 1
