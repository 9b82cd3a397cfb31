"""`saelab match`: the features of SAEs matched from one to the next, with the proof of optimality."""

from itertools import pairwise
from pathlib import Path
from typing import Literal

import polars as pl

from saelab.cli.output import show_table
from saelab.cli.progress import shown
from saelab.core.errors import UserError
from saelab.store.tables import write_table


def match(
    first: str,
    second: str,
    *more: str,
    fold: Literal["theta", "none"] = "theta",
    parts: Literal["all", "decoder", "encoder"] = "all",
    reject: str | None = None,
    out: Path | None = None,
    json: bool = False,
) -> int:
    """Match features pairwise along a path of SAEs; with three or more, also end to end by composition.

    Parameters
    ----------
    first:
        Reference or folder of an SAE.
    second:
        The next SAE.
    more:
        Further SAEs of the path.
    fold:
        Scale of each feature: theta (thresholds) or none (cosine).
    parts:
        Tensors compared: all, decoder, encoder.
    reject:
        Reject cost of a partial matching: a number, or null for the level at which 1 % of features would match an
        unrelated dictionary.
    out:
        Parquet file for the pairs (step, a, b, cost, cosine).
    json:
        Print JSON.
    """
    import saelab
    from saelab.matching.match import compose

    references = (first, second, *more)
    saes = [saelab.load_sae(r) for r in references]
    limit = None if reject is None else _limit(reject)
    rows, pairs, path = [], [], None
    with shown() as progress:
        for step, (a, b) in enumerate(pairwise(saes)):
            found = saelab.match(a, b, fold=fold, parts=parts, reject=limit, progress=progress)
            matched = found.permutation >= 0
            rows.append(
                {
                    "from": references[step],
                    "to": references[step + 1],
                    "matched": int(matched.sum()),
                    "cost": found.cost,
                    "gap": found.gap,
                    "median cosine": pl.Series(found.cosine[matched]).median(),
                    "method": found.method,
                }
            )
            index = pl.int_range(len(found.permutation), eager=True)
            pair = pl.DataFrame({"a": index, "b": found.permutation, "cost": found.pair_cost, "cosine": found.cosine})
            pairs.append(pair.with_columns(step=pl.lit(step)).fill_nan(None))
            path = found.permutation if path is None else compose(path, found.permutation)
    if more and path is not None:
        whole = {"from": first, "to": references[-1], "matched": int((path >= 0).sum()), "method": "composed"}
        rows.append(dict.fromkeys(rows[0]) | whole)
    if out is not None:
        write_table(out, pl.concat(pairs))
    show_table(pl.DataFrame(rows), as_json=json)
    return 0


def _limit(text: str) -> float | Literal["null"]:
    if text == "null":
        return "null"
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--reject takes a number or null, not {text!r}.") from None
