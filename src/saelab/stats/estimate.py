"""What every estimate of this package is: a value or a state, never a number that stands for a failure.

A value that cannot be computed is None with a state that says why ("too_few", "constant", "missing", "undefined");
an interval that cannot be had is None with a note. Rows with a missing input are left out and counted in `dropped`.
Nothing here computes anything.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import polars as pl

State = Literal["ok", "too_few", "constant", "missing", "undefined"]

FEWEST = 3  # observations below which there is no estimate


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number with its interval (95 %), its size and how it was made.

    n: rows (for a mean over groups: groups); pairs: pairs of rows compared; se: standard error where the method has
    one; null_low, null_high: where the middle 95 % lie without association; dropped: rows left out as incomplete.
    """

    statistic: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    pairs: int | None = None
    p: float | None = None
    null_low: float | None = None
    null_high: float | None = None
    interval_method: str | None = None
    seed: int | None = None
    state: State = "ok"
    se: float | None = None
    p_method: str | None = None
    dropped: int = 0
    note: str | None = None

    def __post_init__(self) -> None:
        if (self.state == "ok") != (self.value is not None):
            raise ValueError(f"an estimate is ok exactly when it has a value: {self.state}, {self.value}")


ESTIMATE_SCHEMA: dict[str, Any] = {
    "statistic": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "pairs": pl.Int64,
    "p": pl.Float64,
    "null_low": pl.Float64,
    "null_high": pl.Float64,
    "interval_method": pl.String,
    "seed": pl.Int64,
    "state": pl.String,
    "se": pl.Float64,
    "p_method": pl.String,
    "dropped": pl.Int64,
    "note": pl.String,
}


def frame(labels: dict[str, Any], rows: Sequence[tuple[tuple[Any, ...], Estimate]]) -> pl.DataFrame:
    """A long table: the label columns (name -> dtype), then the fields of each estimate."""
    data = [dict(zip(labels, values, strict=True)) | asdict(estimate) for values, estimate in rows]
    return pl.DataFrame(data, schema=labels | ESTIMATE_SCHEMA, orient="row")
