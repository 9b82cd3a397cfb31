"""Do matched features have the same description? Asked of a judge, between a null and a ceiling.

Every pair is asked in both orders. Kinds: the pairs of every matching; random pairs of the same features (the null);
and, where A's features have been described twice, the two descriptions of one feature (the ceiling). A judge of words
answers 1 to 3 and 3 is the same; of one that answers otherwise (sentence embeddings) a pair is the same above the
level that one random pair in twenty reaches. What the judge did not answer has a state and no value and enters no mean.
Knows no back end.
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
from saelab.judges.comparison import COMPARISON, SCALE

RANDOM, SAME = "random", "same"
SCHEMA = {
    "kind": pl.String, "a": pl.Int64, "b": pl.Int64, "order": pl.Int64, "state": pl.String, "value": pl.Float64,
    "reason": pl.String, "judge": pl.String,
}  # fmt: skip


def compared(
    judge: Judge,
    first: Mapping[int, Description],
    second: Mapping[int, Description],
    matchings: Mapping[str, Int[np.ndarray, " n"]],
    *,
    again: Mapping[int, Description] | None = None,
    pairs: int = 100,
    seed: int = 0,
    progress: Progress = SILENT,
) -> pl.DataFrame:
    """One row per question: kind (a matching, random, same), a, b, order (0, 1), state, value, reason, judge.

    first, second: descriptions by feature. again: other descriptions of A's features, for the ceiling. pairs: drawn of
    each matching among those with both descriptions, as far as they go the same features of A.
    """
    generator = numpy_generator(seed, "matching", "described")
    order = generator.permutation(max(first, default=-1) + 1)
    asked: list[tuple[str, int, int, Description, Description]] = []
    for kind, permutation in matchings.items():
        known = [i for i in order.tolist() if i in first and int(permutation[i]) in second][:pairs]
        asked += [(kind, i, int(permutation[i]), first[i], second[int(permutation[i])]) for i in sorted(known)]
    drawn = [pair for pair in asked if pair[0] == next(iter(matchings))]
    # A cyclic shift of a random order pairs every feature with another one's partner.
    turn = generator.permutation(len(drawn)).tolist()
    other = {k: drawn[turn[n - 1]] for n, k in enumerate(turn)} if len(turn) > 1 else {}
    asked += [(RANDOM, drawn[k][1], other[k][2], drawn[k][3], other[k][4]) for k in sorted(other)]
    asked += [(SAME, i, i, x, again[i]) for _, i, _, x, _ in drawn if again is not None and i in again]
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


def pair_values(table: pl.DataFrame) -> pl.DataFrame:
    """One row per pair (kind, a, b): mean, least and most of its two answers; ok: whether it has both."""
    return table.group_by("kind", "a", "b", maintain_order=True).agg(
        mean=pl.col("value").mean(), least=pl.col("value").min(), most=pl.col("value").max(),
        ok=(pl.col("state") == "ok").all(),
    )  # fmt: skip


def same_level(tables: pl.DataFrame, *, scale: bool) -> float | None:
    """The value from which on a pair is the same: the end of the scale, or what one random pair in twenty exceeds.

    scale: whether the judge answers 1 to 3. None: no random pair was answered.
    """
    if scale:
        return float(len(SCALE))
    random = pair_values(tables).filter(pl.col("ok") & (pl.col("kind") == RANDOM))["least"]
    return None if random.is_empty() else float(np.nextafter(np.quantile(random.to_numpy(), 0.95), np.inf))


def summarised(table: pl.DataFrame, level: float = len(SCALE)) -> dict[str, dict[str, Any]]:
    """Per kind: pairs, mean over pairs answered in both orders, share at the level or above in both, share of pairs
    whose orders disagree, and how many pairs lack an answer.
    """
    found: dict[str, dict[str, Any]] = {}
    for (kind,), pairs in pair_values(table).group_by("kind", maintain_order=True):
        whole = pairs.filter("ok")
        found[str(kind)] = {
            "pairs": pairs.height,
            "mean": whole["mean"].mean() if whole.height else None,
            "same": (whole["least"] >= level).mean() if whole.height else None,
            "orders_disagree": (whole["least"] != whole["most"]).mean() if whole.height else None,
            "missing": pairs.height - whole.height,
        }
    return found
