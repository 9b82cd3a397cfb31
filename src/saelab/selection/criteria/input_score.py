"""Input score (arXiv 2505.20063): does the feature fire on the tokens that its direction promotes?

From the peak token of each of the feature's top contexts: `freq` is the share of contexts whose peak token is among
the feature's lens tokens (as the released code counts), `set` the share of distinct peak tokens (as the formula
reads). High in early layers; a penalty rather than a merit for steering.
"""

from collections.abc import Sequence
from typing import Literal

import polars as pl

from saelab.core.errors import UserError

Tokens = Sequence[int] | Sequence[str]


def input_score(peaks: Tokens, lens_top: Tokens, variant: Literal["freq", "set"] = "freq") -> float:
    """Share of peak tokens in `lens_top`, in [0, 1]. `peaks` holds one token (id or string) per context, repeated."""
    if not peaks:
        raise UserError("An input score needs at least one context of the feature.")
    counted = list(peaks) if variant == "freq" else list(set(peaks))
    promoted = set(lens_top)
    return sum(token in promoted for token in counted) / len(counted)


def input_scores(effects: pl.DataFrame, contexts: pl.DataFrame) -> pl.DataFrame:
    """`effects` (feature, top_tokens) with `input_score`, from interp's table of contexts (feature, tokens, peak).

    A feature without contexts has none (null): it never fired, or was not looked at.
    """
    peaks: dict[int, list[str]] = {}
    for feature, tokens, peak in contexts.select("feature", "tokens", "peak").iter_rows():
        peaks.setdefault(feature, []).append(tokens[peak])
    pairs = effects.select("feature", "top_tokens").iter_rows()
    found = [input_score(peaks[feature], top) if feature in peaks else None for feature, top in pairs]
    return effects.with_columns(input_score=pl.Series(found, dtype=pl.Float64))
