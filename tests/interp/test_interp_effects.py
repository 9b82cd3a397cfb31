"""Fuzzing, intervention and local unlearning: planted answers with their controls."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from test_interp_core import drawn, sae_of
from torch import Tensor

from saelab.activations.site import SitePass
from saelab.core.records import Description, Term
from saelab.interp.features.codes import Codes, gather_codes
from saelab.interp.features.detection import detect
from saelab.interp.features.fuzzing import fuzzing_trials
from saelab.interp.features.intervention import InterventionConfig, turned_up
from saelab.interp.features.windows import Passages, WindowConfig, WindowFinder
from saelab.interp.suite import intervention, unlearning
from saelab.interp.suite.judged import judged
from saelab.interp.suite.result import Result
from saelab.interp.suite.unlearning import UnlearningConfig, clamped, corpora, rank
from saelab.judges.client import Judge, Request
from saelab.judges.lexical import LexicalJudge
from saelab.judges.marks import FUZZING, marked, unmarked
from saelab.judges.prompts import questions_of
from saelab.judges.scripted import ScriptedJudge, always
from saelab.lm.model import LanguageModel
from saelab.lm.tiny import tiny_lm
from saelab.saes.base import Sae

STRINGS = [f" w{i}" for i in range(20)]
D = 32


def passages(n: int = 60, length: int = 40) -> Passages:
    """Words without end; every context is a document of its own."""
    tokens = np.random.default_rng(0).integers(0, 20, size=(n, length))
    return Passages(tokens, np.repeat(np.arange(n)[:, None], length, 1))


def codes_of(tokens: np.ndarray, word: int) -> Codes:
    """One feature that fires at one word."""
    return gather_codes(
        [(torch.from_numpy((tokens.reshape(-1) == word).astype(np.float32))[:, None], np.arange(tokens.size))]
    )


def fuzzed(codes: Codes, finder: WindowFinder, told: Mapping[int, Description], judge: Judge) -> Result:
    trials = list(fuzzing_trials(codes, finder, STRINGS, told, 0))
    return judged("fuzzing", detect(trials, judge, task=FUZZING), {})


def test_fuzzing_knows_the_place_and_not_only_the_text() -> None:
    text = passages()
    finder = WindowFinder.over(text, WindowConfig(radius=5, least_active=2))
    codes = codes_of(text.tokens, 3)
    right, wrong = ({0: Description("d", (Term(w, 0.9),))} for w in (" w3", " w7"))
    score = fuzzed(codes, finder, right, LexicalJudge()).metrics["fuzzing"]
    assert score["fuzzing_auroc"] == 1 and score["fuzzing_balanced_accuracy"] == 1 and score["n_latents"] == 1
    # the wrong word stands in many of these texts, but not at the marks
    other = fuzzed(codes, finder, wrong, LexicalJudge()).metrics["fuzzing"]["fuzzing_auroc"]
    assert other is not None and other <= 0.5
    none = fuzzed(codes, finder, right, always(0)).metrics["fuzzing"]
    assert none["fuzzing_auroc"] == 0.5 and none["fuzzing_balanced_accuracy"] == 0.5
    down = fuzzed(codes, finder, right, ScriptedJudge(lambda _: "down"))
    assert down.metrics["fuzzing"]["fuzzing_auroc"] is None and (down.metrics["fuzzing"]["n_missing"] or 0) > 0


def test_marks_go_on_and_come_off_and_are_asked_about() -> None:
    tokens = ("<<", "a", ">>", " b")
    made = marked(tokens, [False, True, False, True])
    assert made == ("<<", "<<a>>", ">>", "<< b>>") and unmarked(made) == (tokens, (False, True, False, True))
    request = Request(FUZZING, tokens=made, description=Description("d"))
    (question,), unasked = questions_of([request], "x")
    assert "<<a>>" in question.prompt and "in << >>" in question.prompt and not unasked
    assert [j.value for j in question.read("Active: [[1]]")] == [1.0]


def intervened(
    lm: LanguageModel,
    sae: Sae,
    told: Mapping[int, Description],
    largest: Mapping[int, float],
    judge: Judge,
    config: InterventionConfig,
) -> Result:
    return judged("intervention", turned_up(lm, "resid_post.1", sae, told, largest, judge=judge, config=config), {})


def test_a_feature_that_writes_its_word_scores_and_another_description_does_not() -> None:
    lm = tiny_lm()
    sae = sae_of(torch.nn.functional.normalize(drawn(8, D), dim=1), k=2)
    config = intervention.PRESETS["tiny"].model_copy(update={"strength": 50.0, "max_new_tokens": 6})
    said: list[tuple[str, ...]] = []

    def note(request: Request) -> float:
        said.append(request.tokens)
        return 0.0

    told = {0: Description("d", (Term("x", 1.0),))}
    nothing = intervened(lm, sae, told, {0: 1.0}, ScriptedJudge(note), config)
    assert nothing.metrics["intervention"]["intervention_auroc"] == 0.5
    steered, plain = set(said[0]) | set(said[1]), set(said[2]) | set(said[3])
    own = sorted(steered - plain)
    assert own, "the edit changed nothing"
    told = {0: Description("d", tuple(Term(t, 1.0) for t in own))}
    known = intervened(lm, sae, told, {0: 1.0}, LexicalJudge(), config)
    assert (known.metrics["intervention"]["intervention_auroc"] or 0) > 0.7
    dead = intervened(lm, sae, told, {0: 0.0}, LexicalJudge(), config)
    assert dead.metrics["intervention"]["intervention_auroc"] is None and dead.reason


class Linear:
    """A model whose next-token logits are the site's activations themselves: token i has direction i."""

    def run_to(self, tokens: Tensor, sites: Sequence[str]) -> Mapping[str, Tensor]:
        raise AssertionError("texts were read already")

    def run_from(self, hidden: Tensor, site: str) -> Tensor:
        return hidden


