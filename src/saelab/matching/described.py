"""Do matched features have the same description? Asked of a judge, 1 to 3, between a null and a ceiling.

Every pair is asked in both orders. Kinds: matched pairs; random pairs of the same features (the null); and, where A's
features have been described twice, the two descriptions of one feature (the ceiling). What the judge did not answer has
a state and no value and enters no mean. Knows no back end.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int

from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description
from saelab.core.seeds import numpy_generator
from saelab.judges.client import Judge, Request
from saelab.judges.comparison import COMPARISON

SCHEMA = {
    "kind": pl.String, "a": pl.Int64, "b": pl.Int64, "order": pl.Int64, "state": pl.String, "value": pl.Float64,
    "reason": pl.String, "judge": pl.String,
}  # fmt: skip


def compared(
    judge: Judge,
    first: Mapping[int, Description],
    second: Mapping[int, Description],
    permutation: Int[np.ndarray, " n"],
    *,
    again: Mapping[int, Description] | None = None,
    pairs: int = 100,
    seed: int = 0,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """One row per question: kind (matched, random, same), a, b, order (0, 1), state, value, reason, judge.

    first, second: descriptions by feature. again: other descriptions of A's features, for the ceiling. pairs: matched
    pairs drawn among those with both descriptions.
    """
    known = [i for i in sorted(first) if int(permutation[i]) in second]
    generator = numpy_generator(seed, "matching", "described")
    drawn = sorted(generator.permutation(known)[:pairs].tolist())
    partners = [int(permutation[i]) for i in drawn]
    asked = [("matched", i, j, first[i], second[j]) for i, j in zip(drawn, partners, strict=True)]
    # A cyclic shift of a random order pairs every feature with another one's partner.
    order = generator.permutation(len(drawn))
    other = {int(order[k]): partners[int(order[k - 1])] for k in range(len(order))} if len(order) > 1 else {}
    asked += [("random", drawn[k], other[k], first[drawn[k]], second[other[k]]) for k in sorted(other)]
    asked += [("same", i, i, first[i], again[i]) for i in drawn if again is not None and i in again]
    requests = [
        Request(COMPARISON, text=y.text, description=x)
        for *_, left, right in asked
        for x, y in ((left, right), (right, left))
    ]
    answers = judge.judge(requests, progress=progress)
    rows = [
        (kind, a, b, k % 2, answer.state, answer.value, answer.reason, answer.judge)
        for k, answer in enumerate(answers)
        for kind, a, b, *_ in [asked[k // 2]]
    ]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def summarised(table: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Per kind: pairs, mean over pairs answered in both orders, share answered 3 in both, share of pairs whose orders
    disagree, and how many pairs lack an answer.
    """
    found: dict[str, dict[str, Any]] = {}
    for (kind,), rows in table.group_by("kind", maintain_order=True):
        pairs = rows.group_by("a", "b", maintain_order=True).agg(
            mean=pl.col("value").mean(), least=pl.col("value").min(), most=pl.col("value").max(),
            ok=(pl.col("state") == "ok").all(),
        )  # fmt: skip
        whole = pairs.filter("ok")
        found[str(kind)] = {
            "pairs": pairs.height,
            "mean": whole["mean"].mean() if whole.height else None,
            "same": (whole["least"] == 3).mean() if whole.height else None,
            "orders_disagree": (whole["least"] != whole["most"]).mean() if whole.height else None,
            "missing": pairs.height - whole.height,
        }
    return found
