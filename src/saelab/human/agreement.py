"""What answers come to: how often a rater finds the steered text, chooses as a judge does, or as another rater does.

Shares are of trials in which a side was chosen, with features as clusters (stats/share.py) and chance 1/2, since sides
are drawn. Two that both find the steered text agree by that alone: `by_hits`, p q + (1 - p)(1 - q), is the share that
follows from the two hit rates on the same trials, so that only what exceeds it is agreement on single texts. Raters are
compared by Cohen's kappa (1960) over left, right and neither. "Neither" and what a judge did not decide are counted and
are no number. Tables, and the one that is kept.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from saelab.human.answers import Answered
from saelab.human.trials import NONE, OTHER, SIDES, BlindTrial
from saelab.stats.estimate import Estimate
from saelab.stats.share import EVEN, share_estimate
from saelab.store.layout import RunFolder
from saelab.store.sums import steered_texts

SAES, CONTROL = "SAEs", "random dictionary"
FINDS, AS, WITH = "finds the steered text", "chooses as {}", "agrees with {} (kappa)"
COLUMNS = {
    "rater": pl.String, "what": pl.String, "of": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "p": pl.Float64, "n": pl.Int64, "features": pl.Int64, "neither": pl.Int64, "undecided": pl.Int64,
    "chance": pl.Float64, "by_hits": pl.Float64, "says": pl.String,
}  # fmt: skip
Pair = tuple[BlindTrial, str]


def agreement_of(trials: Sequence[BlindTrial], answers: Mapping[str, Answered]) -> pl.DataFrame:
    """A row per rater, comparison and group of trials, with the columns of `COLUMNS`. answers: by rater."""
    rows = list[dict[str, Any]]()
    known = {
        name: [(t, found.choices[t.key]) for t in trials if t.key in found.choices] for name, found in answers.items()
    }
    for name, pairs in known.items():
        scopes = {s: [(t, c) for t, c in pairs if holds(t)] for s, holds in _scopes(pairs).items()}
        rows += [_share(name, FINDS, s, own, lambda t: t.steered) for s, own in scopes.items() if own]
        for judge in sorted({judge for t, _ in pairs for judge in t.judges}):
            for scope in (SAES, CONTROL):
                if own := [(t, c) for t, c in scopes[scope] if judge in t.judges]:
                    rows.append(_share(name, AS.format(judge), scope, own, lambda t, j=judge: t.judges[j]))
    rows += [_raters(a, b, known) for a, b in combinations(known, 2)]
    return pl.DataFrame(rows, schema=COLUMNS)


def keep_agreement(run: RunFolder, trials: Sequence[BlindTrial], answers: Mapping[str, Answered]) -> None:
    """Write down what all answers come to, with the name of the texts that they are of, for the study's page."""
    run.human.agreement.write(agreement_of(trials, answers).with_columns(texts=pl.lit(steered_texts(run))))


def left_out(trials: Sequence[BlindTrial], answers: Mapping[str, Answered]) -> list[str]:
    """A sentence for every rater some of whose answers count for nothing."""
    there, said = {t.key for t in trials}, list[str]()
    for name, found in answers.items():
        if other := len(found.choices.keys() - there):
            said.append(f"{other} answers of {name} are of texts that this run no longer holds; they are left out.")
        if found.damaged:
            said.append(f"{found.damaged} lines of {name}'s answers are damaged; they are left out.")
    return said


def _scopes(pairs: Sequence[Pair]) -> dict[str, Callable[[BlindTrial], bool]]:
    arms = sorted({arm for trial, _ in pairs for arm in trial.arms})
    found: dict[str, Callable[[BlindTrial], bool]] = {SAES: lambda t: not t.control}
    found |= {f"foil: {f}": lambda t, f=f: not t.control and t.foil == f for f in (OTHER, NONE)}
    found |= {f"arm: {a}": lambda t, a=a: a in t.arms for a in arms}
    return found | {CONTROL: lambda t: t.control}


def _share(
    rater: str, what: str, scope: str, pairs: Sequence[Pair], right: Callable[[BlindTrial], str | None]
) -> dict[str, Any]:
    """How often the rater chose the side that is right, where both chose one."""
    chosen = [(t, c) for t, c in pairs if c in SIDES]
    both = [(t, c) for t, c in chosen if right(t) is not None]
    yes = np.array([c == right(t) for t, c in both], bool)
    found = share_estimate(yes, [(t.set, t.feature) for t, _ in both])
    by_hits = None
    if what != FINDS and both:
        p, q = np.mean([c == t.steered for t, c in both]), np.mean([right(t) == t.steered for t, _ in both])
        by_hits = float(p * q + (1 - p) * (1 - q))
    row = _row(found, EVEN) | {"rater": rater, "what": what, "of": scope, "by_hits": by_hits}
    row |= {"features": len({(t.set, t.feature) for t, _ in both}), "undecided": len(chosen) - len(both)}
    return row | {"neither": sum(c == "neither" for _, c in pairs)}


def _raters(a: str, b: str, known: Mapping[str, Sequence[Pair]]) -> dict[str, Any]:
    """Kappa of two raters over the trials of SAEs that both have answered: (o - e)/(1 - e), o the share of equal
    answers and e that of two with these shares of each answer, which the interval takes as known, as Cohen does.
    """
    other = {t.key: c for t, c in known[b]}
    both = [(t, c, other[t.key]) for t, c in known[a] if not t.control and "skip" not in (c, other.get(t.key, "skip"))]
    first, second = (np.array([pair[i] for pair in both], str) for i in (1, 2))
    found = share_estimate(first == second, [(t.set, t.feature) for t, *_ in both])
    if found.state == "ok":
        expected = float(sum((first == c).mean() * (second == c).mean() for c in (*SIDES, "neither")))
        ends = [(e - expected) / (1 - expected) if e is not None and expected < 1 else None for e in _ends(found)]
        state = "ok" if expected < 1 else "constant"
        found = replace(found, value=ends[0], low=ends[1], high=ends[2], p=None, state=state)
    row = _row(found, 0.0) | {"rater": a, "what": WITH.format(b), "of": SAES, "by_hits": None, "undecided": None}
    features = len({(t.set, t.feature) for t, *_ in both})
    return row | {"features": features, "neither": int((first == "neither").sum())}


def _ends(found: Estimate) -> tuple[float | None, ...]:
    return found.value, found.low, found.high


def _row(found: Estimate, chance: float) -> dict[str, Any]:
    says = "not told from chance"
    if found.state != "ok":
        says = found.state.replace("_", " ")
    elif found.low is not None and found.low > chance:
        says = "above chance"
    elif found.high is not None and found.high < chance:
        says = "below chance"
    return {k: getattr(found, k) for k in ("value", "low", "high", "p", "n")} | {"chance": chance, "says": says}
