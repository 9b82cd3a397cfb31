"""Feature cards: which ten features are shown, by rule and not by hand, and what stands on each card.

The rule (said on the page): features that are interpretable and steer, that are interpretable and do not steer, that
steer and are not interpretable, and some drawn at random, so that a reader sees failures as well as successes.
"Interpretable" and "steers" are ranks of balanced accuracy and of the held-out steering score among all features that
have both. Pure functions of frames; text stays as the artefacts have it, escaping is the template's work.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from saelab.core.errors import ArtefactError
from saelab.core.seeds import numpy_generator
from saelab.report import words
from saelab.report.cells import Cell, figure, missing
from saelab.report.material import Evidence
from saelab.report.names import Names
from saelab.steering.methods import RANDOM_DIRECTION, SAE_FEATURE, UNSTEERED

# (reason shown, how many, the column to rank by; None = a seeded draw)
RULES = (
    ("interpretable and steers", 4, "both"),
    ("interpretable, does not steer", 2, "interpretable_only"),
    ("steers, not interpretable", 2, "steers_only"),
    ("drawn at random", 2, None),
)
PER_SAE = 2
CONTEXTS, BEFORE, AFTER = 4, 22, 14
RUBRICS = ("concept", "instruction", "fluency")


@dataclass(frozen=True)
class Pick:
    """A feature to show, and why."""

    sae: str
    feature: int
    reason: str


@dataclass(frozen=True)
class Token:
    """A token as it reads in text, its activation as a share of the largest one shown, and whether it is the peak."""

    text: str
    share: float
    peak: bool = False


@dataclass(frozen=True)
class Context:
    """A stretch of text round a peak; `cut_start` and `cut_end` say that there is more."""

    tokens: tuple[Token, ...]
    activation: str
    cut_start: bool
    cut_end: bool


@dataclass(frozen=True)
class Text:
    """A generated text in pieces (text, is a term of the description), with its judgements."""

    title: str
    pieces: tuple[tuple[str, bool], ...]
    scores: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Trial:
    """One instruction with the unsteered text and the texts steered with it."""

    instruction: str
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Card:
    """Everything on a card. `title` is the description; `absent` names what the run has nothing of."""

    pick: Pick
    title: str
    scores: tuple[tuple[str, Cell], ...]
    contexts: tuple[Context, ...]
    promoted: tuple[str, ...]
    trials: tuple[Trial, ...]
    absent: tuple[str, ...]


def choose(candidates: pl.DataFrame, seed: int = 0) -> list[Pick]:
    """Ten features by `RULES`, at most two of one SAE where there are enough; descriptions are not repeated.

    candidates: sae, feature, description, balanced_accuracy, test_score (null where not steered).
    """
    table = candidates.unique(["sae", "feature"], keep="first").sort("sae", "feature")
    both = table.drop_nulls(["balanced_accuracy", "test_score"])
    pool = _ranked(both) if both.height else table.with_columns(pl.lit(0.0).alias("both"))
    picks: list[Pick] = []
    for reason, count, column in RULES if both.height else (("drawn at random", 10, None),):
        order = (
            _shuffled(pool, seed)
            if column is None
            else pool.sort(column, "sae", "feature", descending=[True, False, False])
        )
        _take(picks, order, reason, count)
    return picks


def _ranked(table: pl.DataFrame) -> pl.DataFrame:
    """Ranks as shares in (0, 1]: the smaller of the two, and their differences."""
    interp, steer = (pl.col(c).rank("average") / table.height for c in ("balanced_accuracy", "test_score"))
    return table.with_columns(
        pl.min_horizontal(interp, steer).alias("both"),
        (interp - steer).alias("interpretable_only"),
        (steer - interp).alias("steers_only"),
    )


def _shuffled(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    return table[numpy_generator(seed, "report", "cards").permutation(table.height).tolist()]


def _take(picks: list[Pick], order: pl.DataFrame, reason: str, count: int) -> None:
    """Append the first `count` rows that keep to the rules; the rules give way when nothing else is left."""
    described = {(r["sae"], r["feature"]): r["description"] for r in order.iter_rows(named=True)}
    told = {described.get((p.sae, p.feature)) for p in picks}
    wanted = len(picks) + count
    for strict in (True, False):
        for (sae, feature), description in described.items():
            if len(picks) >= wanted:
                return
            if any((p.sae, p.feature) == (sae, feature) for p in picks):
                continue
            if strict and (sum(p.sae == sae for p in picks) >= PER_SAE or description in told):
                continue
            picks.append(Pick(sae, feature, reason))
            told.add(description)


def make(pick: Pick, evidence: Evidence, names: Names) -> Card:
    """The card of one feature from its SAE's artefacts."""
    feature = _row(evidence.features, pick.feature) or {}
    effects = _row(evidence.effects, pick.feature) or {}
    terms = [t["text"] for t in feature.get("terms") or [] if t and t.get("text")]
    contexts = tuple(_contexts(evidence.contexts, pick.feature))
    trials = tuple(_trials(evidence, pick.feature, terms))
    absent = {"contexts": not contexts, "effects": not effects, "steered text": not trials}
    return Card(
        pick=pick,
        title=feature.get("description") or "no description",
        scores=tuple(_scores(feature, effects, _utility(evidence.utility, pick.feature), names)),
        contexts=contexts,
        promoted=tuple(effects.get("top_tokens") or ())[:10],
        trials=trials,
        absent=tuple(name for name, gone in absent.items() if gone),
    )


