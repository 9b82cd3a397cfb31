"""What an evaluation yields: its metrics by category, rows of detail, and the settings and deviations that made it.

Every evaluation of the suite gives one `Result` per SAE; `saebench_json` writes it in SAEBench's own layout. A metric
that could not be measured is None and never a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

Metrics = dict[str, float | int | None]


@dataclass(frozen=True)
class Result:
    """One evaluation of one SAE. kind: its name in the catalogue; config: settings, preset and deviations.

    reason: why metrics are missing, where they are.
    """

    kind: str
    metrics: Mapping[str, Metrics]
    config: Mapping[str, Any]
    details: Sequence[Mapping[str, Any]] = ()
    unstructured: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None


def averaged(rows: Sequence[Mapping[str, float | int | None]]) -> Metrics:
    """The mean of each key over the rows that have a value for it, keys in order of first appearance."""
    keys = {key: None for row in rows for key in row}
    found: Metrics = {}
    for key in keys:
        values = [float(v) for row in rows if (v := row.get(key)) is not None]
        found[key] = fmean(values) if values else None
    return found
