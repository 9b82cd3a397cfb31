"""Feature cards: which features are shown, by rule and not by hand, and what stands on each card.

The rule (said on the page): features that are interpretable and steer, that are interpretable and are not seen to, that
steer and are not interpretable, and some drawn at random, so that a reader sees failures as well as successes. A label
comes from thresholds, never from a rank, and how often random dictionaries' features meet that of steering is said
beside it. Where the gate did not pass no card says that a feature steers. Pure functions of frames; text stays as the
artefacts have it, escaping is the template's work.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from saelab.core.errors import ArtefactError
from saelab.core.seeds import numpy_generator
from saelab.instrument.readers import HEADLINE
from saelab.report import words
from saelab.report.cells import TableCell, figure, missing
from saelab.report.material import Evidence
from saelab.report.names import Names
from saelab.steering.methods import RANDOM_DIRECTION, SAE_FEATURE, UNSTEERED

# From which balanced accuracy a feature is called interpretable, and up to which it is called not.
CLEAR, UNCLEAR = 0.75, 0.6
# From which mean percentile and lift of its texts a feature is said to steer; up to which percentile it is not seen to.
STEERS, SPECIFIC, UNSEEN = 0.9, 0.5, 0.5
_CLEAR, _UNCLEAR = pl.col("balanced_accuracy") >= CLEAR, pl.col("balanced_accuracy") <= UNCLEAR
_STEERS = (pl.col("percentile") >= STEERS) & (pl.col("lift") >= SPECIFIC)
AT_RANDOM = "drawn at random"
# (reason shown, how many, which features, the column that orders them)
RULES = (
    ("interpretable and steers", 4, _CLEAR & _STEERS, "lift"),
    ("interpretable, not seen to steer", 2, _CLEAR & (pl.col("percentile") <= UNSEEN), "balanced_accuracy"),
    ("steers, not interpretable", 2, _UNCLEAR & _STEERS, "lift"),
)
# Where nothing was seen to steer: what can be said of a feature.
UNGATED = (
    ("interpretable", 4, _CLEAR, "balanced_accuracy"),
    ("not interpretable", 2, _UNCLEAR, "balanced_accuracy"),
)
MANY = 10
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
    scores: tuple[tuple[str, TableCell], ...]


@dataclass(frozen=True)
class PromptTexts:
    """One prompt with the unsteered text and the texts steered with it. kind: how the prompt is called."""

    instruction: str
    texts: tuple[Text, ...]
    kind: str = "Instruction"


@dataclass(frozen=True)
class FeatureCard:
    """Everything on a card. `title` is the description; `absent` names what the run has nothing of."""

    pick: Pick
    title: str
    scores: tuple[tuple[str, TableCell], ...]
    contexts: tuple[Context, ...]
    promoted: tuple[str, ...]
    trials: tuple[PromptTexts, ...]
    absent: tuple[str, ...]


def choose(candidates: pl.DataFrame, *, gated: bool) -> list[Pick]:
    """Up to ten features by rule, at most two of one SAE where there are enough; descriptions are not repeated.

    candidates: sae, feature, description, balanced_accuracy, percentile, lift (null where not steered). gated: whether
    the gate passed and SAEs exceed a random dictionary, without which nothing is said to steer. What no feature meets
    is not shown; features drawn at random make up for it.
    """
    table = candidates.unique(["sae", "feature"], keep="first").sort("sae", "feature")
    picks: list[Pick] = []
    for reason, count, rule, column in RULES if gated else UNGATED:
        ranked = table.filter(rule).sort(column, "sae", "feature", descending=[True, False, False])
        _take(picks, ranked, reason, count)
    steered = table.drop_nulls("percentile")
    _take(picks, _shuffled(steered if steered.height else table, 0), AT_RANDOM, MANY - len(picks))
    return picks


def rate(table: pl.DataFrame | None) -> float | None:
    """The share of features (with columns percentile and lift) that meet what "steers" asks for."""
    known = None if table is None else table.drop_nulls(["percentile", "lift"])
    return None if known is None or not known.height else known.filter(_STEERS).height / known.height


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


def make(pick: Pick, evidence: Evidence, names: Names) -> FeatureCard:
    """The card of one feature from its SAE's artefacts."""
    feature = _row(evidence.features, pick.feature) or {}
    effects = _row(evidence.effects, pick.feature) or {}
    terms = [t["text"] for t in feature.get("terms") or [] if t and t.get("text")]
    contexts = tuple(_contexts(evidence.contexts, pick.feature))
    trials = tuple(_seen(evidence, pick.feature, terms)) or tuple(_trials(evidence, pick.feature, terms))
    absent = {"contexts": not contexts, "effects": not effects, "steered text": not trials}
    return FeatureCard(
        pick=pick,
        title=feature.get("description") or "no description",
        scores=tuple(_scores(feature, effects, evidence, pick.feature, names)),
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


def _scores(
    feature: dict, effects: dict, evidence: Evidence, number: int, names: Names
) -> Iterable[tuple[str, TableCell]]:
    state = words.reason(feature.get("state"), "windows")
    yield "balanced accuracy", figure(feature.get("balanced_accuracy"), why=state)
    yield "AUROC", figure(feature.get("auroc"), why=state)
    density = words.finite(feature.get("density"))
    yield "fires on", missing(state) if density is None else TableCell(words.percent(density, 2), "of tokens")
    for criterion in dict.fromkeys(names.arms[arm].get("by") for arm in names.arms_of("chosen")):
        yield names.variable(str(criterion)), figure(effects.get(criterion), why="no effect was computed")
    for row in _outcomes(evidence.outcomes, number):
        why = words.reason(row["state"], "texts")
        note = "" if row["lift"] is None else f"lift {words.number(row['lift'], signed=True)}"
        yield words.label(row["outcome"]), figure(row["percentile"], note=note, why=why)
    utility = _utility(evidence.utility, number)
    if utility:
        lost = int(utility.get("n_missing") or 0)
        note = "of 2, held-out" + (f"; missing ({lost}): no judgement" if lost else "")
        why = words.reason(utility.get("state"))
        yield "rating", figure(utility.get("test_score"), note=note, why=why, n=max(lost, 1))


def _outcomes(table: pl.DataFrame | None, feature: int) -> list[dict[str, Any]]:
    """A feature's row of each outcome."""
    found = None if table is None else table.filter(pl.col("feature") == feature)
    return [] if found is None else found.unique("outcome", keep="first", maintain_order=True).to_dicts()


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


def _seen(evidence: Evidence, feature: int, terms: Sequence[str]) -> Iterable[PromptTexts]:
    """A feature's prompts in the instrument: a text without steering, and its own with what its reader makes of it."""
    table, rows = evidence.readings, _outcomes(evidence.outcomes, feature)
    if table is None or not rows:
        return
    strength, share = (words.finite(rows[0][c]) for c in ("strength", "share"))
    moved = "" if strength is None or share is None else f", {words.adaptive(strength)} ({words.number(share)} of norm)"
    mine = table.filter(pl.col("feature") == feature)
    for (prompt, answer), own in mine.group_by("prompt", "answer", maintain_order=True):
        plain = table.filter((pl.col("feature") < 0) & (pl.col("prompt") == prompt)).sort("copy").head(1)
        texts = [Text("Unsteered", tuple(marked(t, terms)), ()) for t in plain["text"]]
        for row in own.sort("copy").iter_rows(named=True):
            scores = (
                ("percentile under its reader", figure(row[HEADLINE], why="the text is empty")),
                ("lift", figure(row[f"{HEADLINE}_lift"], why="no score")),
            )
            texts.append(Text(f"Steered{moved}", tuple(marked(row["text"], terms)), scores))
        yield PromptTexts(str(prompt), tuple(texts), "Instruction" if answer else "Opening")


def _trials(evidence: Evidence, feature: int, terms: Sequence[str]) -> Iterable[PromptTexts]:
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
        yield PromptTexts(row["instruction"], tuple(_text(t, r, evidence.judgements, terms) for t, r in shown))


def _text(title: str, row: dict, judgements: pl.DataFrame | None, terms: Sequence[str]) -> Text:
    return Text(title, tuple(marked(row["text"], terms)), tuple(_judged(judgements, row["generation"])))


def _judged(judgements: pl.DataFrame | None, generation: int | str) -> Iterable[tuple[str, TableCell]]:
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
