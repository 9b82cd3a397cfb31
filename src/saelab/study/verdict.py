"""The study's answer in one sentence, from its tables: what it saw, what it could not tell, and why.

In this order: a study whose gate failed says that it cannot see steering, and nothing else; one that was not gated says
so first. Then whether features of SAEs steer more than a random dictionary's, and whether more interpretable SAEs steer
better. A relation is told where its p is below 0.05 and its interval excludes 0; else the sentence says what would have
been needed. Pure functions of the tables.
"""

from typing import Any

import polars as pl

from saelab.instrument.readers import HEADLINE
from saelab.stats.spread import smallest_tau
from saelab.store.layout import RunFolder
from saelab.study.adopt import fallen
from saelab.study.compare import sentence
from saelab.study.spec import StudyConfig
from saelab.study.spec import steers as steers_with_any
from saelab.study.steering import gates_of, headline_of

BLIND = "This study cannot see steering"
NOT_GATED = "This study was not gated"
MOST_NAMED = 3  # language models, in a sentence


def verdict(study: StudyConfig, run: RunFolder) -> str:
    """The first sentence of the page, and behind it what could not be scored.

    Of a study that trains none of its SAEs it says first which of them is better at what.
    """
    table = run.stats.table("compared")
    which = sentence(table.read()) if table.exists and not any(m.grids for m in study.models) else ""
    lost = "".join(f" {s.name} is not scored: {run.adopted(s.name).read()['sentence']}" for s in fallen(study, run))
    asked = steers_with_any(study) or not which  # of SAEs that are compared otherwise, steering is not the question
    return f"{which} {_answer(study, run) if asked else ''}".strip() + lost


def _answer(study: StudyConfig, run: RunFolder) -> str:
    tables = run.stats
    if not tables.table("arms").exists:
        return "This study steers with no feature, so it says nothing about steering."
    gates = gates_of(study, run)
    if gates["state"] == "failed":
        return f"{BLIND}: {_failed(gates)}."
    agreement, spread = tables.table("agreement").read(), tables.table("spread").read()
    answer = f"{steers(headline_of(study, run))}; {related(agreement, spread)}."
    if gates["state"] == "not_gated":
        why = next(s["sentence"] for s in gates["sites"] if s["state"] == "not_gated").removeprefix("Not gated: ")
        return f"{NOT_GATED}: {why.rstrip('.')}; so what follows is not shown to be steering. {answer}"
    return answer


def steers(headline: dict[str, Any]) -> str:
    """Whether features of SAEs steer more than those of a random dictionary."""
    if headline["value"] is None:
        return "Too few features were steered with to hold these SAEs against a random dictionary"
    shown, low, high = _spoken(headline), headline["low"], headline["high"]
    if headline.get("like_low") is not None and headline.get("like_high") is not None:
        shown += f"; of SAEs like these [{headline['like_low']:+.2f}, {headline['like_high']:+.2f}]"
    if low is not None and low > 0:
        return f"Features of these SAEs steer more than those of a random dictionary (lift {shown})"
    if high is not None and high < 0:
        return f"Features of these SAEs steer less than those of a random dictionary (lift {shown})"
    return f"Features of these SAEs cannot be told from those of a random dictionary in how they steer (lift {shown})"


def related(agreement: pl.DataFrame, spread: pl.DataFrame) -> str:
    """Whether more interpretable SAEs steer better, or why that cannot be told."""
    question = "whether more interpretable SAEs steer better"
    row = _overall(agreement)
    if row is None or row["value"] is None:
        return f"{question} cannot be told, because too few SAEs have both scores"
    where = " inside language models" if row["statistic"] == "tau within" else ""
    shown = f"tau{where} {_spoken(row)}, {row['n']} SAEs"
    told = row["low"] is not None and row["high"] is not None and (row["low"] > 0 or row["high"] < 0)
    if told and row["p"] is not None and row["p"] < 0.05:
        side = "better" if row["value"] > 0 else "worse"
        return (
            f"SAEs whose features are more interpretable steer {side} ({shown}{_unshown(agreement) if where else ''})"
        )
    return f"{question} cannot be told ({shown}), because {_why(spread, int(row['n']))}"


def _unshown(agreement: pl.DataFrame) -> str:
    """The language models on which by themselves the relation is not shown."""
    alone = agreement.filter((pl.col("mode") == "reported") & (pl.col("axis") == "lm") & (pl.col("statistic") == "tau"))
    alone = alone.filter((pl.col("x") == "interpretability") & (pl.col("y") == HEADLINE))
    rows = alone.to_dicts()
    found = [r for r in rows if r["low"] is None or r["high"] is None or r["low"] <= 0 <= r["high"]]
    if not found:
        return ""
    if len(found) > MOST_NAMED:
        return f"; not shown on {len(found)} of {len(rows)} of these alone"
    return "; not shown on " + ", ".join(
        f"{r['group']} alone" + ("" if r["value"] is None else f", {_spoken(r)}") for r in found
    )


def _why(spread: pl.DataFrame, n: int) -> str:
    by = {r["score"]: r for r in spread.iter_rows(named=True)}
    x, y = by["interpretability"]["reliability"], by[HEADLINE]["reliability"]
    if y is None or x is None:
        return "too few features are scored to say how well SAEs are told apart"
    p = by[HEADLINE]["p"]
    apart = "are not told apart by how they steer" if p >= 0.05 else "are told apart, but not enough"
    least = smallest_tau(n, x, y)
    reach = "no tau could be found" if least is None else f"only a true tau of {least:.2f} or more would be found"
    return f"the SAEs {apart} (reliability {y:.2f}) and with {n} of them {reach} four times in five"


def _overall(agreement: pl.DataFrame) -> dict[str, Any] | None:
    """The row that the verdict rests on: over all SAEs of one LM; of several, inside the LMs, whose levels differ."""
    rows = agreement.filter(
        (pl.col("mode") == "overall") & (pl.col("x") == "interpretability") & (pl.col("y") == HEADLINE)
    )
    inside = rows.filter(pl.col("statistic") == "tau within")
    rows = inside if inside.height and inside["value"][0] is not None else rows
    return rows.row(0, named=True) if rows.height else None


def _failed(gates: dict[str, Any]) -> str:
    sites = [s for s in gates["sites"] if s["state"] == "failed"]
    reasons = "; ".join(s["sentence"].removeprefix("The instrument cannot see steering: ").rstrip(".") for s in sites)
    return reasons if len(gates["sites"]) == 1 else f"at {len(sites)} of {len(gates['sites'])} sites, {reasons}"


def _spoken(row: dict[str, Any]) -> str:
    interval = "" if row["low"] is None or row["high"] is None else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
    return f"{row['value']:+.2f}{interval}"