def topics() -> tuple[SitePass, SitePass]:
    """Tokens follow each other by +1; the topic uses tokens 0 to 15, the rest 16 to 31. x foretells the next token."""

    def some(low: int) -> SitePass:
        tokens = low + (torch.arange(12)[:, None] + torch.arange(20)[None]) % 16
        following = low + (tokens - low + 1) % 16
        every = torch.ones_like(tokens).bool()
        return SitePass("s", tokens, 4 * torch.nn.functional.one_hot(following, D).float(), every, every, 4)

    return some(0), some(16)


def test_unlearning_takes_the_topic_and_leaves_the_rest() -> None:
    forget, retain = topics()
    lm, config = Linear(), UnlearningConfig(n_features_list=(16,), multipliers=(1.0,), retain_thresholds=(0.01,))
    texts = corpora(lm, forget, retain)
    oracle = unlearning.evaluate(lm, texts, sae_of(torch.eye(D), k=4), config).metrics["unlearning_local"]
    assert (oracle["unlearning_local_score"] or 0) > 1 and oracle["n_settings_allowed"] == 1
    # latents that mix the two topics fire on both and are not allowed
    mixed = torch.nn.functional.normalize(torch.eye(D) + torch.eye(D).roll(16, 0), dim=1)
    poor = unlearning.evaluate(lm, texts, sae_of(mixed, k=D), config)
    assert poor.metrics["unlearning_local"]["unlearning_local_score"] == 0 and poor.reason
    assert poor.metrics["unlearning_local"]["largest_forget_rise"] is None


def test_ranking_and_clamping() -> None:
    density, elsewhere = torch.tensor([0.5, 0.9, 0.7, 0.0]), torch.tensor([0.0, 0.5, 0.001, 0.0])
    assert rank(density, elsewhere, 0.01, 10).tolist() == [2, 0] and rank(density, elsewhere, 0.01, 1).tolist() == [2]
    sae = sae_of(torch.eye(D), k=4)
    x = torch.zeros(2, D)
    x[0, 3], x[0, 5] = 2.0, 1.0
    out = clamped(sae, torch.tensor([3]), torch.tensor([7.0]))(x)
    assert out[0, 3] == -7 and out[0, 5] == 1 and not out[1].any()
