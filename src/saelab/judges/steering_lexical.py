"""The `lexical` steering judge: the three rubrics from counts and the language model's own likelihoods.

A named proxy for offline use, never to be called a language model's opinion. With n the tokens of a text:

- concept: occurrences of the description's terms beyond what unsteered texts of n tokens hold, rounded, 0 to 2. A
  term counts by its weight relative to the heaviest one.
- instruction: relatedness r = (1/n) (log p(text | instruction) - log p(text | a neutral instruction)), pointwise mutual
  information per token. 0 up to what answers to *other* instructions reach (their 95 % quantile), 2 from what answers
  to the same instruction reach (their 25 % quantile), 1 between.
- fluency: mean NLL of the text after the neutral instruction, by the unedited model. 2 up to the 95 % quantile of
  unsteered answers, 0 from the 5 % quantile of the same answers with their words in random order, 1 between. A looping
  text has a low NLL, so the share of distinct bigrams caps the rating: 1 below the 5 % quantile of unsteered answers,
  0 below half of it.

All cuts come from a `Calibration` made once per language model from unsteered answers, and recorded. An empty text is
rated 0 on every rubric; a request without what its rubric reads is `missing`.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from saelab.core.classifiers import auroc
from saelab.core.config import Config
from saelab.core.errors import UserError
from saelab.core.progress import SILENT, Progress
from saelab.core.records import Description, Judgement
from saelab.core.seeds import numpy_generator
from saelab.judges.client import Request
from saelab.judges.rubric import rubric_of
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel

NAME = "lexical"
FEWEST = 8  # answers that the cuts can be taken from
NEUTRAL = "Write a short text."


class Calibration(Config):
    """Where the ratings are cut, and from what. `answers` are the unsteered texts that everything was measured on."""

    lm: str
    answers: tuple[str, ...]
    unrelated: float
    related: float
    relatedness_auroc: float
    fluent: float
    broken: float
    fluency_auroc: float
    distinct: float
    neutral: str = NEUTRAL


def calibrate(
    lm: LanguageModel,
    instructions: Sequence[str],
    *,
    max_new_tokens: int = 32,
    temperature: float | int = 1,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress = SILENT,
) -> Calibration:
    """Answer every instruction without steering and cut the ratings from those answers. At least eight are needed.

    The answers are sampled at `temperature` 1 by default: greedy answers are so likely that any change to a text would
    look broken beside them.
    """
    if len(instructions) < FEWEST:
        raise UserError(f"Calibrating the lexical judge needs at least {FEWEST} instructions, not {len(instructions)}.")
    prompts = [lm.chat(i) for i in instructions]
    answers = lm.generate(
        prompts,
        Sampling(max_new_tokens, temperature, seed),
        batch_size=batch_size,
        progress=progress,
    )
    kept = [(prompt, text) for prompt, text in zip(prompts, answers, strict=True) if len(_words(lm, text)) > 3]
    if len(kept) < FEWEST:
        raise UserError(f"Only {len(kept)} of {len(instructions)} answers of {lm.name} have more than 3 tokens.")
    texts = [text for _, text in kept]
    rng = numpy_generator(seed, "judges", "steering_lexical", "calibrate")
    jumbled = [" ".join(rng.permutation(text.split())) for text in texts]
    neutral = _mean_nll(lm, [lm.chat(NEUTRAL)] * 2 * len(texts), texts + jumbled)
    plain, broken = neutral[: len(texts)], neutral[len(texts) :]
    own = [prompt for prompt, _ in kept]
    turn = int(rng.integers(1, len(own)))
    given = _mean_nll(lm, own + own[turn:] + own[:turn], texts + texts)
    same, other = plain - given[: len(texts)], plain - given[len(texts) :]
    unrelated = float(np.quantile(other, 0.95))
    fluent = float(np.quantile(plain, 0.95))
    return Calibration(
        lm=lm.reference,
        answers=tuple(texts),
        unrelated=unrelated,
        related=max(unrelated, float(np.quantile(same, 0.25))),
        relatedness_auroc=_exceeds(same, other),
        fluent=fluent,
        broken=max(fluent, float(np.quantile(broken, 0.05))),
        fluency_auroc=_exceeds(broken, plain),
        distinct=float(np.quantile([distinct_bigrams(_words(lm, t)) for t in texts], 0.05)),
    )


class LexicalSteeringJudge:
    """Rates texts of one language model under the three steering rubrics."""

    def __init__(self, lm: LanguageModel, calibration: Calibration):
        self._lm, self._cuts = lm, calibration
        self._background = [_words(lm, text) for text in calibration.answers]
        self._terms = lru_cache(maxsize=4096)(self._variants)

    @property
    def name(self) -> str:
        return NAME

    def judge(self, requests: Sequence[Request], *, progress: Progress = SILENT) -> list[Judgement]:
        """One judgement per request, in order; equal questions are computed once."""
        texts = sorted({r.judged_text() for r in requests})
        words = {text: _words(self._lm, text) for text in texts}
        plain, given = self._likelihoods(requests, words, progress)
        answers = []
        for request in requests:
            rubric, text = rubric_of(request.task).name, request.judged_text()
            if (reason := _lacks(request)) is not None:
                answers.append(Judgement("missing", None, NAME, reason))
            elif not words[text]:
                answers.append(Judgement("ok", 0.0, NAME, "the text is empty"))
            elif rubric == "concept" and request.description is not None:
                excess = self.excess(words[text], request.description)
                answers.append(Judgement("ok", _rounded(excess), NAME, f"{excess:.2f} occurrences too many"))
            elif rubric == "instruction":
                related = plain[text] - given[request.instruction or "", text]
                value = float((related > self._cuts.unrelated) + (related >= self._cuts.related))
                answers.append(Judgement("ok", value, NAME, f"{related:.2f} nats per token of relatedness"))
            else:
                answers.append(self._fluency(plain[text], words[text]))
        return answers

    def excess(self, words: Sequence[str], description: Description) -> float:
        """Occurrences of the description's terms in a text, less those expected in an unsteered text of its length."""
        heaviest = max(term.weight for term in description.terms)
        terms: dict[tuple[str, ...], float] = {}
        for term in description.terms:
            for form in self._terms(term.text):
                terms[form] = max(terms.get(form, 0.0), term.weight / heaviest)
        expected = sum(occurrences(b, terms) for b in self._background) / sum(len(b) for b in self._background)
        return occurrences(words, terms) - expected * len(words)

    def _fluency(self, nll: float, words: Sequence[str]) -> Judgement:
        distinct = distinct_bigrams(words)
        value = 2 - (nll > self._cuts.fluent) - (nll >= self._cuts.broken)
        cap = 2 - (distinct < self._cuts.distinct) - (distinct < self._cuts.distinct / 2)
        why = f"{nll:.2f} nats per token, {distinct:.0%} of bigrams distinct"
        return Judgement("ok", float(min(value, cap)), NAME, why)

    def _likelihoods(
        self, requests: Sequence[Request], words: dict[str, list[str]], progress: Progress
    ) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
        """Mean NLL per token after the neutral instruction by text; after an instruction by (instruction, text)."""
        asked = [(r, r.judged_text()) for r in requests if r.task != "concept" and words[r.judged_text()]]
        texts = sorted({text for _, text in asked})
        pairs = sorted({(r.instruction, text) for r, text in asked if r.task == "instruction" and r.instruction})
        neutral = self._lm.chat(self._cuts.neutral)
        prefixes = [neutral] * len(texts) + [self._lm.chat(instruction) for instruction, _ in pairs]
        with progress.task("judging", total=len(prefixes), unit="texts") as task:
            nll = _mean_nll(self._lm, prefixes, texts + [text for _, text in pairs])
            task.advance(len(prefixes))
        return dict(zip(texts, nll.tolist(), strict=False)), dict(zip(pairs, nll[len(texts) :].tolist(), strict=True))

    def _variants(self, term: str) -> tuple[tuple[str, ...], ...]:
        """A term as words, tokenised as it stands, inside and at the start of a sentence, in lower case and capital."""
        bare = term.strip()
        spelt = {term, *(lead + form for lead in ("", " ") for form in (bare, bare.lower(), bare.capitalize()))}
        return tuple(sorted({tuple(_words(self._lm, form)) for form in spelt if form.strip() or form == term} - {()}))


