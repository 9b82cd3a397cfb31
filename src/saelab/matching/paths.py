"""Features followed over many sites: paths from birth to death, their survival, and composed against direct matchings.

Steps are partial (or full) matchings between consecutive sites, index arrays with -1 for none. A path begins at a
feature that no feature of the site before leads to, and ends where it has no successor. Nothing here knows costs.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, Int

COLUMNS = {"path": pl.Int64, "site": pl.Int64, "feature": pl.Int64, "length": pl.Int64}


def feature_paths(steps: Sequence[Int[np.ndarray, " n"]], last: int) -> pl.DataFrame:
    """One row per (path, site): path numbers by where they begin, site indices, features, the path's whole length.

    last: features at the last site, so that those born there are told too.
    """
    rows = []
    number = 0
    reached = np.zeros(len(steps[0]), bool)
    sizes = [len(s) for s in steps] + [last]
    for site in range(len(sizes)):
        for feature in np.flatnonzero(~reached):
            at, chain = site, [int(feature)]
            while at < len(steps) and steps[at][chain[-1]] >= 0:
                chain.append(int(steps[at][chain[-1]]))
                at += 1
            rows += [(number, site + k, f, len(chain)) for k, f in enumerate(chain)]
            number += 1
        if site < len(steps):
            reached = np.zeros(sizes[site + 1], bool)
            reached[steps[site][steps[site] >= 0]] = True
    return pl.DataFrame(rows, schema=COLUMNS, orient="row")


def survival(steps: Sequence[Int[np.ndarray, " n"]]) -> list[Float[np.ndarray, " k"]]:
    """For every start site the share of its features that still has a successor after 1, 2, ... steps."""
    found = []
    for start in range(len(steps)):
        at = np.arange(len(steps[start]))
        shares = []
        for step in steps[start:]:
            at = np.where(at < 0, -1, step[at])
            shares.append(float((at >= 0).mean()))
        found.append(np.array(shares))
    return found
