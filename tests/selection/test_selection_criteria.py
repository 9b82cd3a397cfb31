"""Every criterion of the catalogue against the textbook formula, its invariances, and controls that must differ."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr
from scipy.stats import kurtosis, skew

from saelab.core.errors import UserError
from saelab.selection.criteria.catalogue import CRITERIA, criteria_of, that_read
from saelab.selection.criteria.concept_lift import concept_lift
from saelab.selection.criteria.delta_confidence import delta_confidence
from saelab.selection.criteria.input_score import input_score
from saelab.selection.criteria.lens_moments import Lens
from saelab.selection.criteria.observation import ConceptTokens, NextToken, Observation
from saelab.selection.criteria.output_score import output_score
from saelab.selection.criteria.random_control import blind_score

V, B, L = 500, 7, 20


def observation(seed: int = 0, *, spread: float = 4.0, k: int = 1, moved: bool = True) -> Observation:
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(1, V, generator=g) * spread
    steered = base + (torch.randn(B, V, generator=g) * 2 if moved else torch.zeros(B, V))
    top = torch.stack([torch.randperm(V, generator=g)[:L] for _ in range(B)])
    inside = torch.tensor([[1, 2, -1]] * B)
    outside = torch.tensor([[3, 4, 5, 6]] * B)
    return Observation(NextToken(base), NextToken(steered), top, k, ConceptTokens(inside, outside))


def textbook(name: str, base: np.ndarray, steered: np.ndarray, top: np.ndarray, k: int) -> float:
    """The criterion of one feature by its definition, in float64; `base` and `steered` are log probabilities."""
    p, q = np.exp(base), np.exp(steered)

    def place(logp: np.ndarray) -> float:
        order = np.argsort(-logp, kind="stable")
        rank = {int(t): r for r, t in enumerate(order)}
        best = min(top, key=lambda t: rank[int(t)])
        return (1 - rank[int(best)] / V) * float(np.exp(logp[best]))

    def certainty(logp: np.ndarray) -> float:
        return -float(np.sort(logp)[::-1][:k].mean())

    return {
        "delta_confidence": lambda: certainty(steered) - certainty(base),
        "output_score": lambda: place(steered),
        "output_score_paper": lambda: place(steered) - place(base),
        "kl": lambda: rel_entr(p, q).sum(),
        "kl_reverse": lambda: rel_entr(q, p).sum(),
        "js": lambda: (rel_entr(p, (p + q) / 2).sum() + rel_entr(q, (p + q) / 2).sum()) / 2,
        "entropy_change": lambda: -(q * steered).sum() + (p * base).sum(),
        "concept_lift": lambda: (steered - base)[[1, 2]].mean() - (steered - base)[[3, 4, 5, 6]].mean(),
    }[name]()


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", that_read("effect", "concept"))
def test_each_criterion_is_its_definition(name: str, k: int) -> None:
    seen = observation(k=k)
    found = CRITERIA[name].score(seen)
    base = log_softmax(seen.base.logits[0].double().numpy())
    for row in range(B):
        steered = log_softmax(seen.steered.logits[row].double().numpy())
        expected = textbook(name, base, steered, seen.lens_top[row].numpy(), k)
        assert float(found[row]) == pytest.approx(expected, abs=1e-5, rel=1e-5)


@pytest.mark.parametrize("name", that_read("effect", "concept"))
def test_nothing_changed_scores_nothing_and_a_shift_of_logits_is_no_change(name: str) -> None:
    still = observation(moved=False)
    if name != "output_score":  # without the base term it is not a difference
        assert CRITERIA[name].score(still).abs().max() < 1e-5
    seen = observation()
    shifted = Observation(
        NextToken(seen.base.logits + 3), NextToken(seen.steered.logits - 5), seen.lens_top, seen.k, seen.concept
    )
    torch.testing.assert_close(CRITERIA[name].score(seen), CRITERIA[name].score(shifted), atol=2e-5, rtol=1e-4)
    assert CRITERIA[name].score(seen).abs().max() > 1e-4, "control: a real change scores"


def test_ranges() -> None:
    seen = observation()
    assert (CRITERIA["kl"].score(seen) >= 0).all()
    assert (CRITERIA["js"].score(seen) <= np.log(2)).all()
    assert ((output_score(seen) >= 0) & (output_score(seen) <= 1)).all()


def test_delta_confidence_has_the_papers_sign() -> None:
    """Sharpening the favourite lowers C: the score is negative; flattening raises it."""
    base = torch.tensor([[2.0, 1.0, 0.0]])
    steered = torch.tensor([[9.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    seen = Observation(NextToken(base), NextToken(steered), torch.zeros(2, 1, dtype=torch.long))
    sharp, flat = delta_confidence(seen).tolist()
    assert sharp < 0 < flat
    assert flat == pytest.approx(np.log(3) + log_softmax([2.0, 1.0, 0.0])[0])


def test_output_score_knows_which_token_rises() -> None:
    """A feature whose lens token becomes the favourite scores high; the same rise of another token scores low."""
    logits = torch.zeros(1, V)
    logits[0, 3] = 12.0
    lens = torch.tensor([[3, 4], [5, 6]])
    seen = Observation(NextToken(torch.zeros(1, V)), NextToken(logits.expand(2, V)), lens)
    own, foreign = output_score(seen).tolist()
    assert own > 0.99 > 0.01 > foreign


def test_concept_lift_ignores_a_lift_of_everything_rare() -> None:
    seen = observation(moved=False)
    lifted = seen.steered.logits.clone()
    lifted[:, :10] += 4.0  # the concept's tokens and its controls alike
    everything = Observation(seen.base, NextToken(lifted), seen.lens_top, 1, seen.concept)
    assert concept_lift(everything).abs().max() < 1e-4
    lifted[:, 3:10] -= 4.0
    own = Observation(seen.base, NextToken(lifted), seen.lens_top, 1, seen.concept)
    assert concept_lift(own).min() > 3.9
    with pytest.raises(UserError, match="concept"):
        concept_lift(Observation(seen.base, seen.steered, seen.lens_top))


def test_lens_moments_are_scipys() -> None:
    lens = torch.randn(4, V, generator=torch.Generator().manual_seed(1)) ** 3
    found = {name: CRITERIA[name].score(Lens(lens)) for name in that_read("lens")}
    np.testing.assert_allclose(found["lens_spread"], lens.numpy().std(-1), rtol=1e-4)
    np.testing.assert_allclose(found["lens_skew"], skew(lens.double().numpy(), axis=-1), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["lens_kurtosis"], kurtosis(lens.double().numpy(), axis=-1), rtol=1e-3)


def test_input_score_variants() -> None:
    """Three of four peaks are promoted, but only one of two distinct ones."""
    assert input_score([7, 7, 7, 9], [7, 8]) == 0.75
    assert input_score([7, 7, 7, 9], [7, 8], "set") == 0.5
    with pytest.raises(UserError, match="context"):
        input_score([], [7])


def test_random_control_is_named_and_blind() -> None:
    assert torch.equal(blind_score(50, 1), blind_score(50, 1))
    assert not torch.equal(blind_score(50, 1), blind_score(50, 2))


def test_an_unknown_criterion_gets_the_nearest_names() -> None:
    with pytest.raises(UserError, match="delta_confidence"):
        criteria_of(["delta_confidance"])
