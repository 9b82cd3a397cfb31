"""Two SAEs side by side, and any two measures of features against each other.

What is shown of a pair is what each feature shows by itself; points name the feature that they open. Nothing is
measured here.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from saelab.core.errors import UserError
from saelab.explore.index import FeatureIndex
from saelab.explore.partners import Partners


@dataclass(frozen=True)
class Points:
    """Features by two measures: those that have both; of very many, evenly spread. total: how many there are."""

    sae: list[str]
    feature: list[int]
    x: list[float]
    y: list[float]
    total: int


def scatter(index: FeatureIndex, x: str, y: str, *, saes: tuple[str, ...] = (), most: int = 5000) -> Points:
    """Points of two measures of the index. saes: of these alone. Raises `UserError` for what is no measure."""
    if strange := [name for name in (x, y) if name not in index.measures]:
        raise UserError(
            f"{strange[0]} is no measure of these features.", hint=f"There are {', '.join(index.measures)}."
        )
    table = index.table.filter(pl.col("sae").is_in(saes)) if saes else index.table
    table = table.select("sae", "feature", pl.col(x).alias("x"), pl.col(y).alias("y"))
    table = table.filter(pl.col("x").is_finite() & pl.col("y").is_finite())
    total = table.height
    if total > most:
        table = table[np.linspace(0, total - 1, most).round().astype(np.int64)]
    return Points(*(table[name].to_list() for name in ("sae", "feature", "x", "y")), total=total)


def side_by_side(index: FeatureIndex, partners: Partners, first: str, second: str) -> pl.DataFrame:
    """The matched features of two SAEs: feature_a, feature_b, class, distance, cosine, and what the index has of both.

    Columns of the index end in _a and _b. Raises `UserError` where the two were not matched.
    """
    called = {here: own for own, here in partners.names.items()}
    pair = (called.get(first, ""), called.get(second, ""))
    if pair not in partners.pairs:
        flipped = pair[::-1] in partners.pairs
        raise UserError(
            f"{first} and {second} were not matched" + (" in this direction." if flipped else "."),
            hint=f"Compare {second} with {first}." if flipped else f"saelab match {first} {second}",
        )
    table = partners.run.matching(*pair).matching.read(["a", "b"])
    partial = "partner" if "partner" in table.columns else "b"
    kept = [c for c in ("class", "distance", "cosine", "cost") if c in table.columns]
    table = table.select(pl.col("a").alias("feature_a"), pl.col(partial).alias("feature_b"), *kept)
    for end, sae in (("a", first), ("b", second)):
        own = index.table.filter(pl.col("sae") == sae).drop("sae").cast({"feature": pl.Int64})
        taken = set(table.columns)
        own = own.rename({c: f"{c}_{end}" for c in own.columns})
        own = own.select(c for c in own.columns if c == f"feature_{end}" or c not in taken)
        table = table.join(own, on=f"feature_{end}", how="left")
    return table
