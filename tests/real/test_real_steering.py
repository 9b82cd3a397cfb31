"""Steering SmolLM2 for real: a useful strength shows the concept in readable text, a strong one breaks it."""

import numpy as np
import pytest
import torch

from saelab.core.records import Description, Term
from saelab.judges.client import Request
from saelab.judges.rubric import harmonic_mean
from saelab.judges.steering_lexical import LexicalSteeringJudge, calibrate
from saelab.lm.generate import Sampling
from saelab.lm.model import LanguageModel
from saelab.steering.batch import AnswerJob, write
from saelab.steering.concepts.detection import detect, direction_scores
from saelab.steering.concepts.directions.diff_means import diff_means
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.examples import Examples, Pair, read
from saelab.steering.directions.equal_norm import equal_norm_direction
from saelab.text.instructions import load_instructions

pytestmark = pytest.mark.real
SITE = "resid_post.15"
SEA = """The ship sailed across the ocean while waves broke over the deck.
Sailors watched the tide and the harbour from the beach.
Fish and whales swim in the deep blue sea near the coast.
A storm at sea tore the sails of the boat.
The island lies far out in the ocean, and boats reach it at high tide.
Gulls cried over the harbour as the waves rolled onto the beach.
The captain steered the ship between the reef and the shore.
Salt water and sea wind filled the cabin of the boat.
The coast was lined with fishing boats waiting for the tide.
Divers found the wreck of a ship on the ocean floor.""".splitlines()
LAND = """The teacher explained the lesson and gave the class a test.
Bakers mix flour and yeast and let the dough rest.
The committee met on Monday to discuss the budget.
A train left the station ten minutes late.
The doctor asked the patient about her medicine.
Engineers tested the engine in a workshop near the city.
The farmer ploughed the field before the rain came.
Children played chess in the library after school.
The lawyer wrote a letter about the contract.
A programmer fixed the error in the code before lunch.""".splitlines()
WORDS = "sea ocean ship boat waves tide beach harbour coast island sail fish water"
CONCEPT = Description("the sea and ships", tuple(Term(f" {w}", 1.0) for w in WORDS.split()))
UNSEEN = (
    "The boat reached the shore.", "Waves hit the ship.", "Fish live in the sea.",
    "She read a book.", "The office was closed.", "He cooked rice.",
)  # fmt: skip
FACTORS = (0.1, 0.6, 0.9, 5.0)


@pytest.fixture(scope="module")
def lm(smollm: LanguageModel) -> LanguageModel:
    return smollm


@pytest.fixture(scope="module")
def examples(lm: LanguageModel) -> Examples:
    pairs = [Pair("Write a sentence.", text) for text in SEA + LAND]
    positive = np.arange(20) < 10
    return Examples(lm, SITE, "the sea", tuple(pairs), read(lm, SITE, pairs), torch.from_numpy(positive))


def test_the_judge_can_tell_what_it_claims_to(lm: LanguageModel) -> None:
    """Its calibration separates own from foreign answers and texts from jumbled texts, and its cuts are in order."""
    cuts = calibrate(lm, load_instructions()[:16], max_new_tokens=24)
    assert cuts.relatedness_auroc > 0.9 and cuts.fluency_auroc > 0.9
    assert cuts.unrelated < cuts.related and cuts.fluent < cuts.broken


def test_a_difference_in_means_detects_and_steers(lm: LanguageModel, examples: Examples) -> None:
    """Detection on unseen texts; steering brackets: too weak, useful (better than a random direction), broken."""
    direction = diff_means(examples, Fitting())
    fresh = read(lm, SITE, [Pair("Write a sentence.", t) for t in UNSEEN])
    kinds = ["positive" if t in UNSEEN[:3] else "negative" for t in UNSEEN]
    assert detect(direction_scores(direction, fresh), kinds).auroc_easy == 1.0
    judge = LexicalSteeringJudge(lm, calibrate(lm, load_instructions()[:16], max_new_tokens=24))
    control = equal_norm_direction(direction, seed=0)
    asked = load_instructions()[16:24]
    jobs = [AnswerJob(i, d, f, 0) for d in (direction, control) for f in FACTORS for i in asked]
    texts = write(lm, jobs, sampling=Sampling(24))
    rubrics = ("concept", "instruction", "fluency")
    rated = [(job.instruction, text.text) for job, text in zip(jobs, texts, strict=True)]
    requests = [Request(r, text, (), CONCEPT, instruction) for instruction, text in rated for r in rubrics]
    ratings = np.array([a.value for a in judge.judge(requests)]).reshape(2, len(FACTORS), len(asked), 3)
    score = np.array([[[harmonic_mean(list(t)) for t in f] for f in d] for d in ratings]).mean(-1)
    concept, fluency = ratings[..., 0].mean(-1), ratings[..., 2].mean(-1)
    report = f"concept {concept[0]}, fluency {fluency[0]}, score {score[0]}, control {score[1]}"
    assert concept[0, :3].max() >= 1, report
    assert concept[0, 0] < concept[0, :3].max(), report
    assert fluency[0, 0] >= 1.3 and fluency[0, -1] <= 0.5, report
    assert score[0].max() > 2 * score[1].max(), report
    assert score[0].argmax() in (1, 2), report
