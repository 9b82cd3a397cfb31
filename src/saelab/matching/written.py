"""What every matching leaves in its folder, whatever it was made for: its pairs as a table, and its certificate.

Must never know an SAE or a language model.
"""

from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from saelab.matching.classes import Classes
from saelab.matching.match import Matching


def certificate(found: Matching) -> dict[str, Any]:
    """Cost, bound and gap, how they were found, and how many tiny scales were raised."""
    return {
        "cost": found.cost,
        "lower_bound": found.lower_bound,
        "gap": found.gap,
        "method": found.method,
        "rounds": found.rounds,
        "clipped": list(found.clipped),
    }


def pairs_table(found: Matching, classes: Classes) -> pl.DataFrame:
    """One row per feature of the first: its pair in the matching, and what the partial matching says of it."""
    table = pl.DataFrame({"a": np.arange(len(found.permutation)), "b": found.permutation})
    return table.with_columns(
        pl.Series("cost", found.pair_cost).fill_nan(None),
        pl.Series("cosine", found.cosine).fill_nan(None),
        pl.Series("partner", _known(classes.permutation), pl.Int64),
        pl.Series("class", classes.names),
        pl.Series("distance", classes.distance).fill_nan(None),
        pl.Series("family", _known(classes.family), pl.Int64),
        pl.Series("relation", classes.relations, pl.String),
        pl.Series("into", _known(classes.into), pl.Int64),
    )


def _known(numbers: Int[np.ndarray, " n"]) -> list[int | None]:
    """Numbers with none for -1."""
    return [int(k) if k >= 0 else None for k in numbers]