def occurrences(words: Sequence[str], terms: Mapping[tuple[str, ...], float]) -> float:
    """Weights of the non-overlapping occurrences of terms, scanned from the left, the longest term first."""
    lengths = sorted({len(t) for t in terms}, reverse=True)
    count, place = 0.0, 0
    while place < len(words):
        step = next((n for n in lengths if tuple(words[place : place + n]) in terms), 0)
        count += terms[tuple(words[place : place + step])] if step else 0.0
        place += step or 1
    return count


def distinct_bigrams(words: Sequence[str]) -> float:
    """Share of bigrams that are distinct, in (0, 1]; 1 for a text of fewer than two tokens."""
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def _words(lm: LanguageModel, text: str) -> list[str]:
    """Tokens of a text without case and outer blanks: a term matches at the start of a sentence as inside it."""
    tokens = lm.token_texts(lm.tokenize([text], bos=False)[0])
    return [t.strip().lower() or t for t in tokens]


def _mean_nll(lm: LanguageModel, prefixes: list[list[int]], texts: Sequence[str]) -> np.ndarray:
    """Mean NLL per token of each text after its prefix, in nats, by the unedited model."""
    ids = lm.tokenize(list(texts), bos=False)
    return np.array([float(nll.float().mean()) for nll in lm.nll(prefixes, ids)])


def _rounded(excess: float) -> float:
    return float(min(2, max(0, int(np.floor(excess + 0.5)))))


def _lacks(request: Request) -> str | None:
    reads = rubric_of(request.task).reads
    if reads == "concept" and (request.description is None or not request.description.terms):
        return "the description has no terms"
    if reads == "instruction" and not request.instruction:
        return "the request has no instruction"
    return None


def _exceeds(high: np.ndarray, low: np.ndarray) -> float:
    """P(a draw of `high` > one of `low`), ties counting half."""
    return auroc(np.concatenate([high, low]), np.arange(high.size + low.size) < high.size)