def _row(table: pl.DataFrame | None, feature: int) -> dict[str, Any] | None:
    found = None if table is None else table.filter(pl.col("feature") == feature)
    return None if found is None or not found.height else found.row(0, named=True)


def _utility(table: pl.DataFrame | None, feature: int) -> dict[str, Any]:
    return (None if table is None else _row(table.filter(pl.col("method") == SAE_FEATURE), feature)) or {}


def _scores(feature: dict, effects: dict, utility: dict, names: Names) -> Iterable[tuple[str, Cell]]:
    state = words.reason(feature.get("state"), "windows")
    steered = words.reason(utility.get("state")) if utility else "not steered"
    lost = int(utility.get("n_missing") or 0)
    yield "balanced accuracy", figure(feature.get("balanced_accuracy"), why=state)
    yield "AUROC", figure(feature.get("auroc"), why=state)
    density = words.finite(feature.get("density"))
    yield "fires on", missing(state) if density is None else Cell(words.percent(density, 2), "of tokens")
    for criterion in dict.fromkeys(names.arms[arm].get("by") for arm in names.arms_of("chosen")):
        yield names.variable(str(criterion)), figure(effects.get(criterion), why="no effect was computed")
    note = "of 2, held-out" + (f"; missing ({lost}): no judgement" if lost else "")
    yield "steering score", figure(utility.get("test_score"), note=note, why=steered, n=max(lost, 1))


def _contexts(table: pl.DataFrame | None, feature: int) -> Iterable[Context]:
    if table is None:
        return
    found = table.filter(pl.col("feature") == feature).sort("rank").head(CONTEXTS)
    heights = [[words.finite(a) or 0.0 for a in row] for row in found["activations"].to_list()]
    largest = max((max(h, default=0.0) for h in heights), default=0.0) or 1.0
    for row, height in zip(found.iter_rows(named=True), heights, strict=True):
        tokens, peak = row["tokens"], row["peak"]
        if not 0 <= peak < len(tokens) or len(height) != len(tokens):
            raise ArtefactError(f"A context of feature {feature} has {len(tokens)} tokens, {len(height)} activations.")
        start, end = max(0, peak - BEFORE), min(len(tokens), peak + AFTER + 1)
        shown = tuple(Token(tokens[i], max(0.0, height[i] / largest), i == peak) for i in range(start, end))
        yield Context(shown, words.number(height[peak], 1), start > 0, end < len(tokens))


def _trials(evidence: Evidence, feature: int, terms: Sequence[str]) -> Iterable[Trial]:
    """The held-out instructions of a feature, in their order: unsteered, steered at its factor, control at its own."""
    texts, factor = evidence.generations, _utility(evidence.utility, feature).get("factor")
    if texts is None or factor is None:
        return
    test = texts.filter(pl.col("split") == "test").sort("instruction_id", "generation")
    mine = pl.col("feature") == feature
    own = test.filter(mine & (pl.col("method") == SAE_FEATURE) & (pl.col("factor") == factor))
    for row in own.unique("instruction_id", keep="first", maintain_order=True).iter_rows(named=True):
        same = test.filter(pl.col("instruction_id") == row["instruction_id"])
        plain = same.filter(pl.col("method") == UNSTEERED).sort(mine.not_(), maintain_order=True).head(1)
        control = same.filter((pl.col("method") == RANDOM_DIRECTION) & mine).head(1)
        shown = [("Unsteered", r) for r in plain.iter_rows(named=True)] + [(f"Steered, factor {factor:g}", row)]
        shown += [(f"Random direction, factor {r['factor']:g}", r) for r in control.iter_rows(named=True)]
        yield Trial(row["instruction"], tuple(_text(t, r, evidence.judgements, terms) for t, r in shown))


def _text(title: str, row: dict, judgements: pl.DataFrame | None, terms: Sequence[str]) -> Text:
    return Text(title, tuple(marked(row["text"], terms)), tuple(_judged(judgements, row["generation"])))


def _judged(judgements: pl.DataFrame | None, generation: int | str) -> Iterable[tuple[str, Cell]]:
    if judgements is None:
        return
    found = judgements.filter(pl.col("generation") == generation)
    for rubric in RUBRICS:
        for row in found.filter(pl.col("rubric") == rubric).head(1).iter_rows(named=True):
            why = row.get("reason") or words.reason(row["state"])
            yield rubric, figure(row["value"] if row["state"] == "ok" else None, 1, why=why)


def marked(text: str, terms: Sequence[str]) -> list[tuple[str, bool]]:
    """Split a text where it holds one of the terms as whole words (any case): pieces with True are terms."""
    known = sorted({t.strip() for t in terms if len(t.strip()) > 1}, key=len, reverse=True)
    if not known:
        return [(text, False)]
    pattern = "|".join(rf"(?<!\w){re.escape(t)}(?!\w)" for t in known)
    pieces, at = [], 0
    for match in re.finditer(pattern, text, re.IGNORECASE):
        pieces += [(text[at : match.start()], False), (match.group(), True)]
        at = match.end()
    return [p for p in [*pieces, (text[at:], False)] if p[0]]
