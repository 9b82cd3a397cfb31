"""Dense assignments by a peer, in the peers' own environment: benchmarks/matching.py asks for one by a line of input.

    python benchmarks/matching_peers.py SOLVER MATRIX.npy

The environment holds NumPy, SciPy, lapx, lapjv, laprust, lapcpp and fastlap, and no saelab. What is printed: seconds by
the clock and of all processors, peak memory, and the cost of the assignment.
"""

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Solve = Callable[[Any, np.ndarray], Any]  # the module and the costs -> the column of every row (-1: none)


def _pairs(solved: Any, n: int) -> np.ndarray:
    _, rows, columns = solved
    found = np.full(n, -1)
    found[np.asarray(rows)] = np.asarray(columns)
    return found


# Rectangular problems: lapjv has none of them.
SOLVERS: dict[str, tuple[str, Solve]] = {
    "scipy": ("scipy.optimize", lambda m, c: m.linear_sum_assignment(c)[1]),
    "lapx": ("lap", lambda m, c: m.lapjv(c, extend_cost=True)[1]),
    "lapjv": ("lapjv", lambda m, c: m.lapjv(c)[0]),
    "laprust": ("laprust", lambda m, c: _pairs(m.lapjv(c, extend_cost=True), len(c))),
    "lapcpp": ("lapcpp", lambda m, c: _pairs(m.lapjv(c, extend_cost=True), len(c))),
    "fastlap": ("fastlap", lambda m, c: np.asarray(m.solve_lap(c, algorithm="lapjv")[1], dtype=np.int64)),
}


def main() -> None:
    name, path = sys.argv[1:]
    module, solve = SOLVERS[name]
    solver, costs = importlib.import_module(module), np.load(path)
    solve(solver, np.random.default_rng(0).random((16, 16)))
    for _ in sys.stdin:
        began, cpu = time.perf_counter(), time.process_time()
        columns = solve(solver, costs)
        found = {"s": time.perf_counter() - began, "cpu s": time.process_time() - cpu}
        found["cost"] = _cost(costs, columns)
        found["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps(found), flush=True)


def _cost(costs: np.ndarray, columns: np.ndarray) -> float:
    rows = np.flatnonzero(columns >= 0)
    return float(costs[rows, columns[rows]].sum())


if __name__ == "__main__":
    main()
