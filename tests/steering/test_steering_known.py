"""Known answers of edits and of fitted directions, each beside what another definition would give."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saelab.lm.tiny import tiny_lm
from saelab.steering.concepts.directions import likelihood, linear, probe, reft_r1
from saelab.steering.concepts.directions.likelihood import Batch, _answer_nll
from saelab.steering.concepts.directions.method import Fitting
from saelab.steering.concepts.directions.pca import pca
from saelab.steering.concepts.examples import Examples, Pair, TextRows
from saelab.steering.edits import edit_of


@pytest.fixture(scope="module")
def lm():
    return tiny_lm(d_model=16)


def examples(lm, values: torch.Tensor, positive: list[bool]) -> Examples:
    """Texts of one row each."""
    rows = TextRows(values, torch.arange(len(values)), len(values))
    pairs = tuple(Pair(f"say {i}", f"word {i} and more") for i in range(len(values)))
    return Examples(lm, "resid_post.1", "c", pairs, rows, torch.tensor(positive))


def test_ablating_sets_the_coordinate_to_0_whatever_the_strength() -> None:
    v = torch.tensor([[0.6, 0.8]])
    x = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
    edit = edit_of("ablate", "resid_post.1", v, torch.tensor([7.0]), "all")
    out = edit.apply(x, torch.tensor([0]))
    assert torch.allclose(out @ v[0], torch.zeros(1, 2), atol=1e-6)
    assert torch.allclose(out[0, 0], torch.zeros(2), atol=1e-6) and float(out[0, 1] @ torch.tensor([0.8, -0.6])) > 0.7
    clamped = edit_of("subspace_clamp", "resid_post.1", v, torch.tensor([7.0]), "all").apply(x, torch.tensor([0]))
    assert torch.allclose(clamped @ v[0], torch.full((1, 2), 7.0), atol=1e-5), "control: to the strength"


def test_an_answers_token_is_predicted_from_the_position_before_it(lm) -> None:
    tokens = torch.tensor([[256, 20, 30, 40, 50]])
    answer = torch.tensor([[False, False, True, True, False]])
    batch = Batch(tokens, answer, answer)
    hidden = lm.run_to(tokens, ["resid_post.1"])["resid_post.1"]
    one = examples(lm, torch.zeros(2, 16), [True, False])
    found = _answer_nll(one, hidden, batch)
    logp = lm.logits(tokens).log_softmax(-1)[0]
    assert float(found) == pytest.approx(float(-(logp[1, 30] + logp[2, 40]) / 2), abs=1e-5)
    shifted = float(-(logp[2, 40] + logp[3, 50]) / 2)
    assert abs(float(found) - shifted) > 1e-3, "control: a token later"


def test_pca_is_of_the_spread_about_the_mean(lm) -> None:
    """A far mean along the first axis, spread along the second: uncentred, the mean itself would win."""
    values = torch.zeros(40, 16)
    values[:20, 0] = 10.0
    values[:20, 1] = torch.linspace(-1, 1, 20) + 0.5
    found = pca(examples(lm, values, [True] * 20 + [False] * 20), Fitting())
    assert abs(float(found.vector[1])) == pytest.approx(1.0, abs=1e-4)
    assert abs(float(linear.first_component(values[:20], centred=False)[0])) > 0.9, "control"


def test_a_probe_is_standardised_and_put_back_into_raw_units(lm) -> None:
    """Two axes that tell as well, one in units a hundred times larger: raw coefficients go as 1 / spread."""
    rng = np.random.default_rng(0)
    signal = np.repeat([1.0, -1.0], 200)
    values = 0.05 * rng.normal(size=(400, 16))
    values[:, 0] += signal
    values[:, 1] = 100 * (signal + 0.05 * rng.normal(size=400))
    found = probe.probe(examples(lm, torch.from_numpy(values).float(), [True] * 200 + [False] * 200), Fitting())
    assert float(found.vector[0] / found.vector[1]) == pytest.approx(100, rel=0.1)
    assert probe.STRENGTH == 1e-3


def test_reft_r1_has_its_papers_constants(lm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The push is the mean of the eight largest scores; the penalty grows to 0.005 times the mean of the others."""
    seen = {}

    def train(found, vector, change, fit, **how):
        seen.update(change=change, vector=vector, fit=fit, how=how)
        return vector

    monkeypatch.setattr(reft_r1, "train", train)
    shown = torch.zeros(4, 16)
    shown[:, :] = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    reft_r1.reft_r1(examples(lm, shown, [True, True, False, False]), Fitting())
    w = seen["vector"] / seen["vector"].norm()
    scores = torch.arange(1.0, 11.0)  # of ten editable positions; two more are not
    hidden = torch.cat([scores[:, None] * w, 50 * w.expand(2, -1)])[None]
    editable = torch.tensor([[True] * 10 + [False] * 2])
    edited, penalty = seen["change"](hidden, editable, 1.0)
    push = scores[2:].mean()
    assert torch.allclose((edited - hidden)[0, :10] @ w, push.expand(10), atol=1e-4)
    assert torch.equal(edited[0, 10:], hidden[0, 10:])
    assert float(penalty) == pytest.approx(0.005 * float(scores[:2].sum()) / 2, rel=1e-4)
    assert float(seen["change"](hidden, editable, 0.0)[1]) == 0.0, "control: none at the start"
    assert seen["fit"].clip == 1.0 and seen["how"]["both"] is True


def test_training_through_the_likelihood_has_axbenchs_schedule(lm) -> None:
    """Adam whose rate falls linearly to zero over epochs x batches; the first step of Adam is the rate itself."""
    fit = likelihood.Fit(epochs=1, batch=1, lr=0.1, texts=2, max_tokens=40)
    one = examples(lm, torch.ones(3, 16), [True, True, False])
    vector, moved = torch.zeros(16), []

    def change(hidden, editable, done):
        moved.append((done, vector.detach().clone()))
        return hidden + editable[..., None] * vector, vector.sum() * 0

    found = likelihood.train(one, vector, change, replace(fit), both=False, seed=0, name="x")
    assert [d for d, _ in moved] == [0.0, 0.5]
    assert float((moved[1][1] - moved[0][1]).abs().max()) == pytest.approx(0.1, rel=1e-2)
    assert float((found - moved[1][1]).abs().max()) <= 0.05 * 1.01, "half the rate in the second of two steps"
